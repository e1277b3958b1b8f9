"""Checks every byte of token rows against their manifest."""

from tonsai_jax.commands.verify import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

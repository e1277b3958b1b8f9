"""Train variants of a config, each on the same data in the same order, and compare them."""

from tonsai_jax.commands.ablate import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

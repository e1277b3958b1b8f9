"""Turns conversations into packed token rows, for training on the answers only (SFT)."""

from tonsai_jax.commands.prepare_sft import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

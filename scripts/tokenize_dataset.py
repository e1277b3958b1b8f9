"""Turns prepared documents into token ids for training and validation."""

from tonsai_jax.commands.tokenize import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

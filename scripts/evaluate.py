"""Measures a trained model on held-out text: bits per byte of every source and every language."""

from tonsai_jax.commands.evaluate import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

"""Prepares raw text (local files or Hugging Face datasets): writes clean documents for tokenizer and training."""

from tonsai_jax.commands.prepare import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

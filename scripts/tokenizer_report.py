"""Measure how well a tokenizer does on text, by language, and compare it with other tokenizers."""

from tonsai_jax.commands.tokenizer_report import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

"""Add tokens of one more language to the tokenizer of a model; no id of it changes."""

from tonsai_jax.commands.extend_tokenizer import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

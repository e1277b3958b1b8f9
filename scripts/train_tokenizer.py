"""Train a tokenizer that handles Khmer well, byte-level BPE or Unigram, on prepared documents or on raw text files."""

from tonsai_jax.commands.train_tokenizer import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

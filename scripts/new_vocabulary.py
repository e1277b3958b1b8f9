"""Give a model another vocabulary: one row of its embedding for each id of the new tokenizer, all other weights as they are."""

from tonsai_jax.commands.new_vocabulary import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

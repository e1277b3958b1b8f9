"""The Khmer scorecard of a model, from files that were downloaded once."""

from tonsai_jax.commands.scorecard import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

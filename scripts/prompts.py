"""Let a model continue a suite of prompts and check its texts."""

from tonsai_jax.commands.prompts import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

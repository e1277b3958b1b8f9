"""Scores a model on tasks: questions with choices, missing words."""

from tonsai_jax.commands.tasks import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

"""Export a trained model in Hugging Face format, and optionally upload it to the Hub."""

from tonsai_jax.commands.export import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

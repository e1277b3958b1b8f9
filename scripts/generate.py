"""Continue text with a trained model. The text for one prompt appears as it is generated; several prompts share a batch."""

from tonsai_jax.commands.generate import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

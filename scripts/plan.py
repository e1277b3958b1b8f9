"""What to train with your text and budget: size, steps, mix and epochs, and the bits per byte to expect."""

from tonsai_jax.commands.plan import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

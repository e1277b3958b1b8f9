"""Chat with a trained model, in the terminal or on a local web page. Each line of standard input is a message."""

from tonsai_jax.commands.chat import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

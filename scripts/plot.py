"""Draw the curves of one or several runs: loss, bits per byte by language, speed."""

from tonsai_jax.commands.plot import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

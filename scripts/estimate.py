"""What a run needs before it starts: memory, largest micro-batch, speed, hours, cost and collectives on a GPU of your choice."""

from tonsai_jax.commands.estimate import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

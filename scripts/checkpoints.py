"""List, verify, prune or compare the checkpoints of a run; or verify an exported model."""

from tonsai_jax.commands.checkpoints import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

"""Improves a chat model by practice (GRPO): it answers prompts, a rule rewards the answers, better ones become more likely."""

from tonsai_jax.commands.grpo import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

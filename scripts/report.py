"""Make the report of a run, or compare several: one HTML page with curves, samples, scores, configuration, data and cost."""

from tonsai_jax.commands.report import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)

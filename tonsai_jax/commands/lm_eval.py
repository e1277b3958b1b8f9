"""Runs lm-eval (the Language Model Evaluation Harness) on a model of ours, without an export."""

import sys

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError

EXAMPLE = """example:
  tonsai lm-eval --workdir runs/gpt2 --tasks arc_easy belebele_khm_Khmr --limit 100
  tonsai lm-eval --model export/gpt2 --tasks lambada_openai --output_path scores

All other flags are lm-eval's: `lm-eval run --help` lists them, `lm-eval ls tasks` its tasks.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    parser.add_model()
    args, others = parser.parse_known_args()
    if args.model is not None and args.step is not None:
        raise UserError("--step is a checkpoint of a run; give it with --workdir, not with --model")

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise UserError(
            "lm-eval is not installed; it comes with the `lm-eval` extra: uv sync --inexact --extra lm-eval"
        ) from None
    import tonsai_jax.evaluation.lm_eval_model  # noqa: F401  # registers the model

    named = {"workdir": args.workdir, "model": args.model, "step": args.step}
    model_args = [f"{name}={value}" for name, value in named.items() if value is not None]
    sys.argv = ["tonsai lm-eval", "run", "--model", "tonsai", "--model_args", *model_args, *others]
    try:
        cli_evaluate()
    except ValueError as error:
        if not str(error).startswith("Tasks not found"):
            raise
        raise UserError(f"lm-eval: {error}; `lm-eval ls tasks` lists them") from None

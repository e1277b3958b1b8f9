"""Runs lm-eval (the Language Model Evaluation Harness) on a model of ours, without an export."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError

_NETWORK_LIBRARIES = ("huggingface_hub", "datasets", "requests", "httpx", "httpcore", "aiohttp", "urllib3")
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
        with _mistakes_in_flags():
            cli_evaluate()
    except UserError:
        raise
    except Exception as error:
        if not _is_from_outside(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"lm-eval: {reason}; {_way_out(error, reason)}") from error


@contextlib.contextmanager
def _mistakes_in_flags() -> Iterator[None]:
    """lm-eval's own parser prints its usage; here a mistake is one line, as in the other commands."""

    def error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise UserError(f"lm-eval: {message} (`lm-eval run --help` lists the flags)")

    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = error  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign, assignment]


def _is_from_outside(error: Exception) -> bool:
    """Whether a value, a file or the network is at fault; anything else is a defect, whose stack trace is needed."""
    kinds = (ValueError, OSError, NotImplementedError)
    return isinstance(error, kinds) or type(error).__module__.startswith(_NETWORK_LIBRARIES)


def _way_out(error: Exception, reason: str) -> str:
    if reason.startswith("Tasks not found"):
        return "`lm-eval ls tasks` lists them"
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_NETWORK_LIBRARIES):
        return "the data of its tasks comes from the Hub: check the network, and that HF_HUB_OFFLINE is not set"
    return "check the values of the flags (`lm-eval run --help`), and that the task's dataset exists"

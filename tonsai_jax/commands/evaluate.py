"""Measures bits per byte and perplexity: of a run on its held-out text, or of any model on your text files.

With --ensemble, of several runs as one model: the mean of their log-probabilities, normalized again (docs/low_data.md).
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tonsai_jax.commands.parser import CommandParser, open_model
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tonsai_jax.inference.load import LanguageModel, Run

EXAMPLE = """example:
  tonsai evaluate --workdir runs/gpt2
  tonsai evaluate --workdir runs/gpt2 --data-dir data/other_tokens --json scores.json
  tonsai evaluate --workdir runs/gpt2 --text km=news.txt wiki.jsonl en=books.txt.gz
  tonsai evaluate --ensemble runs/seed0 runs/seed1 runs/seed2 --text km=news.txt
  tonsai evaluate --model hf:HuggingFaceTB/SmolLM2-135M --text km=news.txt wiki.jsonl en=books.txt.gz
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    parser.add_model().add_argument(
        "--ensemble",
        nargs="+",
        metavar="DIR",
        help="folders of runs with one tokenizer: score the mean of their predictions; --step is for each of them",
    )
    add("--data-dir", metavar="DIR", help="token rows to evaluate on (default: those that the run was trained on)")
    add(
        "--text",
        nargs="+",
        action="extend",
        metavar="LANGUAGE=FILE",
        help="evaluate on text instead: files, folders or globs of what tonsai prepare reads; more files of a language "
        "follow its first one without LANGUAGE=",
    )
    add(
        "--document",
        choices=("line", "paragraph", "file"),
        help="what a document of a txt file is (default: a line; a paragraph where lines are wrapped)",
    )
    add("--text-column", metavar="NAME", help="field of the text in jsonl, csv and parquet files (default: guessed)")
    add(
        "--seq-len",
        type=int,
        metavar="T",
        help="tokens that the model reads at once (default: of rows the longest of the run; of text the model's context, at "
        "most 8192)",
    )
    add(
        "--stride",
        type=int,
        metavar="S",
        help="read documents of more than T tokens in windows that move on by S tokens, so that each token has at least "
        "T - S before it; slower (default: T, no overlap)",
    )
    add("--batch-size", type=int, metavar="B", help="sequences per batch (default: 8; of text what fits the machine)")
    add(
        "--tokens",
        type=int,
        default=0,
        metavar="N",
        help="tokens of rows to score, shared between the sources (default: 0, all)",
    )
    parser.add_json()
    args = parser.parse_args()
    _check(args)

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    if args.text:
        _evaluate_text(args)
    else:
        _evaluate_rows(args)


def _check(args: argparse.Namespace) -> None:
    """Raises `UserError` for values out of range, and for flags that do not belong together."""
    if (args.batch_size is not None and args.batch_size < 1) or args.tokens < 0:
        raise UserError(
            f"--batch-size must be at least 1 (it is {args.batch_size}) and --tokens at least 0 (it is {args.tokens})"
        )
    if args.text:
        wrong, of = (
            {"--data-dir": args.data_dir, "--tokens": args.tokens or None},
            "token rows, not for --text",
        )
    else:
        wrong = {"--stride": args.stride, "--document": args.document, "--text-column": args.text_column}
        of = "text files; name them with --text km=FILE"
        if args.model:
            raise UserError(
                f"--model {args.model}: only a run has held-out rows; name text to evaluate on with --text km=FILE"
            )
    for flag, value in wrong.items():
        if value is not None:
            raise UserError(f"{flag} is for {of}")


def _evaluate_rows(args: argparse.Namespace) -> None:
    from tonsai_jax.data.manifest import read_manifest
    from tonsai_jax.evaluation.run import evaluate_run

    runs = _runs(args)
    workdir = runs[0].name
    data_dir = args.data_dir or runs[0].config.data.dir
    if not data_dir:
        raise UserError(f"{workdir}: this run learned without token rows; name those to evaluate on with --data-dir")
    if args.data_dir is None and not Path(data_dir).is_dir():
        raise UserError(
            f"{workdir}: this run was trained on {data_dir}, and there is no such folder here; run this in the folder "
            "where the run was started, or name the rows with --data-dir"
        )
    found = evaluate_run(
        runs[0],
        read_manifest(data_dir),
        *runs[1:],
        seq_len=args.seq_len,
        batch_size=args.batch_size or 8,
        max_tokens=args.tokens,
    )
    print(f"{_name(runs)}: bits per byte of held-out text, lower is better")
    print(found.table())
    if args.json:
        scalars = found.evaluation().scalars()
        step = {"ensemble": _checkpoints(runs)} if args.ensemble else {"step": runs[0].step}
        write_json(args.json, {**step, **scalars, "scores": found.records()})


def _evaluate_text(args: argparse.Namespace) -> None:
    from tonsai_jax.evaluation.documents.scorer import DocumentScorer
    from tonsai_jax.evaluation.documents.text_files import score_texts, task_scores
    from tonsai_jax.evaluation.documents.text_sources import text_sources
    from tonsai_jax.evaluation.task_scores import write_scores
    from tonsai_jax.inference.load import Run

    sources = text_sources(args.text, args.document, args.text_column)
    models = [open_model(args)] if args.model else _runs(args)
    scorer = DocumentScorer(*models, seq_len=args.seq_len, stride=args.stride, batch_size=args.batch_size)
    found = score_texts(scorer, sources, lambda line: print(f"note: {line}", file=sys.stderr))
    print(
        f"{_name(models)}: bits per byte, lower is better; windows of {scorer.seq_len} tokens, stride {scorer.stride}, "
        f"{scorer.dtype}"
    )
    print(found.table())
    model = models[0]
    if isinstance(model, Run) and not args.ensemble:
        print(f"written to {write_scores(model.workdir, 'text', model.step, task_scores(found))}")
    if args.json:
        settings = {"seq_len": scorer.seq_len, "stride": scorer.stride, "dtype": scorer.dtype}
        of: dict[str, Any] = {"model": model.name, "step": model.step if isinstance(model, Run) else None}
        if args.ensemble:
            of = {"ensemble": _checkpoints(models)}
        write_json(args.json, {**of, **settings, "scores": found.records()})


def _runs(args: argparse.Namespace) -> "list[Run]":
    """The runs of --ensemble, or the one of --workdir."""
    from tonsai_jax.inference.load import load_ensemble, load_run

    return load_ensemble(args.ensemble, args.step) if args.ensemble else [load_run(args.workdir, args.step)]


def _name(models: "Sequence[LanguageModel]") -> str:
    steps = [getattr(model, "step", None) for model in models]
    names = [
        model.name if step is None else f"{model.name}, step {step}" for model, step in zip(models, steps, strict=True)
    ]
    return names[0] if len(names) == 1 else f"ensemble of {len(names)} ({'; '.join(names)})"


def _checkpoints(runs: "Sequence[LanguageModel]") -> list[dict[str, object]]:
    return [{"model": run.name, "step": getattr(run, "step", None)} for run in runs]

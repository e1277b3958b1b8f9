"""The Khmer scorecard of a model, from files that were downloaded once: bits per byte, translation, topics of sentences."""

import dataclasses
import sys
from pathlib import Path

from tonsai_jax.commands.parser import CommandParser, open_model
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.task_scores import TaskScore, write_scores
from tonsai_jax.files import write_json
from tonsai_jax.reporting.numbers import format_known
from tonsai_jax.reporting.tables import Table, as_text

NAME = "scorecard"  # of the file in the run's folder of evaluations
EXAMPLE = """example:
  tonsai scorecard --workdir runs/gpt2 --data downloads
  tonsai scorecard --model hf:Qwen/Qwen3-0.6B --data downloads --json qwen.json
  tonsai scorecard --workdir runs/gpt2 --data downloads --limit 16       # a quick look

docs/scorecard.md says what to download. A test set that is not there, or damaged, is one line on stderr; the others go on, and
the exit code is 1 at the end. Without --limit: 256 sentences for bits per byte, 64 for each direction of translation, 204 for
topics; with --limit 0, all of them, which is for a GPU.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    parser.add_model()
    add("--data", type=Path, required=True, metavar="DIR", help="folder with the downloaded test sets")
    add("--limit", type=int, metavar="N", help="sentences of each task, evenly spread; 0 for all (default: see below)")
    parser.add_json()
    args = parser.parse_args()
    if args.limit is not None and args.limit < 0:
        raise UserError(f"--limit must be at least 0 (it is {args.limit})")
    if not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder; docs/scorecard.md says what to download into it")

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    from tonsai_jax.evaluation.scorecard import scorecard
    from tonsai_jax.inference.load import Run

    model = open_model(args)
    step = model.step if isinstance(model, Run) else None
    failed: list[str] = []

    def report(message: str) -> None:
        failed.append(message)
        print(f"error: {message}", file=sys.stderr)

    scores: list[TaskScore] = []
    try:
        scores.extend(scorecard(model, args.data, limit=args.limit, failed=report))
    finally:  # what stops the command loses no score
        if scores and isinstance(model, Run):
            write_scores(model.workdir, NAME, model.step, scores)
    if scores:
        print(f"{model.name}{'' if step is None else f', step {step}'}: the Khmer scorecard")
        print(as_text(_table(scores)))
    if args.json:
        figures = [dataclasses.asdict(score) for score in scores]
        write_json(args.json, {"model": model.name, "step": step, "scores": figures, "failed": failed})
    if failed:
        sys.exit(1)


def _table(scores: list[TaskScore]) -> Table:
    rows = []
    for score in scores:
        spec = ".1f" if score.metric == "chrf++" else ".3f"
        known = score.low is not None and score.high is not None
        rows.append(
            (
                score.task,
                score.metric,
                format(score.value, spec),
                f"{score.low:{spec}} to {score.high:{spec}}" if known else "-",
                format_known(score.chance, spec),
                f"{score.n:,}",
                str(score.shots),
                "at chance" if score.at_chance else "",
            )
        )
    return Table("", ("task", "metric", "value", "95 % interval", "chance", "n", "shots", ""), rows, "llrrrrrl")

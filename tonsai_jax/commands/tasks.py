"""Scores a model on tasks: questions with choices, missing words, translations, short answers (MKQA).

Each score comes with its error and its chance level.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from tonsai_jax.commands.parser import CommandParser, open_model
from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.evaluation.task_scores import TaskScore, write_scores
from tonsai_jax.evaluation.tasks.registry import TASKS
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.files import write_json
from tonsai_jax.reporting.numbers import format_known
from tonsai_jax.reporting.tables import Table, as_text

_HEADS = ("task", "metric", "value", "95 % interval", "chance", "items", "shots", "")
_METRIC_WIDTH = len("accuracy_characters")  # the longest
NAME = "tasks"  # of the file in the run's folder of evaluations
EXAMPLE = """example:
  tonsai tasks --list
  tonsai tasks --workdir runs/gpt2 belebele_km belebele_en hellaswag
  tonsai tasks --model export/gpt2 arc_easy --shots 5 --limit 200 --json scores.json
  tonsai tasks --workdir runs/gpt2 belebele_km --data downloads       # reads downloads/belebele_km.jsonl

A task that cannot be run (no network and no file, a record that is not what it needs) is one line on stderr; the other tasks go
on, and the exit code is 1 at the end. Scores are printed and kept after each task, so that a later failure loses none.
"""


class _List(argparse.Action):
    """--list: like --help, it needs none of the other flags."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        rows = [
            (task.name, task.language, task.metric, format_known(task.chance, ".2f"), task.data, task.small_models)
            for task in TASKS.values()
        ]
        heads = ("task", "language", "metric", "chance", "data", "models below 1 B parameters")
        print(as_text(Table("", heads, rows, "lllrll")))
        parser.exit()


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    parser.add_model()
    add("tasks", nargs="+", metavar="TASK", help="names of tasks, see --list")
    add("--list", action=_List, nargs=0, help="print all tasks with chance level and source of the data, then exit")
    add("--data", type=Path, metavar="DIR", help="folder with downloaded files, TASK.jsonl (default: from the Hub)")
    add("--limit", type=int, metavar="N", help="only the first N items of each task")
    add("--shots", type=int, default=0, metavar="K", help="worked examples before each item (default: 0)")
    parser.add_json()
    args = parser.parse_args()
    if args.shots < 0 or (args.limit is not None and args.limit < 1):
        raise UserError(f"--shots must be at least 0 (it is {args.shots}) and --limit at least 1 (it is {args.limit})")
    for name in args.tasks:
        if name not in TASKS:
            raise unknown_name("TASK", name, TASKS)
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder")

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    from tonsai_jax.inference.load import Run

    opened = open_model(args)
    step = opened.step if isinstance(opened, Run) else None
    print(f"{opened.name}{'' if step is None else f', step {step}'}: scores with their 95 % interval")
    model, options = TaskModel(opened), TaskOptions(args.data, args.limit, args.shots)
    figures: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    names = list(dict.fromkeys(args.tasks))
    for name in names:
        try:
            scores = TASKS[name].score(model, options)
        except UserError as error:
            failed[name] = str(error)
            print(f"error: {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)
        else:
            print("\n".join(_lines(scores, max(map(len, names)), with_heads=not figures)), flush=True)
            figures += [dataclasses.asdict(score) for score in scores]
            if isinstance(opened, Run):
                write_scores(opened.workdir, NAME, opened.step, scores)
        if args.json:
            write_json(args.json, {"model": opened.name, "step": step, "scores": figures, "failed": failed})
    if failed:
        sys.exit(1)


def _lines(scores: list[TaskScore], width: int, *, with_heads: bool) -> list[str]:
    """The rows of one task, as wide as those of the others, since each task is printed when it is done."""
    rows = [
        (
            score.task.ljust(width),
            score.metric.ljust(_METRIC_WIDTH),
            f"{score.value:.4f}".rjust(9),
            f"{format_known(score.low, '.4f')} to {format_known(score.high, '.4f')}".rjust(20),
            format_known(score.chance, ".4f").rjust(7),
            f"{score.n:,}".rjust(7),
            str(score.shots),
            "at chance" if score.at_chance else "",
        )
        for score in scores
    ]
    lines = as_text(Table("", _HEADS, rows, "llrrrrrl")).splitlines()
    return lines if with_heads else lines[1:]

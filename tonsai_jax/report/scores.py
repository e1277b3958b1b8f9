"""Scores of tasks with their errors, next to chance and to what has been published of other models."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.report.run import RunRecord
from tonsai_jax.reporting.chart import Interval, interval_chart

PUBLISHED = Path(__file__).with_name("published.json")
_PUBLISHED_COLOR = 7  # gray
_SHARES = {"f1", "exact_match"}  # from 0 to 1, as every accuracy; a chrF++ below 1 is not one, so values do not tell


class TaskChart(NamedTuple):
    """A figure of a task: its title, a line about it, the chart, and the sources of the published scores in it."""

    title: str
    about: str
    drawing: Markup
    sources: list[tuple[str, str]]


@cache
def published() -> tuple[dict[str, Any], ...]:
    """Published scores: dicts with model, task, metric, value (in the unit of `TaskScore`), shots, source, url and quote."""
    return tuple(json.loads(PUBLISHED.read_text(encoding="utf-8"))["scores"])


def task_charts(runs: Sequence[RunRecord]) -> tuple[list[TaskChart], list[TaskChart]]:
    """Charts with a row for each score of a run and for each published one: of the first figure of each task, and of its others.

    One task can be scored with different examples in the prompt and different chance: each row says which it is.
    """
    found: dict[tuple[str, str], list[tuple[int, int, str, TaskScore]]] = {}
    for number, run in enumerate(runs):
        for name, (step, scores) in run.evaluations.items():
            for score in scores:
                found.setdefault((score.task, score.metric), []).append((number, step, name, score))
    first = {task: metric for task, metric in reversed(found)}
    charts = [(first[task] == metric, _chart(task, metric, rows, runs)) for (task, metric), rows in found.items()]
    return [chart for is_first, chart in charts if is_first], [chart for is_first, chart in charts if not is_first]


def _chart(
    task: str, metric: str, rows: Sequence[tuple[int, int, str, TaskScore]], runs: Sequence[RunRecord]
) -> TaskChart:
    scores = [score for *_, score in rows]
    chances = {score.chance for score in scores}
    same_chance = next(iter(chances)) if len(chances) == 1 else None  # else each row names its own
    others = [each for each in published() if each["task"] == task and each["metric"] == metric]
    is_share = metric.startswith("accuracy") or metric in _SHARES
    ends = [
        value for score in scores for value in (score.value, score.low, score.high, score.chance) if value is not None
    ]
    ends += [each["value"] for each in others]
    high = 1.0 if is_share else 1.08 * max(ends, default=1.0) or 1.0
    bars = []
    for number, step, name, score in rows:
        error = ""
        if score.low is not None and score.high is not None:
            error = f" ± {_format((score.high - score.low) / 2, is_share, high)}"
        about = [f"step {step:,}"] if len(runs) > 1 else []
        about += [name, *([f"{score.shots}-shot"] if metric != "bits_per_byte" else []), f"n = {score.n:,}"]
        if score.chance is not None and score.chance != same_chance:
            about.append(f"chance {_format(score.chance, is_share, high)}")
        bars.append(
            Interval(
                runs[number].name if len(runs) > 1 else f"step {step:,}",
                score.value,
                score.low,
                score.high,
                _format(score.value, is_share, high) + error,
                number,
                ", ".join([*about, "at chance"] if score.at_chance else about),
                score.chance,
            )
        )
    shots = {score.shots for score in scores}
    sources = []
    for each in sorted(others, key=lambda other: -other["value"] if scores[0].higher_is_better else other["value"]):
        about = ["published"]
        if each["shots"] not in shots:
            about.append(f"{each['shots']}-shot: not the same prompt")
        elif len(shots) > 1:
            about.append(f"{each['shots']}-shot")
        about += [each["remark"]] if each.get("remark") else []
        value = _format(each["value"], is_share, high)
        bars.append(
            Interval(each["model"], each["value"], None, None, value, _PUBLISHED_COLOR, ", ".join(about), same_chance)
        )
        if (each["source"], each["url"]) not in sources:
            sources.append((each["source"], each["url"]))
    of_chart = f"{metric}; {'higher is better' if scores[0].higher_is_better else 'lower is better'}"
    if same_chance is not None:
        of_chart += f"; dashed: chance, {_format(same_chance, is_share, high)}"
    elif len(chances) > 1:
        of_chart += "; dashed: chance of each row"
    return TaskChart(task, of_chart, interval_chart(bars, low=0.0, high=high), sources)


def _format(value: float | None, is_share: bool, largest: float) -> str:
    if value is None:
        return "-"
    if is_share:
        return f"{100 * value:.1f} %"
    return f"{value:.{3 if largest < 10 else 1}f}"

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
    """Charts with a row for each run and for each published score: of the first figure of each task, and of its others."""
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
    chance = next((score.chance for score in scores if score.chance is not None), None)
    others = [each for each in published() if each["task"] == task and each["metric"] == metric]
    is_share = metric.startswith("accuracy") or metric in _SHARES
    ends = [value for score in scores for value in (score.value, score.low, score.high) if value is not None]
    ends += [each["value"] for each in others] + ([chance] if chance is not None else [])
    high = 1.0 if is_share else 1.08 * max(ends, default=1.0) or 1.0
    bars = []
    for number, step, name, score in rows:
        error = f" ± {_format(score.stderr, is_share, high)}" if score.stderr is not None else ""
        shots = f", {score.shots}-shot" if score.shots else ", 0-shot"
        bars.append(
            Interval(
                runs[number].name if len(runs) > 1 else f"step {step:,}",
                score.value,
                score.low,
                score.high,
                _format(score.value, is_share, high) + error,
                number,
                (f"step {step:,}, " if len(runs) > 1 else "")
                + f"{name}{shots}, n = {score.n:,}"
                + (", at chance" if score.at_chance else ""),
            )
        )
    ours = {score.shots for score in scores}
    sources = []
    for each in sorted(others, key=lambda other: -other["value"] if scores[0].higher_is_better else other["value"]):
        differs = "" if {each["shots"]} == ours else f"{each['shots']}-shot: not the same prompt"
        bars.append(
            Interval(each["model"], each["value"], None, None, _format(each["value"], is_share, high), _PUBLISHED_COLOR,
                     ", ".join(filter(None, ("published", differs, each.get("remark", "")))))
        )  # fmt: skip
        if (each["source"], each["url"]) not in sources:
            sources.append((each["source"], each["url"]))
    better = "higher is better" if scores[0].higher_is_better else "lower is better"
    about = f"{metric}; {better}" + (
        f"; dashed: chance, {_format(chance, is_share, high)}" if chance is not None else ""
    )
    return TaskChart(task, about, interval_chart(bars, low=0.0, high=high, mark=chance), sources)


def _format(value: float | None, is_share: bool, largest: float) -> str:
    if value is None:
        return "-"
    if is_share:
        return f"{100 * value:.1f} %"
    return f"{value:.{3 if largest < 10 else 1}f}"

"""The page of an ablation: its tables, its loss curves against steps, tokens and time, and the keys that each variant sets."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.ablation.results import Point, RunResult
from tonsai_jax.ablation.tables import tables
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.plot import Line, legend, line_plot
from tonsai_jax.reporting.tables import Table

SMOOTHED_SHARE = 0.05  # of a curve's points: the window of the running mean

_AXES: tuple[tuple[str, Callable[[Point], float]], ...] = (
    ("steps", lambda point: point.step),
    ("tokens", lambda point: point.tokens),
    ("seconds of training", lambda point: point.seconds),
)


def write_report(
    path: Path,
    *,
    about: str,
    summary: Mapping[str, Any],
    runs: Sequence[PlannedRun],
    results: Mapping[Path, RunResult],
) -> None:
    """Writes the page.

    Args:
      path: the HTML file to write.
      about: a sentence or two on what the ablation compares.
      summary: the figures, as `summarize` returns them.
      runs: all planned runs.
      results: the result of each run, by its workdir.
    """
    variants = list(summary["variants"])
    plots = []
    for x_label, x_of in _AXES:
        lines = [
            line for number, variant in enumerate(variants) for line in _lines(number, variant, runs, results, x_of)
        ]
        plots.append((f"Loss against {x_label}", line_plot(lines, x_label=x_label, y_label="loss")))
    write_page(
        path,
        Path(__file__).with_name("report.html"),
        title=summary["ablation"],
        lead=about,
        figures=tables(summary),
        legend=legend(variants),
        plots=plots,
        settings=_settings(summary),
        failures=_failures(summary),
    )


def _lines(
    color: int,
    variant: str,
    runs: Sequence[PlannedRun],
    results: Mapping[Path, RunResult],
    x_of: Callable[[Point], float],
) -> list[Line]:
    own = [run for run in runs if run.variant == variant]
    lines = []
    for run in own:
        points = [(x_of(point), point.loss) for point in results[run.workdir].curve if point.loss is not None]
        lines.append(Line(f"{variant}, seed {run.seed}", color, points, light=True))
    complete = [results[run.workdir].curve for run in own if results[run.workdir].complete]
    return [*lines, Line(variant, color, mean_curve(complete, x_of))]


def mean_curve(curves: Sequence[Sequence[Point]], x_of: Callable[[Point], float]) -> list[tuple[float, float]]:
    """The mean of several curves, smoothed: (x, loss) at each step that all curves have a loss for."""
    by_step = [{point.step: point for point in curve if point.loss is not None} for curve in curves]
    steps = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    xs = [statistics.fmean(x_of(points[step]) for points in by_step) for step in steps]
    losses = [statistics.fmean(points[step].loss or 0.0 for points in by_step) for step in steps]
    reach = int(len(steps) * SMOOTHED_SHARE / 2)
    smooth = []
    for number, x in enumerate(xs):
        around = min(reach, number, len(xs) - 1 - number)  # as many points before as after, or the line would shift
        smooth.append((x, statistics.fmean(losses[number - around : number + around + 1])))
    return smooth


def _settings(summary: Mapping[str, Any]) -> Table:
    rows = [
        [variant, ", ".join(f"{key}={value}" for key, value in figures["overrides"].items()) or "nothing"]
        for variant, figures in summary["variants"].items()
    ]
    note = f"In addition to {summary['base']} and to the keys that all variants share."
    return Table("What each variant sets", ["variant", "keys"], rows, "ll", note)


def _failures(summary: Mapping[str, Any]) -> Table:
    rows = [[run["variant"], str(run["seed"]), run["failure"]] for run in summary["runs"] if run["failure"]]
    return Table("Failed runs", ["variant", "seed", "reason"], rows, "lrl", "Of the last call.")

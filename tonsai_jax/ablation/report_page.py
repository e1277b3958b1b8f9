"""The page of an ablation: its tables, its curves against steps, tokens and time, and what each variant sets."""

import html
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.ablation.results import Point, RunResult
from tonsai_jax.ablation.summary import tables
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.plot import STYLE, Line, legend, line_plot
from tonsai_jax.reporting.tables import Table, as_html

SMOOTHED_SHARE = 0.05  # of the points of a curve: the bold line is a running mean over so many

_CURVES = (
    "Loss of training. Bold: the mean over the seeds that are complete, as a running mean over a twentieth of the points. "
    "Light: the single seeds as they are, runs that are not complete too. The pointer tells the name of a line."
)


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
      about: a sentence or two on what is compared.
      summary: from `summarize`.
      results: of the runs, by their workdirs.
    """
    variants = list(summary["variants"])
    body = [f"<h1>{_text(summary['ablation'])}</h1>", f'<p class="lead">{_text(about)}</p>']
    body += [as_html(table) for table in tables(summary)]
    body += [f'<h2>Curves</h2><p class="lead">{_text(_CURVES)}</p>']
    for x_label, x_of in _AXES:
        lines = [
            line for number, variant in enumerate(variants) for line in _lines(number, variant, runs, results, x_of)
        ]
        plot = line_plot(lines, x_label=x_label, y_label="loss")
        title = f"<h3>Loss against {x_label}</h3>{legend(variants)}"
        body.append(f'<section class="plot">{title}<div class="wide">{plot}</div></section>')
    body += [as_html(_settings(summary))]
    failed = [run for run in summary["runs"] if run["failure"]]
    if failed:
        rows = [[run["variant"], str(run["seed"]), run["failure"]] for run in failed]
        body.append(as_html(Table("What failed", "In the last call.", ["variant", "seed", "why"], rows, 3)))
    write_page(path, title=summary["ablation"], style=STYLE, body=body)


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
    """(x, loss) at the steps that all curves have, the mean over them, smoothed over the points around."""
    by_step = [{point.step: point for point in curve if point.loss is not None} for curve in curves]
    steps = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    xs = [statistics.fmean(x_of(points[step]) for points in by_step) for step in steps]
    losses = [statistics.fmean(points[step].loss or 0.0 for points in by_step) for step in steps]
    reach = int(len(steps) * SMOOTHED_SHARE / 2)
    smooth = []
    for number, x in enumerate(xs):
        around = min(reach, number, len(xs) - 1 - number)  # as many before as after, or the line would shift
        smooth.append((x, statistics.fmean(losses[number - around : number + around + 1])))
    return smooth


def _settings(summary: Mapping[str, Any]) -> Table:
    rows = [
        [variant, ", ".join(f"{key}={value}" for key, value in figures["overrides"].items()) or "nothing"]
        for variant, figures in summary["variants"].items()
    ]
    note = f"Beside {summary['base']} and what all variants share."
    return Table("What each variant sets", note, ["variant", "keys"], rows, 2)


def _text(text: str) -> str:
    return html.escape(text)

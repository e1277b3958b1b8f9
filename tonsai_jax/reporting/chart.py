"""Charts for a page that includes `chart.css`: they take the width of the reader's screen, and their text keeps its size.

A chart is an SVG that is stretched to its box, between labels in HTML; it needs no script.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from tonsai_jax.reporting.plot import Line, color_class, format_tick, ticks

SIZE = 1000  # units of the SVG along each axis
COLUMNS = 400  # a curve keeps the lowest and the highest value of each
NUM_SHADES = 9  # that chart.css defines


class Interval(NamedTuple):
    """A row of `interval_chart`: a value with the ends of its confidence interval, None where these are not known.

    `mark` is a value with a dashed line through the row, such as chance.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    color: int = 0
    note: str = ""
    mark: float | None = None


def line_chart(
    lines: Sequence[Line], *, x_label: str, y_label: str, log_y: bool = False, from_zero: bool = False
) -> Markup:
    """Lines over a common x axis that starts at 0.

    The y axis covers the values after the first twentieth of the x axis: before that a loss falls so steeply that the rest
    of the curve would look flat. A curve of very many points keeps its spikes.

    Args:
      log_y: a logarithmic y axis; values of 0 and less are left out.
      from_zero: the y axis begins at 0, so that heights can be compared.
    """
    if log_y:
        lines = [line._replace(points=[(x, y) for x, y in line.points if y > 0]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("<p>There is nothing to plot yet.</p>")
    x_end = max(line.points[-1][0] for line in lines)
    x_end = x_end if x_end > 0 else 1.0
    lines = [line._replace(points=thinned(line.points, x_end)) for line in lines]
    points = [point for line in lines for point in line.points]
    shown = [y for x, y in points if x >= x_end / 20] or [y for _, y in points]
    shown += [0.0] if from_zero else []
    y_ticks = _log_ticks(min(shown), max(shown)) if log_y else ticks(min(shown), max(shown))
    scale = math.log if log_y else float
    bottom, top = scale(y_ticks[0]), scale(y_ticks[-1])

    y_labels, grid = [], []
    for y in y_ticks:
        down = (top - scale(y)) / (top - bottom)
        text = f"{y:g}" if log_y else format_tick(y, y_ticks)
        y_labels.append(f'<span style="top:{100 * down:.2f}%">{text}</span>')
        grid.append(f"M0 {SIZE * down:.0f}H{SIZE}")
    drawn = []
    for line in sorted(lines, key=lambda line: not line.light):
        kept = line.points if len(line.points) > 1 else [*line.points] * 2  # a single point becomes a dot
        at = " ".join(f"{SIZE * x / x_end:.0f},{SIZE * (top - scale(y)) / (top - bottom):.0f}" for x, y in kept)
        kind = color_class(line.color) + (" light" if line.light else "")
        drawn.append(f'<polyline class="{kind}" points="{at}"><title>{escape(line.name)}</title></polyline>')
    label = escape(f"{y_label} against {x_label}")
    return Markup(
        f'<figure class="chart" role="img" aria-label="{label}"><div class="frame"><div class="y">{"".join(y_labels)}</div>'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none"><path class="grid" d="{"".join(grid)}"/>'
        f'{"".join(drawn)}</svg><div class="x">{_x_labels(x_end)}</div></div>'
        f"<figcaption>{escape(x_label)}</figcaption></figure>"
    )


def heat_chart(
    names: Sequence[str],
    xs: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    x_label: str,
    low: float,
    high: float,
) -> Markup:
    """A row for each name, a column for each x, in shades from `low` to `high`; a value outside has the shade of that end.

    Args:
      values: a row for each name with a value for each x; NaN is left empty.
    """
    by_shade: dict[int, list[str]] = {}
    for row, of_name in enumerate(values):
        for column, value in enumerate(of_name):
            if not math.isnan(value):
                share = min(max((value - low) / (high - low), 0.0), 1.0)
                by_shade.setdefault(round(share * (NUM_SHADES - 1)), []).append(f"M{column} {row}h1v1h-1z")
    paths = "".join(f'<path class="shade{shade}" d="{"".join(cells)}"/>' for shade, cells in sorted(by_shade.items()))
    label_every = math.ceil(len(names) / 16)
    labels = "".join(
        f'<span style="top:{100 * (row + 0.5) / len(names):.2f}%">{escape(name)}</span>'
        for row, name in enumerate(names)
        if row % label_every == 0
    )
    return Markup(
        f'<figure class="chart heat" role="img" aria-label="{escape(x_label)}"><div class="frame">'
        f'<div class="y">{labels}</div><svg viewBox="0 0 {len(xs)} {len(names)}" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges">{paths}</svg><div class="x">{_x_labels(xs[-1] or 1.0)}</div></div>'
        f"<figcaption>{escape(x_label)}</figcaption></figure>"
    )


def interval_chart(rows: Sequence[Interval], *, low: float, high: float) -> Markup:
    """A dot with its confidence interval for each row, on one scale from `low` to `high`."""

    def at(value: float) -> str:
        return f"{100 * min(max((value - low) / (high - low), 0.0), 1.0):.2f}%"

    parts = []
    for row in rows:
        inside = "" if row.mark is None else f'<i class="mark" style="left:{at(row.mark)}"></i>'
        if row.low is not None and row.high is not None:
            width = f"calc({at(row.high)} - {at(row.low)})"
            inside += f'<i class="range" style="left:{at(row.low)};width:{width}"></i>'
        inside += f'<i class="dot" style="left:{at(row.value)}"></i>'
        note = f"<small>{escape(row.note)}</small>" if row.note else ""
        parts.append(
            f'<div class="{color_class(row.color)}"><span class="name">{escape(row.label)}{note}</span>'
            f'<span class="track">{inside}</span><span class="value">{escape(row.text)}</span></div>'
        )
    return Markup(f'<div class="intervals">{"".join(parts)}</div>')


def share_bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """One bar that is divided by the shares, which sum to 1; the first has color 0."""
    parts = (
        f'<i class="{color_class(number)}" style="width:{100 * share:.2f}%" title="{escape(f"{name}: {share:.1%}")}"></i>'
        for number, (name, share) in enumerate(shares)
    )
    return Markup(f'<div class="shares">{"".join(parts)}</div>')


def thinned(points: Sequence[tuple[float, float]], x_end: float, columns: int = COLUMNS) -> list[tuple[float, float]]:
    """The points with the lowest and the highest y of each of `columns` equal parts of the x axis from 0 to `x_end`.

    Points few enough stay as they are. Points must be in the order of x.
    """
    if len(points) <= 2 * columns:
        return list(points)
    xy = np.asarray(points, dtype=np.float64)
    column = np.minimum((xy[:, 0] / x_end * columns).astype(np.int64), columns - 1)
    order = np.lexsort((xy[:, 1], column))
    first = np.flatnonzero(np.diff(column[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    kept = np.unique(np.concatenate([order[first], order[last], [0, len(points) - 1]]))
    return [(float(x), float(y)) for x, y in xy[kept]]


def smoothed(values: np.ndarray) -> np.ndarray:
    """The running mean over a fiftieth of the values, with as many before as after; float64 [N] to float64 [N]."""
    reach = len(values) // 100
    number = np.arange(len(values))
    around = np.minimum(reach, np.minimum(number, len(values) - 1 - number))
    total = np.insert(np.cumsum(values), 0, 0.0)
    return (total[number + around + 1] - total[number - around]) / (2 * around + 1)


def _x_labels(x_end: float) -> str:
    x_ticks = [x for x in ticks(0.0, x_end) if x <= x_end]
    labels = []
    for number, x in enumerate(x_ticks):
        kind = ' class="second"' if number % 2 else ""  # left out on a narrow screen
        labels.append(f'<span{kind} style="left:{100 * x / x_end:.2f}%">{format_tick(x, x_ticks)}</span>')
    return "".join(labels)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover `low` to `high`: powers of ten, with 2 and 5 between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = math.ceil((last - first) / 8) or 1
    numbers = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    below = max((number for number in numbers if number <= low * (1 + 1e-9)), default=numbers[0])
    above = min((number for number in numbers if number >= high and number > below), default=10 * numbers[-1])
    return [number for number in numbers if below <= number <= above] + ([above] if above > numbers[-1] else [])

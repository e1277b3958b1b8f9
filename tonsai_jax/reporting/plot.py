"""Line plots as inline SVG for a page that includes `plot.css`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 860, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44
NUM_COLORS = 8  # that plot.css defines


class Line(NamedTuple):
    """One line of a plot.

    Attributes:
      name: shown when the pointer is on the line.
      color: the number of its color; lines that belong together share one.
      points: (x, y), in the order of x.
      light: drawn thin, behind the other lines.
    """

    name: str
    color: int
    points: Sequence[tuple[float, float]]
    light: bool = False


def line_plot(lines: Sequence[Line], *, x_label: str, y_label: str) -> Markup:
    """An `<svg>` of lines over a common x axis that starts at 0.

    The y axis covers the values after the first twentieth of the x axis: before that a loss falls so steeply that the
    rest of the curve would look flat.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("<p>There is nothing to plot yet.</p>")
    x_end = max(x for x, _ in points) or 1.0
    shown = [y for x, y in points if x >= x_end / 20] or [y for _, y in points]
    y_ticks = ticks(min(shown), max(shown))
    bottom, top = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_end
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (top - y) / (top - bottom)

    parts = []
    for y in y_ticks:
        _, down = at(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{format_tick(y, y_ticks)}</text>')
    x_ticks = [x for x in ticks(0.0, x_end) if x <= x_end]
    for x in x_ticks:
        across, down = at(x, bottom)
        parts.append(
            f'<text x="{across:.1f}" y="{down + 18:.1f}" text-anchor="middle">{format_tick(x, x_ticks)}</text>'
            f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{down:.1f}" y2="{down + 4:.1f}"/>'
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    # The inner <svg> clips the lines at the frame.
    inner = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    box = f"{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}"
    parts.append(f'<svg {inner} viewBox="{box}" style="min-width:0">')
    for line in sorted(lines, key=lambda line: not line.light):
        shown_points = line.points if len(line.points) > 1 else [*line.points] * 2  # a single point becomes a dot
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in shown_points)
        kind = color_class(line.color) + (" light" if line.light else "")
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{escape(line.name)}</title></polyline>')
    parts.append("</svg>")
    label = escape(f"{y_label} against {x_label}")
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def legend(names: Sequence[str]) -> Markup:
    """Each name with its color: the first name has color 0."""
    entries = (f'<span><i class="{color_class(number)}"></i>{escape(name)}</span>' for number, name in enumerate(names))
    return Markup(f'<div class="legend">{"".join(entries)}</div>')


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers that cover `low` to `high`; their distance is 1, 2 or 5 times a power of ten."""
    largest = max(abs(low), abs(high))
    span = high - low
    if span < 1e-9 * largest or largest < 1e-300:  # flat, or so nearly flat that no digits could tell the ticks apart
        span = largest if largest > 1e-300 else 1.0
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def color_class(number: int) -> str:
    """The CSS classes of a color number; past the last color the colors are used again, dashed."""
    return f"color{number % NUM_COLORS}{' dashed' if number >= NUM_COLORS else ''}"


def format_tick(value: float, among: Sequence[float]) -> str:
    """A tick's label, with enough digits to differ from the ticks next to it: '0.25', '1,500', '12M'."""
    gap = among[1] - among[0] if len(among) > 1 else abs(value) or 1.0
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if max(map(abs, among)) >= 10 * size:
            return f"{value / size:.{_decimals(gap / size)}f}{unit}" if value else "0"
    return f"{value:,.{_decimals(gap)}f}"


def _decimals(gap: float) -> int:
    return max(0, -math.floor(math.log10(gap) + 1e-9))

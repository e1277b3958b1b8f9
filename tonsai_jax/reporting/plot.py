"""Lines over a common axis as inline SVG: a bold line for each name, light ones behind it; no script, colours of the page."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 860, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44
NUM_COLORS = 8
# After the palette of Okabe and Ito for colour-blind readers, darkened for light pages and lightened for dark ones.
_LIGHT = ("#0072b2", "#d55e00", "#008f68", "#b8478f", "#8a6d00", "#2f9fd0", "#6b4bb5", "#55606e")
_DARK = ("#5aaee8", "#ff9257", "#35c99c", "#ec8cc6", "#e0c040", "#8ad3f7", "#a98cf0", "#a9b4c2")
STYLE = (
    f":root {{ {' '.join(f'--line{number}: {color};' for number, color in enumerate(_LIGHT))} }}"
    f"@media (prefers-color-scheme: dark) {{ :root {{ "
    f"{' '.join(f'--line{number}: {color};' for number, color in enumerate(_DARK))} }} }}"
    """
.plot svg { width: 100%; min-width: 34rem; height: auto; display: block; font: 12px system-ui, sans-serif }
.plot polyline { fill: none; stroke: var(--color); stroke-width: 2; stroke-linejoin: round }
.plot polyline.light { stroke-width: 1; opacity: .45 } .plot polyline.dashed { stroke-dasharray: 6 4 }
.plot polyline:hover { stroke-width: 3.5; opacity: 1 }
.plot text { fill: var(--faint) } .plot .grid { stroke: var(--line) }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0 .6rem; font-size: .92rem }
.legend i { display: inline-block; width: 1.4rem; height: 0; margin-right: .4rem; vertical-align: .25em;
  border-top: 3px solid var(--color) } .legend i.dashed { border-top-style: dashed }
""" + " ".join(f".color{number} {{ --color: var(--line{number}) }}" for number in range(NUM_COLORS))
)


class Line(NamedTuple):
    """Points (x, y) in the order of x; `color` numbers the name, `light` lines stand behind the others."""

    name: str
    color: int
    points: Sequence[tuple[float, float]]
    light: bool = False


def line_plot(lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """An `<svg>`; y is cut above what is left after the first twentieth of the axis, where a loss falls too steeply to read."""
    points = [point for line in lines for point in line.points]
    if not points:
        return "<p>Nothing to draw yet.</p>"
    x_end = max(x for x, _ in points) or 1.0
    shown = [y for x, y in points if x >= x_end / 20]
    y_ticks = ticks(min(shown), max(shown))
    bottom, top = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_end
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (top - y) / (top - bottom)

    parts = []
    for y in y_ticks:
        _, down = at(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{_number(y, y_ticks)}</text>')
    x_ticks = [x for x in ticks(0.0, x_end) if x <= x_end]
    for x in x_ticks:
        across, down = at(x, bottom)
        parts.append(
            f'<text x="{across:.1f}" y="{down + 18:.1f}" text-anchor="middle">{_number(x, x_ticks)}</text>'
            f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{down:.1f}" y2="{down + 4:.1f}"/>'
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    # A viewport of its own cuts the lines off at the frame.
    inner = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    box = f"{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}"
    parts.append(f'<svg {inner} viewBox="{box}" style="min-width:0">')
    for line in sorted(lines, key=lambda line: not line.light):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line.points)
        kind = _color(line.color) + (" light" if line.light else "")
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{html.escape(line.name)}</title></polyline>')
    parts.append("</svg>")
    label = html.escape(f"{y_label} against {x_label}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def legend(names: Sequence[str]) -> str:
    """The names beside their colours, the first name being colour 0."""
    entries = (f'<span><i class="{_color(number)}"></i>{html.escape(name)}</span>' for number, name in enumerate(names))
    return f'<div class="legend">{"".join(entries)}</div>'


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers, 1, 2 or 5 times a power of ten apart, from `low` or below to `high` or above."""
    span = high - low or abs(high) or 1.0
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _color(number: int) -> str:
    """The classes of a name; the colours come again, dashed, when they are used up."""
    return f"color{number % NUM_COLORS}{' dashed' if number >= NUM_COLORS else ''}"


def _number(value: float, among: Sequence[float]) -> str:
    """With as many digits as tell it from its neighbours: '0.25', '1,500', '12M'."""
    gap = among[1] - among[0] if len(among) > 1 else abs(value) or 1.0
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if max(map(abs, among)) >= 10 * size:
            return f"{value / size:.{_decimals(gap / size)}f}{unit}" if value else "0"
    return f"{value:,.{_decimals(gap)}f}"


def _decimals(gap: float) -> int:
    return max(0, -math.floor(math.log10(gap) + 1e-9))

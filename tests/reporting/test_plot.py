"""Plots: the colors that a plot uses are those that the style sheet defines."""

import re
from pathlib import Path

from tonsai_jax.reporting import plot
from tonsai_jax.reporting.plot import NUM_COLORS, Line, legend, line_plot


def test_the_style_sheet_defines_every_color_for_light_and_dark_pages() -> None:
    css = Path(plot.__file__).with_name("plot.css").read_text(encoding="utf-8")
    assert re.findall(r"\.color(\d) \{ --color: var\(--line(\d)\) \}", css) == [
        (f"{n}", f"{n}") for n in range(NUM_COLORS)
    ]
    for number in range(NUM_COLORS):
        assert css.count(f"--line{number}: #") == 2


def test_names_are_escaped_and_colors_past_the_last_are_dashed() -> None:
    names = [f"<{number}>" for number in range(NUM_COLORS + 1)]
    assert "&lt;0&gt;" in legend(names)
    assert f'class="color0 dashed"></i>&lt;{NUM_COLORS}&gt;' in legend(names)
    drawn = line_plot([Line("<a>", NUM_COLORS, [(0, 1), (1, 2)])], x_label="<x>", y_label="y")
    assert '<polyline class="color0 dashed"' in drawn
    assert "<title>&lt;a&gt;</title>" in drawn
    assert "&lt;x&gt;" in drawn
    assert "<a>" not in drawn


def test_nothing_to_plot_is_said() -> None:
    assert line_plot([], x_label="x", y_label="y") == "<p>There is nothing to plot yet.</p>"

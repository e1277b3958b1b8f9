"""Plots: round ticks, points where the ticks say, and the colors that the style sheet defines."""

import re
from pathlib import Path

import pytest

from tonsai_jax.reporting import plot
from tonsai_jax.reporting.plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NUM_COLORS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    legend,
    line_plot,
    ticks,
)


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.0, 24.0) == [0, 5, 10, 15, 20, 25]
    assert ticks(4.13, 6.0) == pytest.approx([4.0, 4.5, 5.0, 5.5, 6.0])
    assert ticks(3.0, 3.0)[0] <= 3.0 < ticks(3.0, 3.0)[-1]  # a flat line


def test_points_are_where_the_ticks_say() -> None:
    """The y ticks are 0 to 10, so the first loss, 20, is above the frame by the height of the frame."""
    svg = line_plot([Line("a<b", 9, [(0, 20), (50, 10), (100, 0)])], x_label="steps", y_label="loss")
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = f"{(LEFT + right) / 2:.1f},{TOP:.1f}"
    assert f'points="{LEFT:.1f},{2 * TOP - bottom:.1f} {middle} {right:.1f},{bottom:.1f}"' in svg
    assert "<title>a&lt;b</title>" in svg
    assert 'class="color1 dashed"' in svg  # the tenth line, with eight colors


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


def test_a_plot_without_points_says_so() -> None:
    assert line_plot([Line("a", 0, [])], x_label="x", y_label="y") == "<p>There is nothing to plot yet.</p>"


def test_a_line_with_only_its_start_is_plotted() -> None:
    """A run that continues from another model is evaluated before its first step."""
    assert "<svg" in line_plot([Line("km", 0, [(0, 2.5)])], x_label="steps", y_label="bits per byte")

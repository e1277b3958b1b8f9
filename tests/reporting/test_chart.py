"""Charts that take the width of the screen: points where the labels say, spikes that stay, shades and intervals."""

import re
from pathlib import Path

import numpy as np
import pytest

from tonsai_jax.reporting import chart
from tonsai_jax.reporting.chart import (
    NUM_SHADES,
    SIZE,
    Interval,
    heat_chart,
    interval_chart,
    line_chart,
    share_bar,
    smoothed,
    thinned,
)
from tonsai_jax.reporting.plot import Line


def points_of(drawn: str) -> list[str]:
    return re.findall(r'points="([^"]*)"', drawn)


def labels_of(drawn: str, edge: str) -> list[tuple[str, str]]:
    return re.findall(rf'<span[^>]*style="{edge}:([\d.]+)%">([^<]*)</span>', drawn)


def test_points_are_where_the_labels_say() -> None:
    """The y labels are 0 to 10, so the first loss, 20, is above the frame by the height of the frame."""
    drawn = line_chart([Line("a<b", 9, [(0, 20), (50, 10), (100, 0)])], x_label="steps", y_label="loss")
    assert points_of(drawn) == [f"0,{-SIZE} {SIZE // 2},0 {SIZE},{SIZE}"]
    assert labels_of(drawn, "top")[0] == ("100.00", "0")
    assert labels_of(drawn, "top")[-1] == ("0.00", "10")
    assert labels_of(drawn, "left")[-1] == ("100.00", "100")
    assert "<title>a&lt;b</title>" in drawn
    assert 'class="color1 dashed"' in drawn


def test_a_logarithmic_axis_has_equal_distances_for_equal_factors() -> None:
    drawn = line_chart([Line("a", 0, [(10, 1), (50, 10), (75, 0.0), (100, 100)])], x_label="x", y_label="y", log_y=True)
    assert points_of(drawn) == [f"{SIZE // 10},{SIZE} {SIZE // 2},{SIZE // 2} {SIZE},0"]
    assert [text for _, text in labels_of(drawn, "top")] == ["1", "2", "5", "10", "20", "50", "100"]


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (0.3, 0.4), (1e-5, 1e9), (1.0, 7.0)])
def test_logarithmic_ticks_cover_the_range_and_are_few(low: float, high: float) -> None:
    found = chart._log_ticks(low, high)
    assert found[0] <= low * 1.000001
    assert found[-1] >= high
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 12


def test_an_axis_from_0_begins_there() -> None:
    lines = [Line("a", 0, [(0, 60.0), (1, 61.0)])]
    assert labels_of(line_chart(lines, x_label="x", y_label="y", from_zero=True), "top")[0] == ("100.00", "0")


def test_nothing_and_a_single_point() -> None:
    assert line_chart([Line("a", 0, [])], x_label="x", y_label="y") == "<p>There is nothing to plot yet.</p>"
    [points] = points_of(line_chart([Line("km", 0, [(0, 2.5)])], x_label="x", y_label="y"))
    assert len(points.split()) == 2  # with round ends: a dot


def test_a_thinned_curve_keeps_its_ends_and_its_spikes() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    points[1234], points[8765] = (1234.0, 50.0), (8765.0, -3.0)
    kept = thinned(points, 9999.0, columns=100)
    assert len(kept) <= 202
    assert {(1234.0, 50.0), (8765.0, -3.0), points[0], points[-1]} <= set(kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert thinned(points[:150], 149.0, columns=100) == points[:150]


def test_a_running_mean_does_not_shift_a_line() -> None:
    line = np.arange(1000.0)
    np.testing.assert_allclose(smoothed(line), line)
    assert smoothed(np.array([1.0, 5.0])).tolist() == [1.0, 5.0]
    assert smoothed(np.where(np.arange(1000) == 500, 21.0, 0.0)).max() == pytest.approx(1.0)


def test_a_heat_chart_has_a_shade_for_each_value_and_none_for_nan() -> None:
    drawn = heat_chart(["a", "b"], [1, 2, 3], [[0, 1, 9], [float("nan"), 2, -1]], x_label="x", low=0, high=2)
    shades = dict(re.findall(r'class="shade(\d)" d="([^"]*)"', drawn))
    assert shades == {
        "0": "M0 0h1v1h-1zM2 1h1v1h-1z",
        "4": "M1 0h1v1h-1z",
        "8": "M2 0h1v1h-1zM1 1h1v1h-1z",
    }


def test_the_style_sheet_defines_every_shade() -> None:
    css = Path(chart.__file__).with_name("chart.css").read_text(encoding="utf-8")
    assert re.findall(r"\.shade(\d) ", css) == [str(number) for number in range(NUM_SHADES)]


def test_an_interval_has_its_ends_its_dot_and_the_mark() -> None:
    drawn = interval_chart([Interval("<a>", 0.5, 0.25, 0.75, "50 %", mark=0.2)], low=0, high=1)
    assert 'class="mark" style="left:20.00%"' in drawn
    assert 'class="range" style="left:25.00%;width:calc(75.00% - 25.00%)"' in drawn
    assert 'class="dot" style="left:50.00%"' in drawn
    assert "&lt;a&gt;" in drawn
    assert "range" not in interval_chart([Interval("a", 0.5, None, None, "50 %")], low=0, high=1)


def test_a_bar_of_shares() -> None:
    assert 'class="color1" style="width:25.00%" title="b: 25.0%"' in share_bar([("a", 0.75), ("b", 0.25)])

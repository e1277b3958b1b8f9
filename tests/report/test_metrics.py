"""A metrics.jsonl becomes series; broken lines are named and the rest stays."""

from pathlib import Path

import numpy as np

from tests.report.workdirs import write_lines
from tonsai_jax.report.metrics import read_metrics


def test_each_name_becomes_a_series_in_the_order_of_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": 2, "a": 2.0}, {"step": 1, "a": 1.0, "b": 7.0}, {"step": 3, "a": None}])
    metrics = read_metrics(path)
    assert metrics["a"].steps.tolist() == [1, 2]
    assert metrics["a"].values.tolist() == [1, 2]
    assert metrics["b"].last == 7
    assert metrics["none"].last is None
    assert (metrics.last_step, metrics.notes) == (3, ())


def test_broken_lines_are_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "a": 1}',
        '{"step": 2, "a"',
        "[1]",
        '{"a": 3}',
        '{"step": 3, "a": "x"}',
        '{"step": 4, "a": 4}',
    ]
    path.write_text("\n".join(lines))
    metrics = read_metrics(path)
    assert metrics["a"].values.tolist() == [1, 4]
    assert metrics.notes == ("metrics.jsonl lines 2, 3, 4 and 1 more: not rows of metrics, left out",)
    path.write_bytes(b'{"step": 1, "a": 1}\n\xff\n')
    assert read_metrics(path).notes == ("metrics.jsonl line 2: not a row of metrics, left out",)


def test_no_file_and_no_rows_are_notes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path).notes == ("metrics.jsonl: no such file, so there are no curves",)
    path.write_text("")
    assert read_metrics(path).notes == ("metrics.jsonl: no rows yet, so there are no curves",)


def test_a_count_between_its_rows_is_interpolated_from_0(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": 10, "progress/tokens": 100}, {"step": 20, "progress/tokens": 300}])
    assert read_metrics(path).at("progress/tokens", np.array([0, 5, 15, 20])).tolist() == [0, 50, 200, 300]


def test_a_last_loss_that_is_not_finite_is_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": None}])
    assert read_metrics(path).ended_in_nan


def test_more_rows_than_are_kept_as_objects(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": step, "a": step} for step in range(10_000)])
    assert read_metrics(path)["a"].values.tolist() == list(range(10_000))

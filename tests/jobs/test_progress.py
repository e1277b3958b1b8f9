"""The progress bar of a stage follows the results that other processes write."""

import sys
import time
from pathlib import Path

import pytest

from tonsai_jax.jobs import progress
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.jobs.progress import TaskProgress, remove_report, reports, stage_progress
from tonsai_jax.reporting import progress_bar


class Terminal:
    """Stands for stderr; keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def stderr_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest puts its own stderr back between a fixture and the test."""
    terminal = Terminal()
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.001)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.mark.parametrize(
    ("sizes", "shown"), [({}, "1.00/2.00"), ({"a": 3_000_000, "b": 1_000_000}, "3.00M/4.00M")], ids=["parts", "bytes"]
)
def test_a_result_moves_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], shown: str
) -> None:
    terminal = stderr_is_a_terminal(monkeypatch)
    with stage_progress("cleaning", ["a", "b"], lambda key: (tmp_path / key).exists(), sizes):
        (tmp_path / "a").touch()
        end = time.monotonic() + 30
        while shown not in terminal.text and time.monotonic() < end:
            time.sleep(0.01)
    assert "cleaning" in terminal.text
    assert "1 of 2 parts" in terminal.text
    assert shown in terminal.text


def test_a_task_that_runs_moves_the_bar_by_what_it_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr_is_a_terminal(monkeypatch)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_REPORTS", 0.0)
    sizes = {"a": 3_000_000, "b": 1_000_000}
    with stage_progress("cleaning", ["a", "b"], lambda key: key == "b", sizes, lambda: reports(tmp_path)):
        task = TaskProgress(tmp_path / "a")
        task.add(500_000)
        task.add(1_000_000)
        end = time.monotonic() + 30
        while "2.50M/4.00M" not in terminal.text and time.monotonic() < end:
            time.sleep(0.01)
    assert "2.50M/4.00M" in terminal.text
    assert reports(tmp_path) == {"a": 1_500_000}
    remove_report(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def read_a_lot(shown: Terminal, path: Path) -> dict[str, int]:
    task = TaskProgress(path)
    task.add(1_500_000)
    end = time.monotonic() + 30
    while "1.50M/4.00M" not in shown.text and time.monotonic() < end:
        time.sleep(0.01)
    return {}


def test_the_engine_shows_what_a_task_reports_and_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr_is_a_terminal(monkeypatch)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_REPORTS", 0.0)
    with Engine(Executor(workers=1)) as engine:
        engine.run(tmp_path, read_a_lot, [("a", terminal)], progress="cleaning", sizes=[4_000_000])
    assert "1.50M/4.00M" in terminal.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_report_that_cannot_be_written_does_not_stop_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_REPORTS", 0.0)
    TaskProgress(tmp_path / "gone" / "a").add(1)
    assert reports(tmp_path / "gone") == {}


def test_without_a_name_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr_is_a_terminal(monkeypatch)
    with stage_progress(None, ["a"], lambda key: True, {}):
        time.sleep(0.05)
    assert terminal.text == ""

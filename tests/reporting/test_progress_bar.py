"""Progress: a bar on a terminal, gone at the end; elsewhere a line every ten seconds, and none for a short job."""

import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from tests.support.clock import Clock
from tests.support.console import next_line
from tonsai_jax.reporting import progress_bar as module
from tonsai_jax.reporting.progress_bar import progress_bar

CODE = """
from tonsai_jax.reporting import progress_bar as module
module.SECONDS_BETWEEN_UPDATES = 0.0
with module.progress_bar("reading", unit="B", total=2e6, wanted={wanted}) as bar:
    for _ in range(2):
        bar.update(1_000_000)
print("done", flush=True)
"""


def on_a_terminal(wanted: bool) -> str:
    """What a terminal receives from stdout and stderr."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([sys.executable, "-c", CODE.format(wanted=wanted)], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        received = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's answer when the other side of a terminal is closed
                break
            if not part:
                break
            received += part
    os.close(ours)
    assert process.returncode == 0
    return received.decode()


def test_a_terminal_shows_name_amount_and_total_and_is_left_clean() -> None:
    received = on_a_terminal(wanted=True)
    assert "reading: " in received
    assert "1.00M/2.00M" in received
    assert received.endswith(" \rdone\r\n"), "the bar is overwritten with spaces before the next output"


def test_a_bar_that_is_not_wanted_shows_nothing() -> None:
    assert on_a_terminal(wanted=False).strip() == "done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_UPDATES", 0.001)
    return clock


def assert_silent(capsys: pytest.CaptureFixture[str]) -> None:
    time.sleep(0.02)
    assert capsys.readouterr() == ("", "")


def test_a_file_or_pipe_gets_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading", unit="B", total=80e6) as bar:
        bar.set_postfix_str("1 of 3 parts")
        clock.now += 9
        assert_silent(capsys)
        bar.update(20e6)
        clock.now += 1
        assert next_line(capsys) == (
            "reading: 1 of 3 parts, 20.0 MB of 80.0 MB (25%), 2.0 MB/s, 10s so far, about 30s left\n"
        )
        clock.now += 9
        assert_silent(capsys)
        clock.now += 1
        assert next_line(capsys) == (
            "reading: 1 of 3 parts, 20.0 MB of 80.0 MB (25%), 1.0 MB/s, 20s so far, about 1m 00s left\n"
        )


@pytest.mark.parametrize(
    ("unit", "total", "count", "line"),
    [
        (" tokens", 2000, 1500, "job: 1,500 of 2,000 tokens (75%), 12s so far, about 4s left"),
        (" tokens", None, 1500, "job: 1,500 tokens, 12s so far"),
        (" tokens", 2000, 0, "job: 0 of 2,000 tokens (0%), 12s so far"),
        ("B", None, 24e6, "job: 24.0 MB, 2.0 MB/s, 12s so far"),
        ("", None, 0, "job: 12s so far"),
    ],
)
def test_a_line_says_what_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str], unit: str, total: float | None, count: float, line: str
) -> None:
    with progress_bar("job", unit=unit, total=total) as bar:
        bar.update(count)
        clock.now += 12
        assert next_line(capsys) == f"{line}\n"


def test_short_jobs_in_a_row_are_one_long_job_and_after_a_pause_time_begins_again(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        with progress_bar(f"stage {number}"):
            clock.now += 4
            if number < 2:
                assert_silent(capsys)
            else:
                assert next_line(capsys) == "stage 2: 4s so far\n"
    for _ in range(4):
        clock.now += 60
        with progress_bar("evaluating"):
            clock.now += 4
            assert_silent(capsys)


def test_of_a_job_inside_another_only_the_inner_one_speaks(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("outer"):
        with progress_bar("inner"):
            clock.now += 10
            assert next_line(capsys) == "inner: 10s so far\n"
            assert_silent(capsys)
        clock.now += 10
        assert next_line(capsys) == "outer: 20s so far\n"


def test_a_short_job_writes_nothing_to_a_file_or_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading", unit=" parts", total=3) as bar:
        bar.update(1)
        bar.set_postfix_str("1 of 3")
        clock.now += 9
        assert_silent(capsys)
    assert_silent(capsys)

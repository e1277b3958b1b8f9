"""Progress: a bar on a terminal, gone at the end; elsewhere a line every ten seconds, and none for a short job."""

import os
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

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
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come every 0.1 seconds instead of every ten."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.1)
    monkeypatch.setattr(module, "_SECONDS_OF_A_PAUSE", 0.05)
    time.sleep(0.1)  # the jobs of other tests are long over


@pytest.mark.usefixtures("lines")
def test_a_file_or_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading", unit="B", total=4e6) as bar:
        bar.update(1e6)
        bar.set_postfix_str("1 of 3 parts")
        time.sleep(0.35)
    out, err = capsys.readouterr()
    assert out == ""
    assert 2 <= err.count("\n") <= 4
    for line in err.splitlines():
        assert re.fullmatch(
            r"reading: 1 of 3 parts, 1\.0 MB of 4\.0 MB \(25%\), [\d.]+ MB/s, 0s so far, about [012]s left", line
        ), line


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize(
    ("unit", "total", "count", "line"),
    [
        (" tokens", 2000, 1500, "job: 1,500 of 2,000 tokens (75%), 0s so far, about 0s left"),
        (" tokens", None, 1500, "job: 1,500 tokens, 0s so far"),
        (" tokens", 2000, 0, "job: 0 of 2,000 tokens (0%), 0s so far"),
        ("", None, 0, "job: 0s so far"),
    ],
)
def test_a_line_says_what_is_known(
    capsys: pytest.CaptureFixture[str], unit: str, total: float | None, count: float, line: str
) -> None:
    with progress_bar("job", unit=unit, total=total) as bar:
        bar.update(count)
        time.sleep(0.15)
    assert capsys.readouterr().err.splitlines()[0] == line


@pytest.mark.usefixtures("lines")
def test_short_jobs_in_a_row_are_one_long_job_and_after_a_pause_time_begins_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(4):
        with progress_bar(f"stage {number}"):
            time.sleep(0.04)
    assert re.fullmatch("stage [23]: 0s so far\n", capsys.readouterr().err)
    for _ in range(4):
        time.sleep(0.06)
        with progress_bar("evaluating"):
            time.sleep(0.04)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("lines")
def test_of_a_job_inside_another_only_the_inner_one_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("outer"):
        with progress_bar("inner"):
            time.sleep(0.15)
        assert {line.split(":")[0] for line in capsys.readouterr().err.splitlines()} == {"inner"}
        time.sleep(0.15)
        assert {line.split(":")[0] for line in capsys.readouterr().err.splitlines()} == {"outer"}


def test_a_short_job_writes_nothing_to_a_file_or_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_UPDATES", 0.001)
    with progress_bar("reading", unit=" parts", total=3) as bar:
        bar.update(1)
        bar.set_postfix_str("1 of 3")
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")

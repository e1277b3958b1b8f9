"""Progress bars: on a terminal only, and gone at the end."""

import os
import pty
import subprocess
import sys
import termios

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


def test_a_file_or_pipe_gets_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_UPDATES", 0.0)
    with progress_bar("reading", unit=" parts", total=3) as bar:
        bar.update(1)
        bar.set_postfix_str("1 of 3")
    assert capsys.readouterr() == ("", "")

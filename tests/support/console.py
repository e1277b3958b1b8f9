"""The console entry `tonsai`, run in the test's process; what is printed on stderr."""

import contextlib
import io
import signal
import sys
import time
from unittest import mock

import pytest

from tonsai_jax.__main__ import main


def tonsai(*words: str) -> tuple[int, str, str]:
    """Runs the entry in this process; returns the exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handler = signal.getsignal(signal.SIGTERM)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["tonsai", *words]),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return code, out.getvalue(), err.getvalue()


def without_progress(stderr: str) -> str:
    """What is left of stderr without the lines of progress that a job prints when it takes longer than ten seconds."""
    return "".join(line for line in stderr.splitlines(keepends=True) if " so far" not in line)


def next_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a thread of the test's process soon writes to stderr."""
    end = time.monotonic() + 30
    text = ""
    while not text.endswith("\n") and time.monotonic() < end:
        time.sleep(0.001)
        text += capsys.readouterr().err
    return text

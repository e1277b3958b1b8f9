"""A signal is a request first; a second Ctrl-C ends the process within seconds, also while it computes without Python."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tonsai_jax.runtime.signals import StopRequest


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def stop_request(lines: list[str]) -> Iterator[StopRequest]:
    with StopRequest(lines.append) as request:
        request.saves_first()
        yield request


@pytest.mark.parametrize(
    ("number", "name", "way_out"),
    [(signal.SIGTERM, "SIGTERM", "Ctrl-C ends it now"), (signal.SIGINT, "Ctrl-C", "Ctrl-C again ends it now")],
)
def test_the_first_signal_is_noted_and_confirmed(
    stop_request: StopRequest, lines: list[str], number: signal.Signals, name: str, way_out: str
) -> None:
    assert stop_request.name is None
    signal.raise_signal(number)
    assert stop_request.name == name
    wait_for(lambda: bool(lines))
    assert lines == [f"{name}: saving after this step, then the run ends; {way_out}"]


def test_a_second_sigterm_changes_nothing(stop_request: StopRequest, lines: list[str]) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    wait_for(lambda: bool(lines))
    assert (stop_request.name, len(lines)) == ("SIGTERM", 1)


def test_when_all_is_saved_sigterm_is_ignored(stop_request: StopRequest) -> None:
    stop_request.all_is_saved()
    signal.raise_signal(signal.SIGTERM)  # would raise
    assert stop_request.name == "SIGTERM"


def test_afterwards_the_handlers_are_those_of_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(print):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


# A call that takes minutes, holds no lock of Python and never returns to it: as a compilation by XLA.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
PROGRAM = f"""
import hashlib
from tonsai_jax.runtime.signals import StopRequest
with StopRequest(lambda line: print(line, flush=True)) as request:
    PHASE
    print("ready", flush=True)
    {BUSY}
"""


@contextmanager
def busy(phase: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM.replace("PHASE", phase)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_second_ctrl_c_ends_what_never_returns_to_python() -> None:
    with busy("request.saves_first()") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "saving after this step" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 130


@pytest.mark.full
@pytest.mark.parametrize(
    ("phase", "number"),
    [("pass", signal.SIGTERM), ("pass", signal.SIGINT), ("request.all_is_saved()", signal.SIGINT)],
)
def test_where_nothing_is_to_be_saved_the_first_signal_ends_it(phase: str, number: signal.Signals) -> None:
    with busy(phase) as process:
        process.send_signal(number)
        assert process.wait(timeout=5) == 128 + number


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)

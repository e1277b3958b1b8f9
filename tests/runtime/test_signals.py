"""A signal is a request first; a second Ctrl-C ends the process within seconds, also while it computes without Python."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tonsai_jax.runtime import signals
from tonsai_jax.runtime.signals import StopRequest


@contextmanager
def signals_heard() -> Iterator[tuple[StopRequest, list[str]]]:
    """A request and the lines it says; after the block, all of them are there."""
    lines: list[str] = []
    with StopRequest(lines.append) as request:
        [watcher] = [thread for thread in threading.enumerate() if thread.name == "signals"]
        yield request, lines
    watcher.join(timeout=10)
    assert not watcher.is_alive()


@pytest.mark.parametrize(
    ("number", "name", "way_out"),
    [
        (signal.SIGTERM, "SIGTERM", "Ctrl-C ends it now"),
        (signal.SIGHUP, "SIGHUP", "Ctrl-C ends it now"),
        (signal.SIGUSR1, "SIGUSR1", "Ctrl-C ends it now"),
        (signal.SIGINT, "Ctrl-C", "Ctrl-C again ends it now"),
    ],
)
def test_the_first_signal_is_noted_and_confirmed(number: signal.Signals, name: str, way_out: str) -> None:
    with signals_heard() as (request, lines):
        request.saves_first()
        assert request.name is None
        signal.raise_signal(number)
        assert request.name == name
    assert lines == [f"{name}: saving after this step, then the run ends; {way_out}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_second_one_that_is_not_ctrl_c_changes_nothing(number: signal.Signals) -> None:
    with signals_heard() as (request, lines):
        request.saves_first()
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert (request.name, len(lines)) == (number.name, 1)


def test_a_sighup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_heard() as (request, lines):
            request.saves_first()
            signal.raise_signal(signal.SIGHUP)
        assert (request.name, lines) == (None, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_hours_of_a_run_count_from_the_start_of_the_process() -> None:
    hours = (time.time() - psutil.Process().create_time()) / 3600
    is_over, goes_on = StopRequest(print, max_hours=hours), StopRequest(print, max_hours=hours + 1)
    assert (is_over.name, goes_on.name) == (f"--max_hours={hours:g}", None)


def test_when_all_is_saved_sigterm_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0)
    with signals_heard() as (request, lines):
        request.all_is_saved()
        signal.raise_signal(signal.SIGTERM)  # would raise
    assert (request.name, lines, ended) == ("SIGTERM", [], [])


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
        assert process.wait(timeout=20) == 130


ENDING = """
import time
from tonsai_jax.runtime.signals import StopRequest
with StopRequest(print) as request:
    request.saves_first()
    request.all_is_saved()
print("ready", flush=True)
time.sleep(1)  # as a run that waits for its other processes
"""


def test_a_repeated_sigterm_does_not_change_the_exit_code_of_a_run_that_is_saved() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:  # also while Python ends
            process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        assert process.returncode == 0


@pytest.mark.full
@pytest.mark.parametrize(
    ("phase", "number"),
    [("pass", signal.SIGTERM), ("pass", signal.SIGINT), ("request.all_is_saved()", signal.SIGINT)],
)
def test_where_nothing_is_to_be_saved_the_first_signal_ends_it(phase: str, number: signal.Signals) -> None:
    with busy(phase) as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number


BLOCKED = """
from tonsai_jax.runtime.signals import StopRequest
with StopRequest(lambda line: print(line, flush=True)) as request:
    request.saves_first()
    print("x" * 10**6, flush=True)  # more than a pipe takes
"""


@pytest.mark.full
def test_a_second_ctrl_c_ends_what_waits_for_a_reader_of_its_output() -> None:
    """As in `| less`: neither the main thread nor the confirmation can print."""
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(1)  # the pipe is being filled
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)  # two that arrive together are one
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()

"""Processes to be killed: each is one command of the project, in a session of its own, with its output in a file.

A warm session is forked from this process after it has imported the trainer, which saves the seconds of the imports. JAX's
devices must not have been touched before, so this process never does anything with JAX itself.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.002
Work = Callable[[], None]
_started: list["Session"] = []


@dataclass
class Session:
    """A process that was started, the leader of a session of its own.

    Attributes:
      log: the file with all that it prints.
      is_fresh: whether it began with a new Python, not as a fork.
    """

    pid: int
    log: Path
    is_fresh: bool
    _code: int | None = None

    def poll(self) -> int | None:
        """The exit code, -N for a death by signal N, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, seconds: float) -> int | None:
        """Waits for the end; None if it runs on after `seconds`."""
        return self.poll() if self.until(lambda: False, seconds) is None else self._code

    def until(self, happens: Callable[[], bool], seconds: float) -> bool | None:
        """Waits for something: True when it happened, False when the process ended before, None after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if happens():
                return True
            if self.poll() is not None:
                return False
            time.sleep(POLL_SECONDS)
        return None

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, also to a stopped process, and waits for the end."""
        self.send(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(POLL_SECONDS)

    def left_behind(self, seconds: float = 2.0) -> list[str]:
        """The commands of the processes of this session that outlive its leader by `seconds`; they are killed here."""
        deadline = time.monotonic() + seconds
        while members := [process for process in psutil.process_iter() if self._has(process)]:
            if time.monotonic() > deadline:
                names = [f"{process.pid} {process.name()}" for process in members]
                for process in members:
                    process.kill()
                return names
            time.sleep(0.05)
        return []

    def _has(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start_warm(work: Work, log: Path, settings: Mapping[str, str] | None = None) -> Session:
    """Forks a process that does `work` as a command: its exit codes and its error lines are those of the command line.

    Args:
      settings: environment variables of the process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    pid = os.fork()
    if pid:
        return _known(Session(pid, log, is_fresh=False))
    code = 70  # of a failure in this function itself
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        os.environ.update(settings or {})
        code = _as_command(work)
        # What Python does at its end. The processes of one run take leave from each other there, for instance.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)  # not into the code of the parent


def _as_command(work: Work) -> int:
    from tonsai_jax.errors import run_command

    try:
        run_command(work)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()  # as Python does
        return 1
    return 0


def start_fresh(words: Sequence[str], log: Path, settings: Mapping[str, str] | None = None) -> Session:
    """Starts `python words...` as a user does."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(settings or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.returncode = 0  # this object must not wait for the process: `Session` does
    return _known(Session(process.pid, log, is_fresh=True))


def end_all() -> None:
    """Kills the sessions that still run, for an end of the campaign in the middle."""
    for session in _started:
        session.kill()


def _known(session: Session) -> Session:
    _started.append(session)
    return session

"""The processes of an ablation, one at a time: each writes a log, and a signal to stop is passed on to it."""

import fcntl
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self

from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors


class Processes:
    """Runs commands one after another, in a folder that no other ablation uses meanwhile.

    SIGTERM and SIGINT are passed on to the current process.

    Args:
      workdir: the folder of the ablation, which is locked meanwhile.

    Attributes:
      stopped: whether such a signal has come; then nothing more should be run.

    Raises `UserError` if another process is training in `workdir`.
    """

    def __init__(self, workdir: Path) -> None:
        self.stopped = False
        self._workdir = workdir
        self._last = signal.SIGTERM
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        with disk_errors(self._workdir):
            self._workdir.mkdir(parents=True, exist_ok=True)
            file = self._ending.enter_context((self._workdir / ".lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._ending.close()
            raise UserError(
                f"{self._workdir}: another ablation, or a run that it left behind, is training here; wait until it ends"
            ) from None
        self._lock = file.fileno()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._ending.callback(signal.signal, number, signal.signal(number, self._ask))
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.close()

    def run(self, command: Sequence[str], log: Path) -> str:
        """Runs a command; returns why it failed, or an empty string.

        Args:
          command: the program and its arguments.
          log: the file that gets its output, after what is already there.
        """
        with disk_errors(log.parent):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("a+b")
        with file:
            start = file.seek(0, 2)
            # In its own session, so that Ctrl-C reaches the process only once, through this one. It inherits the lock: if
            # it outlives this process, no other ablation can train here.
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[self._lock]
            )
            code = self._wait(process)
            file.seek(start)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if code == 0:
            return ""
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return next(reversed(errors or lines), f"ended with exit code {code}")

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        self._process = process
        if self.stopped:  # the signal came while the process was starting
            process.send_signal(self._last)
        code = process.wait()
        self._process = None
        return code

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped:
            print(f"{signal.Signals(number).name}: saving the run in training, then this ends", flush=True)
        self.stopped, self._last = True, signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(number)

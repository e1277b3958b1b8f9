"""Runs the workers of gpu.py so that nothing of them outlives it: no process, no memory of the GPU, no file.

gpu.py may be stopped by a signal at any moment, and killed. What a kill leaves behind is removed at the next start.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from gpu_cases import Part
from gpu_report import Row
from gpu_worker import RESULT, one_line

from tonsai_jax.interrupts import name_of, set_handlers
from tonsai_jax.runtime.xla import MEMORY_FRACTION
from tonsai_jax.sole_writer import flock, is_at

HERE = Path(__file__).resolve().parent
FOLDERS = "gpu_bench_"  # the names of the temporary folders begin with it
LAST_LINES = 20  # of what a worker that failed wrote to stderr
LOOK_SECONDS = 0.2  # between two looks at the clock, the worker and the signals
GRACE_SECONDS = 8.0  # from a signal to the end; job systems often kill after 10

# Waits until gpu.py closes the pipe to it, which the system does too when gpu.py is killed. Then it kills the process group of
# the worker: the worker, the compilers that it has started, and itself.
GUARD = ("/bin/sh", "-c", "read line; kill -KILL 0")


class StoppedError(Exception):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {name_of(number)}")
        self.exit_code = 128 + number


class Ending:
    """Notes the first signal that asks this process to end; `check` ends it where that leaves nothing behind."""

    def __init__(self) -> None:
        self.stopped: StoppedError | None = None
        self.timer: threading.Timer | None = None
        set_handlers(self._note)

    def check(self) -> None:
        if self.stopped:
            raise self.stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped:
            self.stopped = StoppedError(number)
            # For an end that hangs, such as a print that nobody reads. The guard ends the worker then.
            self.timer = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
            self.timer.daemon = True
            self.timer.start()


@contextmanager
def working_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end of the block. Removes the folders of killed processes first.

    A process holds the lock on a file in its folder, which the system releases when the process ends, however it ends.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with suppress(OSError), open(folder / "lock", "ab", buffering=0) as lock:
            if flock(lock):  # raises where its process lives
                shutil.rmtree(folder, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDERS))
        with suppress(BlockingIOError, FileNotFoundError):  # a process that starts now took it for one left behind
            lock = open(folder / "lock", "ab", buffering=0)  # noqa: SIM115  # held to the end of the block
            flock(lock)
            if is_at(lock, folder / "lock"):
                break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def run_worker(
    part: Part, folder: Path, seconds: float, ending: Ending, take: Callable[[Row], None]
) -> tuple[str, list[str]]:
    """Runs the process of a part, for at most `seconds`, and calls `take` with each result as soon as it is printed.

    Returns:
      Why it failed, "" where it did not; and the last lines of its stderr. When this returns, all its processes have ended.
    """
    command = [sys.executable, str(HERE / part.script), part.task, json.dumps(part.arguments)]
    deadline = time.monotonic() + seconds
    with (folder / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
        with _process_group() as group:
            worker = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=environment(folder),
                process_group=group,
            )
            results = _Results(worker.stdout, take)
            while worker.poll() is None and not ending.stopped and (left := deadline - time.monotonic()) > 0:
                results.read(min(left, LOOK_SECONDS))
            ended = worker.poll() is not None
        code = worker.wait()
        while results.read(0):  # what it printed last
            pass
        errors.seek(0)
        last_lines = [line for line in errors.read().splitlines() if line.strip()][-LAST_LINES:]
    if not ended:
        return str(ending.stopped or f"stopped after {seconds:.3g} s"), last_lines
    if code == 0:
        return "", []
    cause = [line for line in last_lines if "Error" in line or "RESOURCE_EXHAUSTED" in line]
    return f"exit code {code}: {one_line((cause or last_lines or ['no message'])[-1])}", last_lines


@contextmanager
def _process_group() -> Iterator[int]:
    """The number of a new process group for a worker, which is killed at the end of the block, or when this process is killed.

    Only this process can write to the guard's pipe, so its end closes it. A worker that it has just forked has a copy of the open
    end until it is in the group and runs its own program; so there is no moment at which a worker can be missed.
    """
    guard = subprocess.Popen(
        GUARD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        yield guard.pid
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.communicate()  # closes the pipe, and waits


class _Results:
    """The lines of a worker that are results, read from its pipe without waiting for the end of a line."""

    def __init__(self, pipe: IO[bytes] | None, take: Callable[[Row], None]) -> None:
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
        self._pipe, self._take, self._rest = pipe, take, b""

    def read(self, seconds: float) -> bool:
        """Waits up to `seconds` for output, takes what is there, and returns whether there was any."""
        select.select([self._pipe], [], [], seconds)
        chunk = self._pipe.read(2**16) or b""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(RESULT.encode()):
                self._take(json.loads(line.removeprefix(RESULT.encode())))
        return bool(chunk)


def environment(folder: Path) -> dict[str, str]:
    """One GPU, almost all of its memory for JAX; caches of compiled programs, empty at first, and temporary files in `folder`."""
    theirs = {name: value for name, value in os.environ.items() if name not in MEMORY_FRACTION}
    return theirs | {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        MEMORY_FRACTION[1]: "0.92",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch_cache"),
        "TMPDIR": str(folder),
    }

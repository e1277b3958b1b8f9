"""Trains the planned runs one after another, each in its own process; complete runs are skipped."""

import fcntl
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors
from tonsai_jax.reporting.complete_file import read_complete
from tonsai_jax.reporting.numbers import format_seconds

LOG = "train.log"


def is_complete(run: PlannedRun) -> bool:
    """Whether training has recorded that the run is complete."""
    record = read_complete(run.workdir)
    return record is not None and record["step"] == run.total_steps


def run_all(
    runs: Sequence[PlannedRun],
    workdir: Path,
    say: Callable[[str], None],
    after_each: Callable[[dict[Path, str]], object],
) -> dict[Path, str]:
    """Trains the runs that are not complete yet; if a run fails, the next ones are still trained.

    SIGTERM and SIGINT are passed on to the current run, which saves a checkpoint and ends; no further run is started.

    Args:
      runs: the runs, in order.
      workdir: the folder of the ablation, which is locked meanwhile.
      say: prints a line.
      after_each: called after every run with the failures so far.

    Returns {workdir of a failed run: the reason}.
    Raises `UserError` if another process is training in `workdir`.
    """
    failures: dict[Path, str] = {}
    with _alone_in(workdir) as lock, _Signals() as signals:
        for number, run in enumerate(runs, 1):
            name = f"[{number}/{len(runs)}] {run.variant}, seed {run.seed}"
            if is_complete(run):
                say(f"{name}: complete")
                continue
            say(f"{name}: training, see {run.workdir / LOG}")
            began = time.monotonic()
            failure = _train(run, lock, signals)
            took = format_seconds(time.monotonic() - began)
            if signals.stop:
                say(f"{name}: stopped after {took}; run the same command to continue")
                return failures
            say(f"{name}: failed after {took}: {failure}" if failure else f"{name}: complete after {took}")
            if failure:
                failures[run.workdir] = failure
            after_each(failures)
    return failures


def _train(run: PlannedRun, lock: int, signals: "_Signals") -> str:
    """Trains one run; returns why it failed, or an empty string if it is complete or was stopped by a signal."""
    with disk_errors(run.workdir):
        run.workdir.mkdir(parents=True, exist_ok=True)
        log = (run.workdir / LOG).open("a+b")
    with log:
        start = log.seek(0, 2)
        # In its own session, so that Ctrl-C reaches the run only once, through this process. The run inherits the lock: if
        # it outlives this process, no other ablation can train here.
        process = subprocess.Popen(
            run.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock]
        )
        code = signals.wait(process)
        log.seek(start)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if code == 0 and is_complete(run):
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return next(reversed(errors or lines), f"ended with exit code {code}")


@contextmanager
def _alone_in(workdir: Path) -> Iterator[int]:
    """Locks the folder; gives the file descriptor that holds the lock for as long as any process has it open."""
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir}: another ablation, or a run that it left behind, is training here; wait until it ends"
            ) from None
        yield file.fileno()


class _Signals:
    """Passes SIGTERM and SIGINT on to the process that this one waits for."""

    def __init__(self) -> None:
        self.stop = False
        self._last = signal.SIGTERM
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, process: "subprocess.Popen[bytes]") -> int:
        self._process = process
        if self.stop:  # the signal came while the process was starting
            process.send_signal(self._last)
        code = process.wait()
        self._process = None
        return code

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.stop:
            print(f"{signal.Signals(number).name}: saving the run in training, then this ends", flush=True)
        self.stop, self._last = True, signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(number)

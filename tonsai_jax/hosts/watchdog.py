"""Ends a run that hangs, or that has lost one of its processes, with one line and exit code 75.

A thread in every process looks at two things: whether this process makes progress, and whether the others are heard of. The
limits are those of `config.hosts`. Where a process hangs, the stacks of all its threads go to WORKDIR/logs first.
"""

import contextlib
import faulthandler
import functools
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jax
from ml_collections import ConfigDict

from tonsai_jax.errors import EXIT_TEMPORARY, UserError, exit_code
from tonsai_jax.hosts.awake_clock import AwakeClock
from tonsai_jax.hosts.ending import SPEAK_SECONDS, claim_end, end_process, within
from tonsai_jax.hosts.heartbeat import HeartbeatFile
from tonsai_jax.hosts.step_times import StepTimes

if TYPE_CHECKING:
    from tonsai_jax.hosts.peers import Peers

LOOK_SECONDS = 0.25
DOWNLOADING = "downloading"  # a slow network is no hang: it has no limit
_WAITING = "waiting for the other processes"  # at the end of its work
_SUSPECT_SECONDS = 5.0  # of silence after which a process is taken for dead when a collective has failed or hangs
_DUMP_SECONDS = 10.0  # for which the disk may block the stacks
_TELL_SECONDS = 5.0  # for which a dead process 0 may block a last message

_Call = TypeVar("_Call", bound=Callable[..., Any])


class Watchdog:
    """Context manager around a whole run, of one process or of several. The loop reports what it does.

    Where the block raises in one of several processes, the others end with a line that names this process, its host and the
    error, and with its exit code. Then this process ends without waiting for them.

    Args:
      limits: `config.hosts`.
      workdir: of the run; `logs` and `heartbeats` are written there.

    Attributes:
      peers: the other processes; None in a run of one.
      times: of the steps so far.
    """

    def __init__(self, limits: ConfigDict, workdir: Path) -> None:
        self.times = StepTimes()
        self._limits, self._workdir = limits, workdir
        self._peer_seconds = float(limits.peer_seconds)
        self._process, self._host = jax.process_index(), socket.gethostname()
        self._clock = AwakeClock(4 * LOOK_SECONDS)
        self._doing, self._since = "starting", 0.0  # and the time of the clock at the last sign of progress
        self._step, self._step_began = 0, time.perf_counter()  # steps count from 1, as in the printed lines
        self._stage: object = None
        self._heartbeat: HeartbeatFile | None = None
        self._ended = threading.Event()
        self._told = False
        self.peers: Peers | None = None
        if jax.process_count() > 1:
            from tonsai_jax.hosts import peers  # imported here: most runs have one process

            self.peers = peers.Peers(self.beat, self._clock.now)

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if self.peers is not None:
            threading.Thread(target=self._exchange, args=(self.peers,), name="peers", daemon=True).start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self.peers is not None:
            if error is not None:
                self._end_after(error, self.peers)
            self.report(_WAITING)
            self.peers.done()
            self.peers.all_done.wait()
        self._ended.set()
        if self._heartbeat is not None:
            self._heartbeat.close()

    @contextlib.contextmanager
    def tells_failure(self) -> Iterator[None]:
        """Tells the others at once where the block raises: what is around it, as a last copy to a mirror, takes time."""
        try:
            yield
        except BaseException as error:
            if self.peers is not None and not self.peers.is_lost_in(error):
                from tonsai_jax.hosts.connection import leave  # imported here: most runs have one process

                leave()  # process 0 may end before this one, which ends with an error of its own
                self._tell(f"{self.peers.name} failed: {_text_of(error)}", exit_code(error), self.peers)
            raise

    def report(self, doing: str) -> None:
        """From now on the process does this, and has the limit of it: `pause_seconds` where it has no other one."""
        self._doing, self._since = doing, self._clock.now()

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What the block does ("saving", "evaluating") has `pause_seconds`, and is no part of the time of a step.

        What it does next has its whole limit. `DOWNLOADING` has none.
        """
        before, began = self._doing, time.perf_counter()
        self.report(what)
        yield
        self.report(before)
        self._step_began += time.perf_counter() - began

    def step_begins(self, step: int, stage: object) -> None:
        """The batch of `step` is there. The first step of this process and of each `stage` compiles its program."""
        if self._heartbeat is None:
            path = self._workdir / "heartbeats" / f"process-{self._process}.json"
            self._heartbeat = HeartbeatFile(path, self.beat)
        self._step = step + 1
        self.report("training" if stage == self._stage else "compiling")
        self._stage = stage

    def step_ends(self, step: int) -> None:
        """`step` is dispatched, and the one before it is done."""
        now = time.perf_counter()
        if self._doing == "training":
            self.times.add(step, now - self._step_began)
        self._step_began = now
        self.report("reading data")

    def counted(self, function: _Call) -> _Call:
        """`function`, each call of which is progress: an evaluation of many batches may take longer than its limit."""

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._since = self._clock.now()
            return function(*arguments, **keywords)

        return call  # type: ignore[return-value]  # it takes and returns the same

    def beat(self) -> dict[str, Any]:
        """Where this process is, as in the heartbeat file; `time` is in seconds since 1970."""
        return {
            "process": self._process,
            "host": self._host,
            "pid": os.getpid(),
            "step": self._step,
            "time": round(time.time(), 3),
            "doing": self._doing,
        }

    def _exchange(self, peers: "Peers") -> None:
        while not self._ended.is_set():
            peers.exchange()
            self._ended.wait(peers.EXCHANGE_SECONDS)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._clock.tick()
            if self.peers is not None:
                self._look_at(self.peers)
            idle, limit = self._clock.now() - self._since, self._limit()
            if limit and idle > limit:
                if _is_debugged():
                    self._since = self._clock.now()
                else:
                    self._end_hang(idle, limit)

    def _look_at(self, peers: "Peers") -> None:
        if self._told:
            return  # this process ends with an error of its own, and the others end because of it
        if (failure := peers.failure) is not None:
            claim_end()
            if failure.is_hang:
                self._dump_stacks()
            if self._process == 0:
                time.sleep(2 * peers.EXCHANGE_SECONDS)  # the others read it from this process
            end_process(f"{failure.message}; {peers.name} ends too", failure.code)
        if silent := peers.silent(self._peer_seconds):
            claim_end()
            line = f"{silent}; run the same command again on all hosts"
            within(_TELL_SECONDS, lambda: peers.fail(line, EXIT_TEMPORARY))
            end_process(f"{peers.name}: {line}", EXIT_TEMPORARY)

    def _limit(self) -> float:
        """Seconds for which what the process does may show no progress; 0 is no limit."""
        limits, usual = self._limits, self.times.median()
        if self._doing in (DOWNLOADING, _WAITING):
            return 0.0
        if self._doing in ("starting", "compiling"):
            return float(limits.start_seconds)
        if self._doing in ("training", "reading data"):
            if usual is None or not limits.hang_seconds:
                return float(limits.start_seconds if limits.hang_seconds else 0)
            return float(max(limits.hang_seconds, limits.hang_factor * usual))
        return float(limits.pause_seconds)

    def _end_hang(self, idle: float, limit: float) -> None:
        claim_end()
        usual = self.times.median()
        median = f", a step takes {usual:.2f} s" if usual else ""
        line = (
            f"no progress for {idle:.0f} s (step {self._step}, {self._doing}; the limit is {limit:.0f} s{median}); stacks of "
            f"all threads: {self._dump_stacks()}"
        )
        if self.peers is not None:
            self._end_several(self.peers, line)
        end_process(f"{line}; run the same command again to continue from the last checkpoint", EXIT_TEMPORARY)

    def _end_several(self, peers: "Peers", line: str) -> None:
        said = [""]

        def tell() -> None:
            late = peers.silent(_SUSPECT_SECONDS) or peers.latest()
            said[0] = f"{late}; " if late else ""
            peers.fail(f"{said[0]}{peers.name}: {line}", EXIT_TEMPORARY, is_hang=True)

        within(_TELL_SECONDS, tell)
        end_process(f"{said[0]}{peers.name}: {line}", EXIT_TEMPORARY)

    def _dump_stacks(self) -> Path:
        path = self._workdir / "logs" / f"process-{self._process}-{time.strftime('%Y%m%d-%H%M%S')}.txt"

        def dump() -> None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", encoding="utf-8") as file:
                    faulthandler.dump_traceback(file, all_threads=True)

        within(_DUMP_SECONDS, dump)
        return path

    def _end_after(self, error: BaseException, peers: "Peers") -> NoReturn:
        """Ends this process after an error of its own, or of a collective whose other side is gone."""
        code, text = exit_code(error), _text_of(error)
        if peers.is_lost_in(error):
            # The thread that watches soon knows which process it was, and ends this one with a line about it.
            self._peer_seconds = min(self._peer_seconds, _SUSPECT_SECONDS)
            time.sleep(self._peer_seconds + _TELL_SECONDS)
            code = EXIT_TEMPORARY
            text = f"lost its connection to another process at step {self._step} ({text[:300]})"
        elif not isinstance(error, UserError):
            within(SPEAK_SECONDS, lambda: traceback.print_exception(error))
        claim_end()
        if not self._told:
            self._tell(f"{peers.name} failed: {text}", code, peers)
        end_process(text if isinstance(error, UserError) else f"{peers.name}: {text}", code)

    def _tell(self, message: str, code: int, peers: "Peers") -> None:
        self._told = True
        within(_TELL_SECONDS, lambda: peers.fail(message, code))


def _text_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _is_debugged() -> bool:
    """Whether a person looks at this process: it stands in Python's debugger, or another debugger is attached to it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__") in ("bdb", "pdb"):
            return True
        frame = frame.f_back
    with contextlib.suppress(OSError):  # only Linux has the file
        return "TracerPid:\t0\n" not in Path("/proc/self/status").read_text()
    return False

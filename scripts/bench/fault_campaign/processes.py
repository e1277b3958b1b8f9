"""Two processes train one run, and something happens to one of them: the run ends with one line and a code, or it goes on.

After each fault the same command is started again on both, and the run must become what it is without the fault.
"""

import json
import math
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .findings import SESSION_SECONDS, TRACE, Findings, last_line
from .kills import first_difference
from .sessions import Session, start_warm
from .tiny_run import TinyRun

# Short limits, so that a campaign takes minutes; the defaults are for real runs.
LIMITS = {
    "hosts.connect_seconds": 15,
    "hosts.shared_seconds": 5,
    "hosts.hang_seconds": 8,
    "hosts.peer_seconds": 8,
    "hosts.pause_seconds": 30,
}
WITHIN_SECONDS = (
    30.0  # from the fault to the end of both processes: the longest of the limits that count, and a slow machine
)
LATE_SECONDS = 4.0  # of what must not end a run
STUCK_STEP = 12  # whose batch does not come


@dataclass(frozen=True)
class Fault:
    """What happens to process `victim`.

    Attributes:
      sends: signals to it, with the seconds before the next one.
      at: when they are sent.
      late: seconds that it starts after the other; infinite is never.
      stuck: seconds for which its data does not come; infinite is for ever.
      overrides: of its command line, where it differs from the other.
      other_rows: whether its rows have another manifest.
      says: what the one line must name; None where the run goes on.
    """

    name: str
    victim: int
    says: str | None
    sends: tuple[tuple[signal.Signals, float], ...] = ()
    at: Literal["start", "training", "saving"] = "training"
    late: float = 0.0
    stuck: float = 0.0
    overrides: tuple[str, ...] = ()
    other_rows: bool = False


_KILL, _STOP = ((signal.SIGKILL, 0.0),), ((signal.SIGSTOP, 0.0),)
_PAUSE = ((signal.SIGSTOP, LATE_SECONDS), (signal.SIGCONT, 0.0))
FAULTS = (
    Fault("kill 1", 1, "process 1", _KILL),
    Fault("kill 0", 0, "process 0", _KILL),
    Fault("kill 1 at start", 1, "process", _KILL, at="start"),
    Fault("kill 0 at start", 0, "process 0", _KILL, at="start"),
    Fault("kill 1 while saving", 1, "process 1", _KILL, at="saving"),
    Fault("kill 0 while saving", 0, "process 0", _KILL, at="saving"),
    Fault("stop 1", 1, "process 1", _STOP),
    Fault("stop 0", 0, "process 0", _STOP),
    Fault("pause 1", 1, None, _PAUSE),
    Fault("SIGTERM to 1", 1, None, ((signal.SIGTERM, 0.0),)),
    Fault("stuck data 1", 1, "process 1", stuck=math.inf),
    Fault("stuck data 0", 0, "process 0", stuck=math.inf),
    Fault("slow data 1", 1, None, stuck=LATE_SECONDS),
    Fault("late 1", 1, None, late=LATE_SECONDS),
    Fault("late 0", 0, None, late=LATE_SECONDS),
    Fault("absent 1", 1, "process", late=math.inf),
    Fault("absent 0", 0, "process 0", late=math.inf),
    Fault("unshared folder", 1, "not (shared|the same)|shared|same folder", overrides=("--workdir={elsewhere}",)),
    Fault("other learning rate", 1, "learning_rate", overrides=("optimizer.learning_rate=1e-3",)),
    Fault("other seed", 1, "seed", overrides=("seed=7",)),
    Fault("other manifest", 1, "manifest|weight", other_rows=True),
    Fault("other length", 1, "steps", overrides=("steps=50",)),
)


def run_processes(folder: Path, rows: Path, count: int, seed: int, only: Sequence[str] | None) -> Findings:
    """`count` faults, beginning with one of each kind; the steps at which they happen are drawn."""
    findings, rng = Findings("processes"), random.Random(seed)
    reference = _Pair(folder / "reference", rows)
    ends = reference.start(0, cache="fill")
    if (problem := reference.end(ends)) is not None:
        findings.failed("reference failed", problem)
        return findings.end()
    wanted = json.loads(reference.run.digest_file.read_text())
    chosen = [fault for fault in FAULTS if only is None or fault.name in only]
    for number in range(count if only is None else len(chosen)):
        fault = chosen[number % len(chosen)]
        pair = _Pair(folder / f"{number:02d}-{fault.name.replace(' ', '-')}", rows)
        failures = len(findings.failures)
        findings.count("faults")
        for kind, line in pair.suffer(fault, rng, findings):
            findings.failed(kind, f"{fault.name}: {line}")
        if len(findings.failures) == failures and fault.says is not None:
            for session in pair.start(1):
                session.wait(SESSION_SECONDS)
            problem = pair.end(pair.sessions)
            if problem is not None:
                findings.failed("did not go on", f"{fault.name}: {problem}")
        if len(findings.failures) == failures:
            ours = json.loads(pair.run.digest_file.read_text())
            for kind in ("arrays", "metrics"):
                if ours[kind] != wanted[kind]:
                    findings.failed("differs", f"{fault.name}: {kind}: {first_difference(ours[kind], wanted[kind])}")
        if len(findings.failures) == failures:
            shutil.rmtree(pair.folder)
    return findings.end()


class _Pair:
    """A run of two processes in one workdir."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.folder = folder
        self.run = TinyRun(folder, Path("rows"), overrides=_limits())  # relative: each process has a folder of its own
        self.sessions: list[Session] = []
        for name in ("place-0", "place-1"):
            (folder / name).mkdir(parents=True)
            shutil.copytree(rows, folder / name / "rows")

    def start(self, attempt: int, fault: Fault | None = None, cache: Literal["fill", "read"] = "read") -> list[Session]:
        """Starts both processes, or the one that a fault leaves."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.sessions = []
        order = [0, 1] if fault is None or fault.victim == 1 else [1, 0]  # the victim last
        for index in order:
            own = fault if fault is not None and index == fault.victim else None
            if own is not None and math.isinf(own.late):
                break
            time.sleep(own.late if own else 0)
            overrides = [word.format(elsewhere=self.folder / "elsewhere") for word in own.overrides] if own else []
            settings = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            }
            session = self.run.start(
                2 * attempt + index,
                *overrides,
                cache=cache,
                settings=settings,
                between_batches=_sleep_at(STUCK_STEP, own.stuck) if own and own.stuck else None,
                notes_digest=False,
                directory=self.folder / f"place-{index}",
            )
            self.sessions.append(session)
        return self.sessions

    def end(self, sessions: Sequence[Session]) -> str | None:
        """Waits for the good end of all, and notes the digest of the run; returns what is wrong, or None."""
        for session in sessions:
            code = session.wait(SESSION_SECONDS)
            if code != 0:
                lines = " | ".join(last_line(each.text()) for each in sessions)
                for each in sessions:
                    each.kill()
                return f"exit code {code} ({session.log}): {lines}"
        noting = start_warm(self.run.note_digest, self.folder / "logs" / "digest.txt")
        return None if noting.wait(SESSION_SECONDS) == 0 else last_line(noting.text())

    def suffer(self, fault: Fault, rng: random.Random, findings: Findings) -> list[tuple[str, str]]:
        """Lets the fault happen; returns the kinds and lines of what is wrong then."""
        if fault.other_rows:
            manifest = self.folder / f"place-{fault.victim}" / "rows" / "manifest.json"
            whole = manifest.read_text()
            manifest.write_text(whole.replace('"weight": 0.5', '"weight": 0.7', 1))
        sessions = self.start(0, fault)
        if fault.sends:
            victim = sessions[-1]
            victim.until(self._moment(fault.at, rng), SESSION_SECONDS)
            for number, seconds in fault.sends:
                victim.send(number)
                time.sleep(seconds)
        if fault.stuck:
            sessions[-1].until(self._is_stuck(fault), SESSION_SECONDS)
        began = time.monotonic()
        if fault.says is None:
            problem = self._goes_on(fault, sessions)
            findings.count("went on")
            return [("ended", problem)] if problem else []
        problems = self._ends(fault, sessions, fault.says)
        findings.count("ended")
        findings.counts["slowest end (s)"] = max(
            findings.counts.get("slowest end (s)", 0), round(time.monotonic() - began)
        )
        if fault.other_rows:
            manifest.write_text(whole)
        return problems

    def _moment(self, at: str, rng: random.Random) -> Callable[[], bool]:
        if at == "start":
            deadline = time.monotonic() + rng.uniform(0.2, 2.0)
            return lambda: time.monotonic() > deadline
        if at == "saving":
            return self.run.is_saving
        step = rng.randint(6, 30)
        first = self.run.log(0)  # the first process prints
        return lambda: re.search(rf"^step +{step}/", first.read_text(errors="replace"), re.MULTILINE) is not None

    def _is_stuck(self, fault: Fault) -> Callable[[], bool]:
        noted = self.run.batches_file(fault.victim)
        return lambda: noted.exists() and noted.read_text().count("\n") == STUCK_STEP

    def _goes_on(self, fault: Fault, sessions: Sequence[Session]) -> str | None:
        if (problem := self.end(sessions)) or signal.SIGTERM not in dict(fault.sends):
            return problem
        return self.end(self.start(1))  # it was saved, and the next start completes it

    def _ends(self, fault: Fault, sessions: Sequence[Session], says: str) -> list[tuple[str, str]]:
        """Every process that can must end in time, with one line that names what happened."""
        killed = any(number == signal.SIGKILL for number, _ in fault.sends)
        stopped = any(number == signal.SIGSTOP for number, _ in fault.sends)
        deadline, problems, lines = time.monotonic() + WITHIN_SECONDS, [], []
        others = [session for session in sessions if not (fault.sends and session is sessions[-1])]
        for session in others:
            code = session.wait(max(0.1, deadline - time.monotonic()))
            if code is None:
                problems.append(
                    ("hung", f"{session.log}: nothing for {WITHIN_SECONDS:.0f} s: {last_line(session.text())}")
                )
            elif code not in (1, 75):
                problems.append(("wrong code", f"{session.log}: exit code {code}: {last_line(session.text())}"))
            if TRACE.search(session.text()):
                problems.append(("stack trace", f"{session.log}: {last_line(session.text())}"))
            errors = re.findall(r"^error: .*", session.text(), re.MULTILINE)
            if len(errors) > 1:
                problems.append(("several lines", f"{session.log}: {errors}"))
            lines += errors
        if not any(re.search(says, line) for line in lines) and not problems:
            problems.append(("no line", f"nothing names {says!r}: {lines}"))
        if stopped:
            sessions[-1].send(signal.SIGCONT)
            if not killed and sessions[-1].wait(WITHIN_SECONDS) is None:
                problems.append(("hung", f"{sessions[-1].log}: the stopped process goes on for ever"))
        for session in sessions:
            session.kill()
        return problems


def _limits() -> tuple[str, ...]:
    from tonsai_jax.config import default_config

    config = default_config()
    there = config.get("hosts", {})
    return tuple(f"{key}={value}" for key, value in LIMITS.items() if key.partition(".")[2] in there)


def _sleep_at(step: int, seconds: float) -> Callable[[int], None]:
    def between(now: int) -> None:
        deadline = time.monotonic() + seconds
        while now == step and time.monotonic() < deadline:
            time.sleep(0.1)

    return between

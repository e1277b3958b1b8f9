"""Kills one run again and again until it is complete, and compares it with a run that nothing disturbed."""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from .findings import SESSION_SECONDS, TRACE, Findings, last_line
from .sessions import Session
from .tiny_run import TinyRun, metrics

MOMENTS = ("any", "any", "import", "compile", "save", "save", "evaluation", "end")  # twice: twice as often
MOST_KILLS = 25  # of one run; then it ends undisturbed
SHARE_OF_REQUESTS = 0.15  # signals that a run answers, next to the kills
REQUESTS = {signal.SIGTERM: 143, signal.SIGINT: 130}  # with the exit code where nothing had to be saved
_SCRATCH = re.compile(r"\.partial|\.earlier-|orbax-checkpoint-tmp|\.lock$")


@dataclass(frozen=True)
class Pace:
    """How many seconds the parts of an undisturbed session take, by which the moments are drawn."""

    whole: float
    imports: float = 4.0
    compile: float = 3.0
    evaluation: float = 0.1
    end: float = 1.0
    save: float = 0.03


def run_kills(folder: Path, rows: Path, kills: int, seed: int) -> Findings:
    """Kills runs until there were `kills` kills by SIGKILL; each run is completed and compared at its end."""
    findings = Findings("kills")
    reference = TinyRun(folder / "reference", rows)
    started = time.monotonic()
    for cache in ("fill", "read"):
        shutil.rmtree(reference.folder, ignore_errors=True)
        started = time.monotonic()
        session = reference.start(0, cache=cache)
        if session.wait(SESSION_SECONDS) != 0:
            session.kill()
            findings.failed("reference failed", last_line(session.text()))
            return findings.end()
    pace, rng = Pace(time.monotonic() - started), random.Random(seed)
    for number in count():
        left = kills - findings.counts.get("kills", 0)
        if left <= 0:
            break
        run = TinyRun(folder / f"run-{number:03d}", rows)
        failures = len(findings.failures)
        _kill_until_complete(run, reference, min(left, MOST_KILLS), pace, rng, findings)
        if len(findings.failures) == failures:
            shutil.rmtree(run.folder)
    return findings.end()


def _kill_until_complete(
    run: TinyRun, reference: TinyRun, most: int, pace: Pace, rng: random.Random, findings: Findings
) -> None:
    """One run, from nothing to its end; it is given up at a session that fails by itself."""
    disturbed, fresh_steps = 0, set()
    for number in count():
        saved = run.saved_steps()
        run.digest_file.unlink(missing_ok=True)  # of a session that was asked to stop
        moment = rng.choice(MOMENTS) if disturbed < most else "none"
        session = (
            run.start_fresh(number)
            if moment == "import"
            else run.start(number, cache="off" if moment == "compile" else "read")
        )
        is_there = _wait_for(moment, run, session, pace, rng)
        wanted = [0]
        if is_there and session.poll() is None:
            number_sent = signal.SIGKILL
            if rng.random() < SHARE_OF_REQUESTS:
                number_sent = rng.choice(list(REQUESTS))
                wanted = [0, REQUESTS[number_sent]]
                findings.count("requests")
            else:
                wanted = [0, -signal.SIGKILL]
                findings.count("kills")
                findings.count(f"at {moment}")
                disturbed += 1
            session.send(number_sent)
        code = session.wait(SESSION_SECONDS)
        where = f"{session.log} ({moment}): "
        if code is None:
            session.kill()
            findings.failed("hung", f"{where}nothing for {SESSION_SECONDS:.0f} s after: {last_line(session.text())}")
            return
        if left := session.left_behind():
            findings.failed("litter", f"{where}processes {', '.join(left)}")
        text = session.text()
        if session.is_fresh:
            fresh_steps |= {int(step) - 1 for step in re.findall(r"^step +(\d+)/", text, re.MULTILINE)}
        if code not in wanted and not (text == "" and -code in REQUESTS):  # Python itself was still starting
            findings.failed("unreadable", f"{where}exit code {code}: {last_line(text)}")
            return
        if TRACE.search(text):
            findings.failed("stack trace", f"{where}{last_line(text)}")
        resumed = re.search(r"^steps: (\d+) of", text, re.MULTILINE)
        if resumed and int(resumed[1]) != (saved[-1] if saved else 0):
            findings.failed("lost steps", f"{where}went on from {resumed[1]}, but {saved[-1]} was saved")
        if code == 0 and (run.workdir / "complete.json").is_file() and _is_complete(session, run):
            break
    findings.count("runs")
    if (
        not run.digest_file.exists()
    ):  # a fresh session ended it: one more says that it is complete, and notes the digest
        run.start(999).wait(SESSION_SECONDS)
    for line in differences(run, reference, fresh_steps):
        findings.failed("differs", f"{run.folder}: {line}")
    for line in litter(run, reference):
        findings.failed("litter", f"{run.folder}: {line}")


def _is_complete(session: Session, run: TinyRun) -> bool:
    return " is complete: " in session.text()


def _wait_for(moment: str, run: TinyRun, session: Session, pace: Pace, rng: random.Random) -> bool:
    """Returns at a random time within the moment; False where the session ended before it, or for no moment at all."""

    def printed(pattern: str) -> Callable[[], bool]:
        return lambda: re.search(pattern, session.text(), re.MULTILINE) is not None

    if moment == "none":
        return False
    happens: Callable[[], bool] = lambda: True  # noqa: E731
    length = pace.whole
    if moment == "import":
        length = pace.imports
    elif moment == "compile":
        happens, length = printed(r"^steps: "), pace.compile
    elif moment == "save":
        happens, length = _nth_save(run, rng.randint(1, 6)), pace.save
    elif moment == "evaluation":
        step = rng.randrange(run.eval_every, run.steps + 1, run.eval_every)
        later = range(step, run.steps + 1, run.eval_every)
        happens, length = printed(rf"^step ({'|'.join(map(str, later))}): saving"), pace.evaluation
    elif moment == "end":
        happens, length = printed(rf"^step {run.steps}: saving"), pace.end
    if session.until(happens, SESSION_SECONDS):
        session.until(lambda: False, rng.uniform(0, length))
    return session.poll() is None


def _nth_save(run: TinyRun, number: int) -> Callable[[], bool]:
    """True while save `number` of this session is being written; what a killed one left does not count."""
    saves, was_saving = 0, True

    def happens() -> bool:
        nonlocal saves, was_saving
        is_saving = run.is_saving()
        saves += is_saving and not was_saving
        was_saving = is_saving
        return is_saving and saves >= number

    return happens


def differences(run: TinyRun, reference: TinyRun, fresh_steps: set[int]) -> list[str]:
    """What is not as in the run that nothing disturbed.

    Args:
      fresh_steps: steps that a session took which notes no batches.
    """
    lines = []
    steps = [row["step"] for row in metrics(run.workdir) if "train/loss" in row]
    if steps != list(range(1, run.steps + 1)):
        lines.append(f"metrics.jsonl: the steps are not each there once, in order: {_runs(steps)}")
    ours, theirs = run.digest(), reference.digest()
    for kind in ("arrays", "metrics", "texts"):
        if ours[kind] != theirs[kind]:
            lines.append(f"{kind}: {first_difference(ours[kind], theirs[kind])}")
    wanted = dict(reference.batches())
    seen = set(fresh_steps)
    for step, sha in run.batches():
        seen.add(step)
        if sha != wanted[step]:
            lines.append(f"rows: step {step} trained on another batch")
    if missing := sorted(wanted.keys() - seen):
        lines.append(f"rows: steps {missing} were never trained")
    return lines


def litter(run: TinyRun, reference: TinyRun) -> list[str]:
    """What lies in the folder of a complete run and does not in that of the reference, or is nobody's to keep."""
    ours, theirs = set(run.digest()["files"]), set(reference.digest()["files"])
    lines = [f"left over: {name}" for name in sorted(ours - theirs)]
    lines += [f"missing: {name}" for name in sorted(theirs - ours)]
    scratch = [path for path in run.workdir.rglob("*") if _SCRATCH.search(path.name)]
    scratch += list((run.folder / "tmp").iterdir())
    return lines + [f"left over: {path.relative_to(run.folder)}" for path in sorted(scratch)]


def first_difference(ours: Any, theirs: Any) -> str:
    """The first place where two digests differ."""
    own, other = (part if isinstance(part, dict) else dict(enumerate(part)) for part in (ours, theirs))
    keys = sorted(own.keys() | other.keys())
    different = [key for key in keys if own.get(key) != other.get(key)]
    first = different[0]
    values = (str(side.get(first))[:150] for side in (own, other))
    return f"{len(different)} of {len(keys)} differ, first {first}: {' instead of '.join(values)}"


def _runs(steps: list[int]) -> str:
    jumps = [f"{before} then {after}" for before, after in zip([0, *steps], steps, strict=False) if after != before + 1]
    return ", ".join(jumps[:5]) or f"{len(steps)} steps"

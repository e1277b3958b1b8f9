"""Trains the planned runs one after another, each in its own process, and scores them; complete runs are skipped."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tonsai_jax.ablation.other_text import OtherText
from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.ablation.processes import Processes
from tonsai_jax.reporting.complete_file import read_complete
from tonsai_jax.reporting.numbers import format_seconds

LOG = "train.log"
TEXT_LOG = "evaluate.log"


def is_complete(run: PlannedRun) -> bool:
    """Whether training has recorded that the run is complete."""
    record = read_complete(run.workdir)
    return record is not None and record["step"] == run.total_steps


def run_all(
    runs: Sequence[PlannedRun],
    processes: Processes,
    say: Callable[[str], None],
    after_each: Callable[[dict[Path, str]], object],
    text: OtherText | None = None,
) -> dict[Path, str]:
    """Trains the runs that are not complete yet; if a run fails, the next ones are still trained.

    After a signal, the current run saves a checkpoint and ends; no further run is started.

    Args:
      runs: the runs, in order.
      processes: run the commands.
      say: prints a line.
      after_each: called after every run with the failures so far.
      text: a complete run is scored on it, if it is not yet.

    Returns {workdir of a failed run: the reason}.
    """
    failures: dict[Path, str] = {}
    for number, run in enumerate(runs, 1):
        name = f"[{number}/{len(runs)}] {run.variant}, seed {run.seed}"
        if is_complete(run) and (text is None or text.bits_per_byte(run) is not None):
            say(f"{name}: complete")
            continue
        began = time.monotonic()
        failure = _finish(name, run, processes, say, text)
        took = format_seconds(time.monotonic() - began)
        if processes.stopped:
            say(f"{name}: stopped after {took}; run the same command to continue")
            return failures
        say(f"{name}: failed after {took}: {failure}" if failure else f"{name}: complete after {took}")
        if failure:
            failures[run.workdir] = failure
        after_each(failures)
    return failures


def _finish(
    name: str, run: PlannedRun, processes: Processes, say: Callable[[str], None], text: OtherText | None
) -> str:
    """Trains a run to its end and scores it; returns why that failed, or an empty string (also after a signal)."""
    if not is_complete(run):
        say(f"{name}: training, see {run.workdir / LOG}")
        failure = processes.run(run.command, run.workdir / LOG)
        if failure or processes.stopped:
            return failure
        if not is_complete(run):
            return f"ended before its last step; see {run.workdir / LOG}"
    if text is not None:
        say(f"{name}: scoring text, see {run.workdir / TEXT_LOG}")
        return processes.run(text.command(run), run.workdir / TEXT_LOG)
    return ""

"""Reads the result of a run from its folder: the loss curve and the final figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tonsai_jax.ablation.other_text import OtherText
from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.ablation.running import is_complete
from tonsai_jax.reporting.complete_file import read_complete
from tonsai_jax.reporting.metrics_file import language_scores, metrics_rows
from tonsai_jax.stages import Stage, tokens_between

FINAL_SHARE = (
    0.1  # of the steps; the final loss is the mean over the last ones, because the loss of a single batch is noisy
)


@dataclass(frozen=True)
class Point:
    """A point of the loss curve, from a line of metrics.jsonl: the loss is None if it was not finite."""

    step: int
    tokens: int
    seconds: float
    loss: float | None


@dataclass(frozen=True)
class RunResult:
    """Figures of a run.

    Attributes:
      complete: whether the run has reached its last step.
      curve: the loss curve so far.
      loss: mean loss of the last tenth of the steps; None if the run is not complete or no loss there is finite.
      bits_per_byte: {language: bits per byte} on held-out text after the last step; empty if it was not evaluated.
      mean_bits_per_byte: the mean over the languages; None if it was not evaluated.
      text_bits_per_byte: {language: bits per byte} on text of another domain; empty if it was not scored.
      tokens_per_second: over the whole run; None if no step was timed.
      peak_gib: peak memory of the device that used most, or of the process on a CPU.
    """

    complete: bool
    curve: tuple[Point, ...]
    loss: float | None
    bits_per_byte: dict[str, float]
    mean_bits_per_byte: float | None
    text_bits_per_byte: dict[str, float]
    tokens_per_second: float | None
    peak_gib: float | None


def read_result(run: PlannedRun, text: OtherText | None = None) -> RunResult:
    """Reads what the run has written so far; a run that has not started has an empty curve.

    Args:
      run: the run.
      text: the text of another domain on which it is scored.
    """
    rows = [row for row in metrics_rows(run.workdir / "metrics.jsonl") if "train/loss" in row]
    curve = tuple(read_curve(rows, run.stages)) if rows else ()
    complete = is_complete(run) and bool(curve)
    record = read_complete(run.workdir) if complete else None
    scores = record["scores"] if record else {}
    return RunResult(
        complete=complete,
        curve=curve,
        loss=final_loss(curve, run.total_steps) if complete else None,
        bits_per_byte=language_scores(scores),
        mean_bits_per_byte=scores.get("eval/bits_per_byte"),
        text_bits_per_byte=(text.bits_per_byte(run) or {}) if text and complete else {},
        tokens_per_second=curve[-1].tokens / curve[-1].seconds if curve and curve[-1].seconds else None,
        peak_gib=max((row["memory/peak_gib"] for row in rows), default=None),
    )


def read_curve(rows: Sequence[dict[str, Any]], stages: Sequence[Stage]) -> list[Point]:
    """The loss curve, with the tokens and the seconds of training up to each point.

    The speed on a line is that of the steps since the line before, without compiling, evaluating, saving and the time between
    two processes. The first step of a process is not timed: for it, and for the steps since the line before it, the speed of the
    next line is used.

    Args:
      rows: the lines of metrics.jsonl that have a training loss.
      stages: the stages of the run.
    """
    speeds = [row.get("speed/tokens_per_second") for row in rows]
    following = None
    for number in reversed(range(len(rows))):
        following = speeds[number] = speeds[number] or following
    curve: list[Point] = []
    tokens, seconds, speed = 0, 0.0, None
    for row, own_speed in zip(rows, speeds, strict=True):
        before, tokens = tokens, tokens_between(stages, 0, row["step"])
        speed = own_speed or speed
        seconds += (tokens - before) / speed if speed else 0.0
        curve.append(Point(row["step"], tokens, seconds, row["train/loss"]))
    return curve


def final_loss(curve: Sequence[Point], total_steps: int) -> float | None:
    """The mean of the finite losses in the last tenth of the steps; None if there are none."""
    losses = [point.loss for point in curve if point.step > (1 - FINAL_SHARE) * total_steps and point.loss is not None]
    return sum(losses) / len(losses) if losses else None

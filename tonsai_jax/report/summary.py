"""The first look at a run: its status, its scores, its size, its speed, its cost."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from tonsai_jax.report.run import RunRecord
from tonsai_jax.reporting.metrics_file import higher_is_better
from tonsai_jax.reporting.numbers import format_count
from tonsai_jax.reporting.tables import Table

BITS_PER_BYTE = "eval/bits_per_byte"


class Card(NamedTuple):
    """A figure with its name above it and a remark below it; `tone` is "good", "bad" or empty."""

    name: str
    figure: str
    remark: str = ""
    tone: str = ""


def status_of(run: RunRecord) -> Card:
    """Whether the run is complete, is running, was stopped, or failed."""
    step, total = run.metrics.last_step, run.total_steps
    saved = max(run.checkpoints, default=0)
    reached = f"step {step:,}" + (f" of {total:,}" if total else "")
    recorded = run.complete.get("step", -1) >= max(step, total or 0)  # not so of a run that was made longer since
    if recorded or (total and not run.is_running and step >= total and (saved >= total or not run.checkpoints)):
        return Card("status", "complete", f"{max(step, run.complete.get('step', 0)):,} steps", "good")
    if run.is_running:
        return Card("status", "running", reached)
    if run.metrics.ended_in_nan:
        return Card("status", "failed", f"the loss was not finite at {reached}", "bad")
    if not step:
        return Card("status", "not started", "no step is logged yet")
    if run.checkpoints and step > saved:
        return Card("status", "failed", f"ended at {reached}; the last checkpoint is of step {saved:,}", "bad")
    if not run.checkpoints:  # a run that was killed before its first save, or a copy without them
        return Card("status", "stopped", f"at {reached}; no checkpoint in this folder")
    return Card("status", "stopped", f"at {reached}; the same command continues it")


def languages_of(runs: Sequence[RunRecord]) -> list[str]:
    """The languages that were evaluated, in order of their first score."""
    names = (name for run in runs for name in run.metrics.under(f"{BITS_PER_BYTE}/") if "/" not in name)
    return list(dict.fromkeys(names))


def cards(run: RunRecord, price: float | None) -> list[Card]:
    """The summary of one run; figures that are not known have no card."""
    metrics = run.metrics
    found = [status_of(run)]
    for language in languages_of([run]):
        series = metrics[f"{BITS_PER_BYTE}/{language}"]
        if series.last is None or series.first is None:
            continue
        remark, tone = "one evaluation so far", ""
        if len(series.values) > 1 and series.first > 0:
            change = series.last / series.first - 1
            remark = f"{change:+.1%} since step {series.steps[0]:,.0f}"
            tone = "good" if change < 0 else "bad"
        found.append(Card(f"bits per byte, {language}", f"{series.last:.4f}", remark, tone))
    if not languages_of([run]) and (loss := metrics["train/loss"].last) is not None:
        found.append(Card("training loss", f"{loss:.4f}", "of the last logged step"))
    if (accuracy := metrics["eval/accuracy"].last) is not None:
        found.append(Card("held-out pairs", f"{accuracy:.1%}", "the chosen answer is preferred"))
    if (tokens := metrics["progress/tokens"].last) is not None:
        found.append(Card("tokens read", format_count(tokens), "padding included"))
    if (hours := metrics["progress/hours"].last) is not None:
        found.append(Card("time", format_hours(hours), "of all its processes, one after the other"))
    speed = metrics["speed/tokens_per_second"].values
    if len(speed):
        found.append(Card("speed", format_count(float(np.median(speed))), "tokens per second, median"))
    utilization = metrics["speed/mfu"].values
    if len(utilization):
        found.append(Card("MFU", f"{float(np.median(utilization)):.1%}", "median share of the devices' peak"))
    spent = device_hours(run)
    if price is not None and spent is not None:
        found.append(Card("cost", f"{price * spent:,.2f}", f"{spent:,.2f} device-hours at {price:g} each"))
    if run.best is not None:
        found.append(_best(run, *run.best))
    return found


def _best(run: RunRecord, step: int, score: float) -> Card:
    """The card of the best checkpoint, with the metric by which it is the best."""
    if run.config:
        of_pairs = run.config["loss"]["objective"] != "next_token"
        metric = run.config["checkpoint"]["best_metric"] or ("loss of pairs" if of_pairs else "bits_per_byte")
    else:
        metric = "score"
    value = -score if higher_is_better(metric) else score
    name = metric.removeprefix("eval/").replace("_", " ").replace("/", ", ")
    kept = "" if not run.checkpoints or step in run.checkpoints else "; that checkpoint was not kept"
    return Card("best checkpoint", f"step {step:,}", f"{name} {value:.4f}{kept}")


def format_hours(hours: float) -> str:
    """'42 s', '13.5 min', '7.2 h', '3.1 days'."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def hours_of_starts(run: RunRecord) -> list[float | None]:
    """Hours of training that began with each start of the trainer, by the count in the metrics; None where it is not known."""
    known = run.metrics["progress/hours"]
    if known.last is None or not run.environment:
        return [None] * len(run.environment)
    begins = [float(entry.get("start_step") or 0) for entry in run.environment]
    # A later start that went back to an older checkpoint took the steps after it again: they are its own.
    ends = [min([*begins[number + 1 :], float(known.steps[-1])]) for number in range(len(begins))]
    at = run.metrics.at
    spans = zip(begins, ends, strict=True)
    return [max(0.0, float(np.diff(at("progress/hours", np.array(span)))[0])) for span in spans]


def device_hours(run: RunRecord) -> float | None:
    """Hours of training times devices, over all starts; None where hours or devices are not known."""
    devices = [entry.get("devices") for entry in run.environment]
    hours = hours_of_starts(run)
    if not hours or not all(isinstance(count, int) for count in devices) or any(each is None for each in hours):
        return None
    return sum((each or 0.0) * (count or 0) for each, count in zip(hours, devices, strict=True))


def environment_table(run: RunRecord) -> Table | None:
    """A row for each start of the trainer."""
    if not run.environment:
        return None
    rows = []
    for entry, hours in zip(run.environment, hours_of_starts(run), strict=True):
        count, kind = entry.get("devices"), entry.get("device_kind") or "device"
        processes = entry.get("processes") or 1
        devices = f"{count} × {kind}" if count else kind
        versions = entry.get("versions") if isinstance(entry.get("versions"), dict) else {}
        rows.append(
            [
                _when(entry.get("started")),
                f"{entry.get('start_step') or 0:,}",
                "-" if hours is None else format_hours(hours),
                devices + (f", {processes} processes" if processes > 1 else ""),
                ", ".join(f"{name} {version}" for name, version in (versions or {}).items()),
                f"Python {entry.get('python', '?')}, {entry.get('platform', '?')}",
                _commit(entry.get("git")),
            ]
        )
    heads = ["started (UTC)", "at step", "trained", "devices", "versions", "system", "git commit"]
    return Table("", heads, rows, "lrrllll")


def commands_of(run: RunRecord) -> list[str]:
    """The commands that started the trainer, without those that are the same as the one before."""
    given = [str(entry["command"]) for entry in run.environment if entry.get("command")]
    return [command for number, command in enumerate(given) if number == 0 or command != given[number - 1]]


def _when(started: Any) -> str:
    try:
        return datetime.fromisoformat(str(started)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-"


def _commit(git: Any) -> str:
    if not isinstance(git, dict) or not git.get("commit"):
        return "-"
    return str(git["commit"])[:12] + (" with changes" if git.get("changed") else "")


def final_table(runs: Sequence[RunRecord], price: float | None) -> Table:
    """The final figures of several runs, a column for each."""
    columns = [{card.name: card for card in cards(run, price)} for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = []
    for name in names:
        cells = [column.get(name) for column in columns]
        with_remark = name == "status" or name.startswith("bits per byte")
        rows.append(
            [
                name,
                *(
                    "-" if cell is None else f"{cell.figure} ({cell.remark})" if with_remark else cell.figure
                    for cell in cells
                ),
            ]
        )
    return Table("", ["", *(run.name for run in runs)], rows, "l" + "r" * len(runs))

"""What the workdir of a run holds, read for its report: whatever is missing or broken becomes a note, and the rest stays."""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tonsai_jax.config import stages_of
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.task_scores import FOLDER as EVALUATIONS
from tonsai_jax.evaluation.task_scores import TaskScore, read_scores
from tonsai_jax.report.metrics import Metrics, read_metrics
from tonsai_jax.saved_config import from_json
from tonsai_jax.stages import SourceSize, total_steps

_SILENT_SECONDS = 120.0  # a lock of another host that was not renewed for this long is that of a dead trainer
_SAMPLE = {"prompt", "continuation"}  # the keys of a line of samples
_LARGEST = 1e300  # larger: it was not finite
_WHOLE = re.compile("[0-9]{1,15}")
_STEP = re.compile(r"step-(\d+)$")


@dataclass(frozen=True)
class RunRecord:
    """A run for a report.

    Attributes:
      name: shown in legends and tables.
      config: the saved config, complete with defaults; empty where it cannot be read.
      environment: one entry for each start of the trainer.
      data: the manifest of the token rows; empty where it cannot be read.
      complete: the content of complete.json; empty for a run that has none.
      samples: {step: rows} of samples/, and of the run's end; a row has "prompt" and "continuation".
      suite: the same of prompt_suite/; a row also has "id", "kind", "language" and "checks".
      evaluations: {name of the evaluation: (step, scores)}, the newest of each name.
      checkpoints: the steps of the checkpoints that are kept.
      best: the step with the lowest score and that score; None where none was recorded.
      total_steps: the length that the config asks for; None where it is not known.
      is_running: whether a trainer that is not this process works in the folder now.
      notes: what could not be read, as sentences.
    """

    name: str
    workdir: Path
    config: dict[str, Any]
    metrics: Metrics
    environment: list[dict[str, Any]]
    data: dict[str, Any]
    complete: dict[str, Any]
    samples: dict[int, list[dict[str, Any]]]
    suite: dict[int, list[dict[str, Any]]]
    evaluations: dict[str, tuple[int, list[TaskScore]]]
    checkpoints: list[int]
    best: tuple[int, float] | None
    total_steps: int | None
    is_running: bool
    notes: list[str] = field(default_factory=list)


def read_run(workdir: Path, name: str) -> RunRecord:
    """Reads the folder. Raises `UserError` only where it is not that of a run: neither metrics.jsonl nor config.json."""
    if not (workdir / "metrics.jsonl").is_file() and not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: no metrics.jsonl and no config.json, so this is not the workdir of a run; check the path"
        )
    notes: list[str] = []
    rows = workdir / "metrics.jsonl"
    metrics = _tolerant(rows, lambda: read_metrics(rows), notes) or Metrics()
    notes += metrics.notes
    saved = _json(workdir / "config.json", dict, notes, expected=True)
    config = _tolerant(workdir / "config.json", lambda: from_json(saved), notes) if saved else None
    data = _json(workdir / "data.json", dict, notes, holds={"sources": dict})
    complete = _json(workdir / "complete.json", dict, notes, holds={"step": int, "samples": list})
    checkpoints = workdir / "checkpoints"
    # Texts of later steps are of steps that are lost: the run went on from an older checkpoint.
    newest = metrics.last_step + config.log_every if metrics.series and config is not None else None
    samples = _jsonl_by_step(workdir / "samples", _SAMPLE, notes, newest)
    last = [each for each in complete.get("samples", ()) if isinstance(each, dict) and each.keys() >= _SAMPLE]
    if last:  # the end of a run also continues the prompts, whether or not it has before
        samples.setdefault(complete["step"], last)
    return RunRecord(
        name=name,
        workdir=workdir,
        config=json.loads(json.dumps(config.to_dict())) if config is not None else {},
        metrics=metrics,
        environment=_environment(_json(workdir / "environment.json", list, notes)),
        data=data,
        complete=complete,
        samples=samples,
        suite=_jsonl_by_step(workdir / "prompt_suite", _SAMPLE | {"id"}, notes, newest),
        evaluations=_evaluations(workdir / EVALUATIONS, notes),
        checkpoints=_tolerant(checkpoints, lambda: _checkpoints(checkpoints), notes) or [],
        best=_best(_json(workdir / "scores.json", dict, notes), metrics.last_step),
        total_steps=_length(config, data),
        is_running=_is_running(workdir / "trainer.lock"),
        notes=notes,
    )


def _tolerant(path: Path, read: Callable[[], Any], notes: list[str]) -> Any:
    try:
        return read()
    except Exception as error:  # whatever a broken file leads to, it must not end the report
        text = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.name}: ")
        notes.append(f"{_short(path)}: left out ({text})")
        return None


def _short(path: Path) -> str:
    """The path within the workdir, as far as a reader needs it."""
    inside = path.parent.name in ("samples", "prompt_suite", EVALUATIONS)
    return f"{path.parent.name}/{path.name}" if inside else path.name


def _json(
    path: Path, kind: type, notes: list[str], *, expected: bool = False, holds: Mapping[str, type] | None = None
) -> Any:
    """The content of a JSON file; an empty one of that kind where there is no file or it is broken.

    Args:
      expected: whether a missing file is worth a note.
      holds: keys that the file has in any case, with the types of their values.
    """
    if not path.is_file():
        if expected:
            notes.append(f"{path.name}: no such file")
        return kind()
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name}: not valid JSON, left out ({error})")
        return kind()
    is_kind = isinstance(content, kind)
    if not is_kind or any(not isinstance(content.get(key), of) for key, of in (holds or {}).items()):
        notes.append(f"{path.name}: not the file that a run writes, left out")
        return kind()
    return content


def _environment(starts: list[Any]) -> list[dict[str, Any]]:
    """The entries without values of another type than a trainer writes."""
    kinds = {"devices": int, "processes": int, "start_step": int, "versions": dict, "git": dict}
    return [
        {
            name: value
            for name, value in start.items()
            if isinstance(value, kinds.get(name, str)) and not (isinstance(value, int) and abs(value) >= 2**53)
        }
        for start in starts
        if isinstance(start, dict)
    ]


def _jsonl_by_step(
    folder: Path, keys: set[str], notes: list[str], newest: int | None
) -> dict[int, list[dict[str, Any]]]:
    """{step: rows} of the files of a folder, up to the step `newest` where that is known."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("step-*.jsonl")) if folder.is_dir() else ():
        if not (match := _STEP.search(path.stem)) or (newest is not None and int(match[1]) > newest):
            continue
        rows, broken = [], 0
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            notes.append(f"{_short(path)}: left out ({error.strerror})")
            continue
        for line in text.removesuffix("\n").split("\n") if text else ():  # not splitlines: a text may hold U+2028
            try:
                row = json.loads(line)
                if not row.keys() >= keys:
                    raise ValueError
                rows.append(row)
            except (ValueError, AttributeError, RecursionError):
                broken += 1
        if broken:
            notes.append(f"{_short(path)}: {broken} broken line{'s' if broken > 1 else ''}, left out")
        if rows:
            found[int(match[1])] = rows
        elif not broken:
            notes.append(f"{_short(path)}: empty, left out")
    return dict(sorted(found.items()))


def _evaluations(folder: Path, notes: list[str]) -> dict[str, tuple[int, list[TaskScore]]]:
    newest: dict[str, tuple[int, list[TaskScore]]] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if path.is_file() and path.stat().st_size == 0:
            notes.append(f"{_short(path)}: empty, left out; evaluate again to write it")
            continue
        read = _tolerant(path, partial(read_scores, path), notes)
        if read is None:
            continue
        step, scores = read[0], [score for score in read[1] if _is_score(score)]
        if broken := len(read[1]) - len(scores):
            notes.append(f"{_short(path)}: {broken} broken score{'s' if broken > 1 else ''}, left out")
        elif not scores:
            notes.append(f"{_short(path)}: no scores in it")
        name = path.stem.rpartition("-step-")[0] or path.stem
        if name not in newest or newest[name][0] <= step:
            newest[name] = (step, scores)
    return newest


def _is_score(score: TaskScore) -> bool:
    """Whether the values have the types that `TaskScore` declares."""
    numbers = [score.value, *(end for end in (score.stderr, score.low, score.high, score.chance) if end is not None)]
    return (
        all(isinstance(number, int | float) and abs(number) < _LARGEST for number in numbers)
        and all(isinstance(name, str) for name in (score.task, score.metric))
        and all(isinstance(count, int) and 0 <= count < 2**53 for count in (score.n, score.shots))
    )


def _checkpoints(folder: Path) -> list[int]:
    return sorted(int(each.name) for each in folder.iterdir() if _WHOLE.fullmatch(each.name)) if folder.is_dir() else []


def _best(scores: dict[str, Any], last_step: int) -> tuple[int, float] | None:
    """The lowest score; those of steps past the run's newest row were of steps that are lost."""
    known = [
        (value, int(step))
        for step, value in scores.items()
        if _WHOLE.fullmatch(step) and isinstance(value, int | float) and abs(value) < _LARGEST
    ]
    known = [each for each in known if each[1] <= last_step or not last_step]
    if not known:
        return None
    value, step = min(known)
    return step, float(value)


def _length(config: Any, data: dict[str, Any]) -> int | None:
    """Steps of the whole run; a length in epochs needs the sizes of the sources."""
    if config is None:
        return None
    try:
        sizes = {
            name: SourceSize(float(source["weight"]), _targets(source["splits"]["train"]))
            for name, source in data.get("sources", {}).items()
        }
        return total_steps(stages_of(config, sizes or None)) or None
    except (UserError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _targets(split: dict[str, Any]) -> int:
    slots = split.get("slots")
    return max(int(split["tokens"]) - 1, 0) if slots is None else int(slots)


def _is_running(lock: Path) -> bool:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        if owner["host"] == socket.gethostname():
            return owner["pid"] != os.getpid() and psutil.pid_exists(int(owner["pid"]))
        return time.time() - lock.stat().st_mtime < _SILENT_SECONDS
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False

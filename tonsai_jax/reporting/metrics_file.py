"""What a run has written to its metrics.jsonl, and the scores among it by language and by source."""

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SCORE = "eval/bits_per_byte/"  # in front of a language or of source/NAME; the mean of the languages has no slash there
_NUMBERS = {int, float, type(None)}
_HIGHER_IS_BETTER = {"accuracy", "margin"}  # of held-out pairs; everything else that an evaluation measures is a loss


def metrics_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where there is no file. Damaged lines are left out, and counted in a warning."""
    if not path.is_file():
        return []
    with path.open("rb") as lines:
        rows = [row_of(line) for line in lines]
    warn_of_damage(path, sum(row is None for row in rows[:-1]))
    return [row for row in rows if row is not None]


def row_of(line: bytes) -> dict[str, Any] | None:
    """The row in a line of a metrics.jsonl: numbers by name, or None for one that was not finite. None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    return row if _NUMBERS.issuperset(map(type, row.values())) else None


@functools.cache  # one warning for each file of a command
def warn_of_damage(path: Path, num_lines: int) -> None:
    """Logs how many lines of a metrics.jsonl were left out. The last one does not count: a killed run can leave half of it."""
    if num_lines:
        logging.getLogger("tonsai_jax").warning("%s: %d damaged lines are left out", path, num_lines)


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The bits per byte among some metrics: {"km": 1.2, "source/wiki": 1.3}; those that were not finite are left out."""
    return {
        name.removeprefix(_SCORE): value
        for name, value in metrics.items()
        if name.startswith(_SCORE) and value is not None
    }


def language_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The same of the languages alone: {"km": 1.2}."""
    return {name: score for name, score in scores_of(metrics).items() if not name.startswith("source/")}


def higher_is_better(name: str) -> bool:
    """Whether a run gets better as this metric grows: "eval/margin/source/pairs" does, "eval/bits_per_byte/km" does not.

    The scores of checkpoints, in scores.json, are negative for such a metric: of a score, lower is always better.
    """
    return name.removeprefix("eval/").partition("/")[0] in _HIGHER_IS_BETTER

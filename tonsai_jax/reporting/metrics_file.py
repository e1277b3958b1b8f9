"""What a run has written to its metrics.jsonl, and the scores among it by language and by source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SCORE = "eval/bits_per_byte/"  # in front of a language or of source/NAME; the mean of the languages has no slash there
_HIGHER_IS_BETTER = {"accuracy", "margin"}  # of held-out pairs; everything else that an evaluation measures is a loss


def metrics_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no file. A killed run can leave half a line, which is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


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

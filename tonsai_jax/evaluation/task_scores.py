"""Scores of a model, each with its error, in the form in which a run keeps them: `workdir/evaluations/NAME-step-N.json`."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json

FOLDER = "evaluations"
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """One figure of one task.

    Attributes:
      task: "belebele_km", "flores_en_km", ...
      metric: "accuracy", "accuracy_bytes" (choices normalized by their bytes), "chrf++", "bits_per_byte", ...
      value: the score; a share is 0 to 1.
      stderr: standard error of the value over items; None where it is not known.
      low, high: the ends of its 95 % confidence interval; None where it is not known.
      n: the number of items.
      shots: worked examples in each prompt.
      chance: what a model that knows nothing gets; None where that has no meaning.
      higher_is_better: False for bits per byte and other losses.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    shots: int = 0
    chance: float | None = None
    higher_is_better: bool = True

    @property
    def at_chance(self) -> bool:
        """Whether the confidence interval does not lie on the better side of chance."""
        if self.chance is None or self.low is None or self.high is None:
            return False
        return self.low <= self.chance if self.higher_is_better else self.high >= self.chance


def scores_file(workdir: Path, name: str, step: int) -> Path:
    """Where `write_scores` puts the scores of a checkpoint."""
    return workdir / FOLDER / f"{name}-step-{step:06d}.json"


def write_scores(workdir: Path, name: str, step: int, scores: Sequence[TaskScore]) -> Path:
    """Adds scores to those that earlier evaluations of a checkpoint left, and returns the file.

    A score replaces an earlier one of its task, metric and shots, unless that is of more items: then the earlier one stays, and
    the log says so. Raises `UserError` where the file is not one of scores.
    """
    path = scores_file(workdir, name, step)
    kept = {_key(score): score for score in read_scores(path)[1]} if path.exists() else {}
    smaller: list[str] = []
    for score in scores:
        earlier = kept.get(_key(score))
        if earlier is None or score.n >= earlier.n:
            kept[_key(score)] = score
        else:
            smaller.append(f"{score.task} (of {earlier.n:,} items, now {score.n:,})")
    if smaller:
        _logger.warning(f"{path}: keeps earlier scores, which are of more items: {', '.join(dict.fromkeys(smaller))}")
    write_json(path, {"step": step, "scores": [dataclasses.asdict(score) for score in kept.values()]})
    return path


def _key(score: TaskScore) -> tuple[str, str, int]:
    return score.task, score.metric, score.shots


def read_scores(path: Path) -> tuple[int, list[TaskScore]]:
    """(step, scores) of a file of `write_scores`. Raises `UserError` for a file of something else."""
    content: Any = read_json(path)
    try:
        return int(content["step"]), [TaskScore(**score) for score in content["scores"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the scores of an evaluation ({error!r}); delete it and evaluate again") from None

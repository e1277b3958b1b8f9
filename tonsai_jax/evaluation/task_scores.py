"""Scores of a model, each with its error, in the form in which a run keeps them: `workdir/evaluations/NAME-step-N.json`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json

FOLDER = "evaluations"


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
    """Writes the scores of a checkpoint and returns the file; those that an earlier evaluation of that name left are replaced."""
    path = scores_file(workdir, name, step)
    write_json(path, {"step": step, "scores": [dataclasses.asdict(score) for score in scores]})
    return path


def read_scores(path: Path) -> tuple[int, list[TaskScore]]:
    """(step, scores) of a file of `write_scores`. Raises `UserError` for a file of something else."""
    content: Any = read_json(path)
    try:
        return int(content["step"]), [TaskScore(**score) for score in content["scores"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the scores of an evaluation ({error!r}); evaluate again") from None

"""How well a model tells chosen answers from rejected ones, on held-out pairs."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.data.rows import open_rows
from tonsai_jax.evaluation.bits_per_byte import share_windows
from tonsai_jax.training.objectives import Preference
from tonsai_jax.training.reference import Reference, ScoreStep, score_rows


@dataclasses.dataclass(frozen=True)
class PairScore:
    """Means over pairs.

    Attributes:
      pairs: how many.
      loss: of the objective.
      margin: reward of the chosen answer minus that of the rejected one, where a reward is beta * log(model / reference).
      accuracy: share of the pairs with a margin above 0; a margin of 0 counts half.
    """

    pairs: int
    loss: float
    margin: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class PairEvaluation:
    """The scores of every source that has held-out pairs, and those of all pairs together."""

    sources: dict[str, PairScore]

    @property
    def all(self) -> PairScore:
        pairs = sum(score.pairs for score in self.sources.values())

        def mean(name: str) -> float:
            return sum(score.pairs * getattr(score, name) for score in self.sources.values()) / pairs

        return PairScore(pairs, mean("loss"), mean("margin"), mean("accuracy"))

    def scalars(self) -> dict[str, float]:
        """Returns the scores as metrics: eval/margin, eval/margin/source/NAME, ..."""
        named = {"": self.all} | {f"/source/{name}": score for name, score in self.sources.items()}
        return {
            f"eval/{key}{name}": getattr(score, key)
            for name, score in named.items()
            for key in ("loss", "margin", "accuracy")
        }

    def table(self) -> str:
        """The scores as a table for the terminal: a line for each source."""
        from tonsai_jax.reporting.tables import Table, as_text

        rows = [
            [f"source {name}", f"{score.margin:.4f}", f"{score.accuracy:.1%}", f"{score.loss:.4f}", f"{score.pairs:,}"]
            for name, score in self.sources.items()
        ]
        return as_text(Table("", ["", "margin", "accuracy", "loss", "pairs"], rows, "lrrrr"))


def evaluate_pairs(
    score_step: ScoreStep,
    params: Any,
    reference: Reference,
    objective: Preference,
    mesh: Mesh,
    *,
    batch_size: int,
    max_tokens: int,
) -> PairEvaluation:
    """Scores the held-out pairs of every source that has some.

    Args:
      score_step: from `make_score_step`.
      batch_size: rows in a batch over all devices.
      max_tokens: in the rows of all sources together, see `share_windows`; 0 means all.
    """
    sources = {}
    opened = {name: open_rows(reference.manifest, name, "validation") for name in reference.sources}
    counts = {name: len(rows) for name, rows in opened.items() if len(rows)}
    for name, numbers in share_windows(counts, max_tokens, reference.manifest.row_tokens).items():
        rows = opened[name]
        scored = score_rows(score_step, params, rows, numbers.tolist(), mesh, batch_size, task="evaluating")
        before = reference.rows(name, "validation")[numbers]
        ratios = np.concatenate(
            [logp_S - before_S[: len(logp_S)] for logp_S, before_S in zip(scored, before, strict=True)]
        )
        margins = ratios[::2] - ratios[1::2]
        sources[name] = PairScore(
            len(margins),
            float(objective.loss(jnp.asarray(margins)).mean()),
            float(objective.beta * margins.mean()),
            float(np.heaviside(margins, 0.5).mean()),
        )
    return PairEvaluation(sources)

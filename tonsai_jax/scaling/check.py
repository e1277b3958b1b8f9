"""How well a law predicts sizes that it was not fitted to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tonsai_jax.scaling.fit_law import fit_law, languages_of, predicted
from tonsai_jax.scaling.runs import MeasuredRun

LEAST_SIZES = 3


def leave_sizes_out(runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """How well runs of one size are predicted by the law of the others; the largest size, the hardest, comes last.

    Returns for each size: layer_parameters; error: {language: mean of |predicted / measured - 1|}; worst: its maximum over runs
    and languages; pairs and right: the pairs of runs that differ in the mix alone, and how many of them are put in the order
    of their measured mean bits per byte. Empty for fewer than three sizes.
    """
    sizes = sorted({run.layer_parameters for run in runs})
    if len(sizes) < LEAST_SIZES:
        return []
    figures = []
    for size in sizes:
        others = [run for run in runs if run.layer_parameters != size]
        own = [run for run in runs if run.layer_parameters == size]
        expected = {name: predicted(fit_law(others, name), own, name) for name in languages_of(runs)}
        measured = {name: np.array([run.bits_per_byte[name] for run in own]) for name in expected}
        errors = {name: np.abs(expected[name] / measured[name] - 1) for name in expected}
        pairs, right = _ordered_pairs(own, np.mean(list(expected.values()), 0), np.mean(list(measured.values()), 0))
        figures.append(
            {
                "layer_parameters": size,
                "error": {name: float(error.mean()) for name, error in errors.items()},
                "worst": float(max(error.max() for error in errors.values())),
                "pairs": pairs,
                "right": right,
            }
        )
    return figures


def tokens_of(run: MeasuredRun) -> float:
    """The tokens that a run reads."""
    return sum(float(text.read) / run.bytes_per_token[name] for name, text in run.texts.items())


def same_length(one: float, two: float) -> bool:
    """Whether two runs read as many tokens; sources are read in whole windows, so mixes differ a little."""
    return abs(one / two - 1) < 0.01


def _ordered_pairs(
    runs: Sequence[MeasuredRun], predicted: NDArray[np.float64], measured: NDArray[np.float64]
) -> tuple[int, int]:
    """Pairs of runs of the same length and how many have the same order in `predicted` and `measured`."""
    tokens = [tokens_of(run) for run in runs]
    pairs = [(one, two) for two in range(len(runs)) for one in range(two) if same_length(tokens[one], tokens[two])]
    right = [(predicted[one] < predicted[two]) == (measured[one] < measured[two]) for one, two in pairs]
    return len(pairs), int(sum(right))

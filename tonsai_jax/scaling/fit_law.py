"""Fits the law of one language to measured runs: robust least squares with weak priors."""

from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tonsai_jax.errors import UserError
from tonsai_jax.scaling.law import Law, Text, effective_bytes
from tonsai_jax.scaling.runs import MeasuredRun

NUM_STARTS = 3
NOISE = 0.01  # of log bits per byte: residuals beyond it count less (Huber)
# Parameters are drawn to these values where the runs say nothing. Published are the powers (arXiv:2203.15556); the others are of
# the size that runs of minutes give, overfitting that of Khmer in the shipped runs. The spreads are standard deviations of the
# logarithm of a parameter. In the order of the attributes of `Law`.
_PRIOR = (0.3, 0.3, 0.34, 1.0, 0.28, 1.0, 0.1, 0.06)
_SPREAD = (1.0, 1.5, 0.5, 1.5, 0.5, 1.5, 1.5, 1.0)
_LOWEST = (0.01, 1e-3, 0.05, 1e-3, 0.05, 1e-3, 1e-4, 1e-5)
_HIGHEST = (5.0, 20.0, 2.0, 20.0, 2.0, 30.0, 1.0, 5.0)


def fit_law(runs: Sequence[MeasuredRun], language: str, start: Law | None = None) -> Law:
    """The law with the least Huber loss of log(predicted / measured).

    A parameter that the runs do not determine is drawn weakly to the value of its prior. The search begins at several points, or
    at `start` alone. Text of other languages counts up to the greatest multiple of the own that one of the runs read.
    """
    log_measured = np.log([run.bits_per_byte[language] for run in runs])
    prior, spread = np.log(_PRIOR), np.array(_SPREAD)
    bounds = (np.log(_LOWEST), np.log(_HIGHEST))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        law = Law(*np.exp(logs))
        return np.concatenate([np.log(predicted(law, runs, language)) - log_measured, NOISE * (logs - prior) / spread])

    if start is not None:
        starts = [np.log(astuple(start)[:-1])]
    else:
        rng = np.random.default_rng(0)
        starts = [prior, *(prior + spread * rng.standard_normal((NUM_STARTS - 1, len(prior))))]
    found = [
        least_squares(
            residuals, np.clip(each, bounds[0] + 1e-6, bounds[1] - 1e-6), bounds=bounds, loss="huber", f_scale=NOISE
        )
        for each in starts
    ]
    law = Law(*(float(value) for value in np.exp(min(found, key=lambda each: each.cost).x)))
    return replace(law, most_others=max(_others(law, run, language) for run in runs))


def predicted(law: Law, runs: Sequence[MeasuredRun], language: str) -> NDArray[np.float64]:
    texts = {
        name: Text(*(np.array([getattr(run.texts[name], field) for run in runs]) for field in Text._fields))
        for name in runs[0].texts
    }
    return law.bits_per_byte(np.array([run.layer_parameters for run in runs]), language, texts)


def _others(law: Law, run: MeasuredRun, language: str) -> float:
    """The effective text of other languages that a run reads, as a multiple of that of `language`."""
    others = sum(effective_bytes(text) for name, text in run.texts.items() if name != language)
    return float(others / effective_bytes(run.texts[language]))


def languages_of(runs: Sequence[MeasuredRun]) -> list[str]:
    """The languages of the runs; raises `UserError` where a run lacks one, or has no score of it."""
    languages = sorted(runs[0].bits_per_byte)
    for run in runs:
        if sorted(run.bits_per_byte) != languages or not run.texts.keys() >= set(languages):
            raise UserError(
                f"{run.name}: has scores of {', '.join(sorted(run.bits_per_byte))}, and {runs[0].name} of "
                f"{', '.join(languages)}; give a folder of runs with the same languages"
            )
    return languages

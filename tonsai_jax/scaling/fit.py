"""Fits a law per language to measured runs, says how well it predicts, and keeps it in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json
from tonsai_jax.manifest_fields import Fields
from tonsai_jax.scaling.law import Law, Text
from tonsai_jax.scaling.runs import MeasuredRun

FORMAT = "tonsai_jax/scaling-fit"
VERSION = 1
SHIPPED = Path(__file__).with_name("fit.json")
LEAST_SIZES, LEAST_LENGTHS = 3, 3  # below them no law is fitted
NUM_RESAMPLES = 40
NUM_STARTS = 3
NOISE = 0.01  # of log bits per byte: residuals beyond it count less (Huber)
# Drawn to these values where the runs say nothing: the powers of arXiv:2203.15556, the repetition of arXiv:2305.16264. The
# strengths are standard deviations: of the logarithm of a parameter.
_PRIOR = Law(0.3, 0.3, 0.34, 1.0, 0.28, 0.1, 15.4)
_SPREAD = Law(1.0, 1.5, 0.5, 1.5, 0.5, 1.5, 0.7)
_LOWEST = Law(0.01, 1e-3, 0.05, 1e-3, 0.05, 1e-4, 0.5)
_HIGHEST = Law(5.0, 20.0, 2.0, 20.0, 2.0, 1.0, 60.0)


class Range(NamedTuple):
    """The least and the greatest value among the fitted runs; a list in JSON."""

    least: float
    greatest: float


@dataclass(frozen=True)
class LanguageFit:
    """The law of a language and what its predictions rest on.

    Attributes:
      law: fitted to all runs.
      resampled: laws fitted to runs that were drawn with replacement, for the interval of a prediction.
      residual: root mean square of log(measured / predicted).
      bytes_per_token: of the training text of the runs.
      unique_bytes, read_bytes: of this language in the runs.
      factor: what predictions are multiplied by; other than 1 where the level was adapted to other text (`adapted`).
    """

    law: Law
    resampled: tuple[Law, ...]
    residual: float
    bytes_per_token: float
    unique_bytes: Range
    read_bytes: Range
    factor: float = 1.0


@dataclass(frozen=True)
class ScalingFit:
    """The laws of all languages, and the check on sizes that were left out.

    Attributes:
      about: how many runs on which text, in a few words.
      num_runs: runs that it was fitted to.
      layer_parameters: of the runs.
      vocab_size: of their tokenizer; the largest, where they have several.
      left_out: see `leave_sizes_out`.
      by_language: {language: fit}.
    """

    about: str
    num_runs: int
    layer_parameters: Range
    vocab_size: int
    left_out: list[dict[str, Any]]
    by_language: dict[str, LanguageFit]

    def predict(self, layer_parameters: float, texts: Mapping[str, Text]) -> dict[str, float]:
        """Bits per byte of a run from scratch, by language of `texts`."""
        return {name: float(self._bits(name, self.by_language[name].law, layer_parameters, texts)) for name in texts}

    def margins(self, layer_parameters: float, texts: Mapping[str, Text]) -> dict[str, float]:
        """Half the 90 % interval of `predict`, as a share of the prediction, by language.

        It joins the spread of the resampled laws and the residual of single runs, both as logarithms.
        """
        margins = {}
        for name in texts:
            fit = self.by_language[name]
            logs = [np.log(self._bits(name, law, layer_parameters, texts)) for law in fit.resampled]
            margins[name] = 1.645 * float(np.hypot(np.std(logs) if logs else 0.0, fit.residual))
        return margins

    def _bits(self, name: str, law: Law, layer_parameters: float, texts: Mapping[str, Text]) -> NDArray[np.float64]:
        return self.by_language[name].factor * law.bits_per_byte(layer_parameters, name, texts)


def can_fit(runs: Sequence[MeasuredRun]) -> bool:
    """Whether the runs have enough sizes and lengths for a law of their own."""
    lengths = {round(sum(float(text.read) for text in run.texts.values()), -4) for run in runs}
    return len({run.layer_parameters for run in runs}) >= LEAST_SIZES and len(lengths) >= LEAST_LENGTHS


def fit_runs(runs: Sequence[MeasuredRun], *, num_resamples: int = NUM_RESAMPLES) -> ScalingFit:
    """Fits a law per language to runs that `can_fit` accepts; takes seconds.

    Raises `UserError` where the runs do not all have the same languages.
    """
    languages = _languages(runs)
    sizes = [float(run.layer_parameters) for run in runs]
    rng = np.random.default_rng(0)
    by_language = {}
    for name in languages:
        law = fit_law(runs, name)
        residuals = np.log([run.bits_per_byte[name] for run in runs] / _predicted(law, runs, name))
        draws = [rng.integers(len(runs), size=len(runs)) for _ in range(num_resamples)]
        resampled = tuple(fit_law([runs[number] for number in draw], name, start=law) for draw in draws)
        by_language[name] = LanguageFit(
            law,
            resampled,
            float(np.sqrt(np.mean(residuals**2))),
            float(np.mean([run.bytes_per_token[name] for run in runs])),
            _range([float(run.texts[name].unique) for run in runs]),
            _range([float(run.texts[name].read) for run in runs]),
        )
    vocab_size = max(run.vocab_size for run in runs)
    texts = ", ".join(f"{fit.unique_bytes.greatest / 1e6:.1f} MB of {name}" for name, fit in by_language.items())
    about = f"{len(runs)} runs on {texts}"
    return ScalingFit(about, len(runs), _range(sizes), vocab_size, leave_sizes_out(runs), by_language)


def fit_law(runs: Sequence[MeasuredRun], language: str, start: Law | None = None) -> Law:
    """The law with the least Huber loss of log(predicted / measured).

    A parameter that the runs do not determine is drawn weakly to its published value. The search begins at several points, or at
    `start` alone.
    """
    log_measured = np.log([run.bits_per_byte[language] for run in runs])
    prior, spread = np.log(astuple(_PRIOR)), np.array(astuple(_SPREAD))
    bounds = (np.log(astuple(_LOWEST)), np.log(astuple(_HIGHEST)))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        law = Law(*np.exp(logs))
        return np.concatenate([np.log(_predicted(law, runs, language)) - log_measured, NOISE * (logs - prior) / spread])

    if start is not None:
        starts = [np.log(astuple(start))]
    else:
        rng = np.random.default_rng(0)
        starts = [prior, *(prior + spread * rng.standard_normal((NUM_STARTS - 1, len(prior))))]
    found = [
        least_squares(
            residuals, np.clip(each, bounds[0] + 1e-6, bounds[1] - 1e-6), bounds=bounds, loss="huber", f_scale=NOISE
        )
        for each in starts
    ]
    return Law(*(float(value) for value in np.exp(min(found, key=lambda each: each.cost).x)))


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
        predicted = {name: _predicted(fit_law(others, name), own, name) for name in _languages(runs)}
        measured = {name: np.array([run.bits_per_byte[name] for run in own]) for name in predicted}
        errors = {name: np.abs(predicted[name] / measured[name] - 1) for name in predicted}
        pairs, right = _ordered_pairs(own, np.mean(list(predicted.values()), 0), np.mean(list(measured.values()), 0))
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


def _ordered_pairs(
    runs: Sequence[MeasuredRun], predicted: NDArray[np.float64], measured: NDArray[np.float64]
) -> tuple[int, int]:
    """Pairs of runs of the same length and how many have the same order in `predicted` and `measured`."""
    tokens = [sum(float(run.texts[name].read) / run.bytes_per_token[name] for name in run.texts) for run in runs]
    pairs = [(one, two) for two in range(len(runs)) for one in range(two) if abs(tokens[one] / tokens[two] - 1) < 0.01]
    right = [(predicted[one] < predicted[two]) == (measured[one] < measured[two]) for one, two in pairs]
    return len(pairs), int(sum(right))


def adapted(fit: ScalingFit, runs: Sequence[MeasuredRun]) -> ScalingFit:
    """The fit with its level adapted to other text: a factor per language, measured over predicted.

    The factor is a geometric mean over the runs. Raises `UserError` for runs of a language that the fit does not have.
    """
    by_language = {}
    for name in _languages(runs):
        if name not in fit.by_language:
            raise UserError(
                f"{runs[0].name}: has a language that the fit does not have, {name}; it has {', '.join(fit.by_language)}"
            )
        own = fit.by_language[name]
        logs = [
            np.log(run.bits_per_byte[name] / own.law.bits_per_byte(run.layer_parameters, name, run.texts))
            for run in runs
        ]
        bytes_per_token = float(np.mean([run.bytes_per_token[name] for run in runs]))
        by_language[name] = LanguageFit(**{
            **vars(own), "factor": float(np.exp(np.mean(logs))), "bytes_per_token": bytes_per_token
        })  # fmt: skip
    return ScalingFit(**{**vars(fit), "by_language": by_language})


def save_fit(path: Path, fit: ScalingFit) -> None:
    """Writes the fit as JSON; `load_fit` reads it."""
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(fit)})


def load_fit(path: Path = SHIPPED) -> ScalingFit:
    """Reads a file of `save_fit`, by default the shipped one; raises `UserError` where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
        raise UserError(f"{path}: not a fit that this version can read; write one with tonsai plan --save-fit")
    fields = Fields(value, path)
    return ScalingFit(
        fields.text("about"),
        fields.whole("num_runs"),
        Range(*fields.items("layer_parameters")),
        fields.whole("vocab_size", least=1),
        fields.items("left_out"),
        {name: _language_fit(fields.group("by_language").group(name).value) for name in value["by_language"]},
    )


def _language_fit(value: Mapping[str, Any]) -> LanguageFit:
    laws = {"law": Law(**value["law"]), "resampled": tuple(Law(**each) for each in value["resampled"])}
    ranges = {name: Range(*value[name]) for name in ("unique_bytes", "read_bytes")}
    return LanguageFit(**{**value, **laws, **ranges})


def _languages(runs: Sequence[MeasuredRun]) -> list[str]:
    """The languages of the runs; raises `UserError` where a run lacks one, or has no score of it."""
    languages = sorted(runs[0].bits_per_byte)
    for run in runs:
        if sorted(run.bits_per_byte) != languages or not run.texts.keys() >= set(languages):
            raise UserError(
                f"{run.name}: has scores of {', '.join(sorted(run.bits_per_byte))}, and {runs[0].name} of "
                f"{', '.join(languages)}; give a folder of runs with the same languages"
            )
    return languages


def _predicted(law: Law, runs: Sequence[MeasuredRun], language: str) -> NDArray[np.float64]:
    texts = {
        name: Text(*(np.array([getattr(run.texts[name], field) for run in runs]) for field in Text._fields))
        for name in runs[0].texts
    }
    return law.bits_per_byte(np.array([run.layer_parameters for run in runs]), language, texts)


def _range(values: Sequence[float]) -> Range:
    return Range(min(values), max(values))

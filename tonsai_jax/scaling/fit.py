"""A fit: the laws of all languages with what they rest on. It predicts with an interval, adapts to other text, and has a file."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json
from tonsai_jax.manifest_fields import Fields
from tonsai_jax.scaling.check import LEAST_SIZES, leave_sizes_out, same_length, tokens_of
from tonsai_jax.scaling.fit_law import fit_law, languages_of, predicted
from tonsai_jax.scaling.law import Law, Text
from tonsai_jax.scaling.runs import MeasuredRun

FORMAT = "tonsai_jax/scaling-fit"
VERSION = 2  # in 1 the law had an R* for each language and no overfitting
SHIPPED = Path(__file__).with_name("fit.json")
LEAST_LENGTHS = 3  # below it, and below LEAST_SIZES, no law is fitted
NUM_RESAMPLES = 40
NUM_PARAMETERS = 8  # of a law


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
      level_runs: how many runs the factor rests on.
    """

    law: Law
    resampled: tuple[Law, ...]
    residual: float
    bytes_per_token: float
    unique_bytes: Range
    read_bytes: Range
    factor: float = 1.0
    level_runs: int = 0

    @property
    def most_epochs(self) -> float:
        """How often the runs read the text of this language, at most."""
        return self.read_bytes.greatest / self.unique_bytes.least


@dataclass(frozen=True)
class ScalingFit:
    """The laws of all languages, and the check on sizes that were left out.

    Attributes:
      about: how many runs on which text, in a few words.
      num_runs: runs that it was fitted to.
      layer_parameters: of the runs.
      vocab_size: of their tokenizer; the largest, where they have several.
      optimizer: of the runs; a law holds for one optimizer, so a proposal has it too.
      left_out: see `leave_sizes_out`.
      by_language: {language: fit}.
    """

    about: str
    num_runs: int
    layer_parameters: Range
    vocab_size: int
    optimizer: str
    left_out: list[dict[str, Any]]
    by_language: dict[str, LanguageFit]

    def predict(self, layer_parameters: float, texts: Mapping[str, Text]) -> dict[str, float]:
        """Bits per byte of a run from scratch, by language of `texts`."""
        return {name: float(self._bits(name, self.by_language[name].law, layer_parameters, texts)) for name in texts}

    def margins(self, layer_parameters: float, texts: Mapping[str, Text]) -> dict[str, float]:
        """Half the 90 % interval of `predict`, as a share of the prediction, by language.

        It joins the spread of the resampled laws, the residual of a single run, and that of the mean of the runs that set the
        level, all as logarithms. A law fits its own runs better than others: so their squared residuals are divided by the number
        of runs less that of parameters, and the quantile is Student's for as many degrees of freedom.
        """
        degrees = max(1, self.num_runs - NUM_PARAMETERS)
        quantile = float(stats.t.ppf(0.95, degrees))
        margins = {}
        for name in texts:
            fit = self.by_language[name]
            logs = [np.log(self._bits(name, law, layer_parameters, texts)) for law in fit.resampled]
            variance = fit.residual**2 * self.num_runs / degrees
            level = variance / fit.level_runs if fit.level_runs else 0.0
            margins[name] = quantile * math.sqrt((np.var(logs) if logs else 0.0) + variance + level)
        return margins

    def _bits(self, name: str, law: Law, layer_parameters: float, texts: Mapping[str, Text]) -> NDArray[np.float64]:
        return self.by_language[name].factor * law.bits_per_byte(layer_parameters, name, texts)


def can_fit(runs: Sequence[MeasuredRun]) -> bool:
    """Whether the runs have enough sizes and lengths for a law of their own."""
    tokens = sorted(tokens_of(run) for run in runs)
    num_lengths = 1 + sum(not same_length(one, two) for one, two in itertools.pairwise(tokens))
    return len({run.layer_parameters for run in runs}) >= LEAST_SIZES and num_lengths >= LEAST_LENGTHS


def fit_runs(runs: Sequence[MeasuredRun], *, num_resamples: int = NUM_RESAMPLES) -> ScalingFit:
    """Fits a law per language to runs that `can_fit` accepts; takes seconds.

    Raises `UserError` where the runs do not all have the same languages and the same optimizer.
    """
    languages = languages_of(runs)
    sizes = [float(run.layer_parameters) for run in runs]
    rng = np.random.default_rng(0)
    by_language = {}
    for name in languages:
        law = fit_law(runs, name)
        residuals = np.log([run.bits_per_byte[name] for run in runs] / predicted(law, runs, name))
        draws = [rng.integers(len(runs), size=len(runs)) for _ in range(num_resamples)]
        resampled = tuple(
            replace(fit_law([runs[number] for number in draw], name, start=law), most_others=law.most_others)
            for draw in draws
        )
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
    return ScalingFit(
        about, len(runs), _range(sizes), vocab_size, _optimizer_of(runs), leave_sizes_out(runs), by_language
    )


def adapted(fit: ScalingFit, runs: Sequence[MeasuredRun]) -> ScalingFit:
    """The fit with its level adapted to other text: a factor per language, measured over predicted.

    The factor is a geometric mean over the runs; it holds for their optimizer. Raises `UserError` for runs of a language that the
    fit does not have, and for runs with different optimizers.
    """
    by_language = {}
    for name in languages_of(runs):
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
        by_language[name] = replace(
            own, factor=float(np.exp(np.mean(logs))), level_runs=len(runs), bytes_per_token=bytes_per_token
        )
    return replace(fit, by_language=by_language, optimizer=_optimizer_of(runs))


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
        fields.text("optimizer"),
        fields.items("left_out"),
        {name: _language_fit(fields.group("by_language").group(name).value) for name in value["by_language"]},
    )


def _language_fit(value: Mapping[str, Any]) -> LanguageFit:
    laws = {"law": Law(**value["law"]), "resampled": tuple(Law(**each) for each in value["resampled"])}
    ranges = {name: Range(*value[name]) for name in ("unique_bytes", "read_bytes")}
    return LanguageFit(**{**value, **laws, **ranges})


def _optimizer_of(runs: Sequence[MeasuredRun]) -> str:
    names = sorted({run.optimizer for run in runs})
    if len(names) > 1:
        raise UserError(
            f"--measured: the runs were trained with {' and '.join(names)}; give a folder of runs with one optimizer"
        )
    return names[0]


def _range(values: Sequence[float]) -> Range:
    return Range(min(values), max(values))

"""The figures of an ablation, for each run and for each variant over its seeds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.plan import Ablation, PlannedRun
from tonsai_jax.ablation.results import RunResult
from tonsai_jax.ablation.statistics import Spread, paired_difference, paired_ratio, spread

Scores = Callable[[RunResult], Mapping[str, float]]
"""Gives {language: bits per byte} of a run."""


def summarize(
    name: str,
    ablation: Ablation,
    runs: Sequence[PlannedRun],
    results: Mapping[Path, RunResult],
    failures: Mapping[Path, str],
) -> dict[str, Any]:
    """The figures of all runs and all variants, as values for JSON; a figure that is not known yet is None.

    Args:
      name: of the ablation.
      ablation: its base and variants.
      runs: all planned runs.
      results: the result of each run, by its workdir.
      failures: the reason why a run failed, by its workdir.
    """
    of_seed: dict[str, dict[int, RunResult]] = {variant: {} for variant in ablation.variants}
    for run in runs:
        if results[run.workdir].complete:
            of_seed[run.variant][run.seed] = results[run.workdir]
    baseline = of_seed[next(iter(of_seed))]
    variants = {}
    for variant, complete in of_seed.items():
        variants[variant] = {
            "overrides": {key: str(value) for key, value in ablation.variants[variant].items()},
            "complete_seeds": list(complete),
            "loss": _spread(complete, lambda result: result.loss),
            "loss_difference": _difference(complete, baseline, lambda result: result.loss),
            "bits_per_byte": _by_language(complete, lambda result: result.bits_per_byte),
            "bits_per_byte_difference": _difference(complete, baseline, lambda result: result.mean_bits_per_byte),
            "bits_per_byte_compared": _compared(complete, baseline, lambda result: result.bits_per_byte),
            "text_bits_per_byte": _by_language(complete, lambda result: result.text_bits_per_byte),
            "text_bits_per_byte_compared": _compared(complete, baseline, lambda result: result.text_bits_per_byte),
            "tokens": _spread(complete, lambda result: result.curve[-1].tokens),
            "tokens_per_second": _spread(complete, lambda result: result.tokens_per_second),
            "seconds": _spread(complete, lambda result: result.curve[-1].seconds or None),
            "peak_gib": _spread(complete, lambda result: result.peak_gib),
        }
    return {
        "ablation": name,
        "base": ablation.base,
        "baseline": next(iter(of_seed)),
        "seeds": sorted({run.seed for run in runs}),
        "variants": variants,
        "runs": [_run(run, results[run.workdir], failures.get(run.workdir)) for run in runs],
    }


def _by_language(results: Mapping[int, RunResult], scores_of: Scores) -> dict[str, dict[str, float | None] | None]:
    scores: dict[str, list[float]] = {}
    for result in results.values():
        for language, value in sorted(scores_of(result).items()):
            scores.setdefault(language, []).append(value)
    return {language: _as_json(spread(values)) for language, values in scores.items()}


def _compared(
    results: Mapping[int, RunResult], baseline: Mapping[int, RunResult], scores_of: Scores
) -> dict[str, dict[str, Any]]:
    """{language: its paired difference and ratio}, of the languages that both have."""
    found = {}
    for language in sorted({name for result in results.values() for name in scores_of(result)}):

        def score(result: RunResult, language: str = language) -> float | None:
            return scores_of(result).get(language)

        ratio = paired_ratio(_values(results, score), _values(baseline, score))
        if ratio is not None:
            found[language] = {"difference": _difference(results, baseline, score), "ratio": ratio._asdict()}
    return found


def _spread(
    results: Mapping[int, RunResult], value_of: Callable[[RunResult], float | None]
) -> dict[str, float | None] | None:
    return _as_json(spread(list(_values(results, value_of).values())))


def _as_json(found: Spread | None) -> dict[str, float | None] | None:
    return found._asdict() if found else None


def _difference(
    results: Mapping[int, RunResult],
    baseline: Mapping[int, RunResult],
    value_of: Callable[[RunResult], float | None],
) -> dict[str, Any] | None:
    found = paired_difference(_values(results, value_of), _values(baseline, value_of))
    return found._asdict() | {"beyond_chance": found.beyond_chance} if found else None


def _values(results: Mapping[int, RunResult], value_of: Callable[[RunResult], float | None]) -> dict[int, float]:
    values = {seed: value_of(result) for seed, result in results.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _run(run: PlannedRun, result: RunResult, failure: str | None) -> dict[str, Any]:
    return {
        "variant": run.variant,
        "seed": run.seed,
        "workdir": str(run.workdir),
        "complete": result.complete,
        "failure": failure,
        "steps": result.curve[-1].step if result.curve else 0,
        "loss": result.loss,
        "bits_per_byte": result.bits_per_byte,
        "text_bits_per_byte": result.text_bits_per_byte,
        "tokens_per_second": result.tokens_per_second,
        "seconds": result.curve[-1].seconds if result.curve else 0.0,
    }

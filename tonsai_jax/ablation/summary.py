"""The figures of an ablation, for each run and for each variant over its seeds, and their tables."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.plan import Ablation, PlannedRun
from tonsai_jax.ablation.results import RunResult
from tonsai_jax.ablation.statistics import Spread, paired_difference, spread
from tonsai_jax.reporting.numbers import format_seconds
from tonsai_jax.reporting.tables import Table

_QUALITY_NOTE = (
    "Figures are the mean ± the standard deviation over the seeds. The loss is the training loss, averaged over the last tenth "
    "of the steps; bits per byte are measured on held-out text after the last step. A difference compares a variant with the "
    "baseline (the first line) seed by seed; its ± is half of the 95 % confidence interval. “Within chance” means that 0 lies "
    "inside this interval. With one seed there is no interval, so chance cannot be ruled out."
)
_COST_NOTE = (
    "Time is the time of the training steps, without compiling, evaluating, saving and pauses. Times can only be compared if "
    "nothing else ran on the machine. Memory is that of the device that used most, or of the process on a CPU."
)


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
            "bits_per_byte": _by_language(complete),
            "bits_per_byte_difference": _difference(complete, baseline, lambda result: result.mean_bits_per_byte),
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


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Two tables of the figures of `summarize`: the quality of the variants, and their cost."""
    variants = summary["variants"]
    languages = sorted({language for figures in variants.values() for language in figures["bits_per_byte"]})
    heads = ["variant", "seeds", "loss", "difference"]
    heads += [f"bits/byte {language}" for language in languages] + (["difference of the mean"] if languages else [])
    well, cost = [], []
    for variant, figures in variants.items():
        seeds = f"{len(figures['complete_seeds'])} of {len(summary['seeds'])}"
        is_baseline = variant == summary["baseline"]
        row = [variant, seeds, _mean(figures["loss"], ".4f"), _compared(figures["loss_difference"], is_baseline)]
        row += [_mean(figures["bits_per_byte"].get(language), ".4f") for language in languages]
        row += [_compared(figures["bits_per_byte_difference"], is_baseline)] if languages else []
        well.append(row)
        numbers = [_mean(figures["tokens"], ",.0f", with_spread=False), _mean(figures["tokens_per_second"], ",.0f")]
        time = "-" if figures["seconds"] is None else format_seconds(figures["seconds"]["mean"])
        cost.append([variant, *numbers, time, _mean(figures["peak_gib"], ".2f", with_spread=False)])
    return [
        Table("Quality", heads, well, "l" + "r" * (len(heads) - 1), _QUALITY_NOTE),
        Table("Cost", ["variant", "tokens", "tokens/s", "time", "GiB"], cost, "lrrrr", _COST_NOTE),
    ]


def _by_language(results: Mapping[int, RunResult]) -> dict[str, dict[str, float | None] | None]:
    scores: dict[str, list[float]] = {}
    for result in results.values():
        for language, value in sorted(result.bits_per_byte.items()):
            scores.setdefault(language, []).append(value)
    return {language: _as_json(spread(values)) for language, values in scores.items()}


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
        "tokens_per_second": result.tokens_per_second,
        "seconds": result.curve[-1].seconds if result.curve else 0.0,
    }


def _mean(found: Mapping[str, Any] | None, form: str, with_spread: bool = True) -> str:
    if found is None:
        return "-"
    mean = format(found["mean"], form)
    return f"{mean} ± {format(found['deviation'], form)}" if with_spread and found["deviation"] is not None else mean


def _compared(found: Mapping[str, Any] | None, is_baseline: bool) -> str:
    if is_baseline:
        return "baseline"
    if found is None:
        return "-"
    if found["margin"] is None:
        return f"{found['mean']:+.4f}"
    verdict = ("higher" if found["mean"] > 0 else "lower") if found["beyond_chance"] else "within chance"
    return f"{found['mean']:+.4f} ± {found['margin']:.4f} {verdict}"

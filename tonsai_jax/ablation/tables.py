"""The tables of an ablation's figures, in words and numbers for people."""

from collections.abc import Mapping
from typing import Any

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
_LANGUAGE_NOTE = (
    "Each language compared with the baseline, seed by seed. A ratio is the bits per byte of the variant divided by those of the "
    "baseline: 0.8 means a fifth fewer bits for the same text. It is the geometric mean over the seeds, with the 95 % confidence "
    "interval in brackets."
)


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Tables of the figures of `summarize`: the quality of the variants, each language on its own, and the cost.

    The languages are compared on held-out text, and on text of another domain if the runs are scored on one.
    """
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
        *_language_table("Held-out text, each language", "bits_per_byte", summary),
        *_language_table("Text of another domain", "text_bits_per_byte", summary),
        Table("Cost", ["variant", "tokens", "tokens/s", "time", "GiB"], cost, "lrrrr", _COST_NOTE),
    ]


def _language_table(title: str, key: str, summary: Mapping[str, Any]) -> list[Table]:
    """The table of one kind of text, or no table where no run was scored on it."""
    variants = summary["variants"]
    rows = []
    for language in sorted({language for figures in variants.values() for language in figures[key]}):
        for variant, figures in variants.items():
            compared = figures[f"{key}_compared"].get(language, {"difference": None, "ratio": None})
            is_baseline = variant == summary["baseline"]
            difference = _compared(compared["difference"], is_baseline)
            ratio = "1" if is_baseline else _ratio(compared["ratio"])
            rows.append([variant, language, _mean(figures[key].get(language), ".4f"), difference, ratio])
    heads = ["variant", "language", "bits/byte", "difference", "ratio"]
    return [Table(title, heads, rows, "llrrr", _LANGUAGE_NOTE)] if rows else []


def _ratio(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    interval = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['mean']:.3f}{interval}"


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

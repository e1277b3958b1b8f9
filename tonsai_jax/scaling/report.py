"""What a plan says: its figures as plain values, the same as text, and the command that trains it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.reporting.numbers import format_count, format_seconds
from tonsai_jax.reporting.tables import Table, tables_as_text
from tonsai_jax.saved_config import copy_of, to_json
from tonsai_jax.scaling.fit import ScalingFit
from tonsai_jax.scaling.proposal import LEAST_STEPS, USUAL_EPOCHS, Proposal

FAR = 10  # times the largest fitted run: beyond it a prediction is a guess, and is called one


def figures_of(proposal: Proposal) -> dict[str, Any]:
    """The figures of a proposal, for JSON."""
    model = proposal.config.model
    return {
        "num_layers": model.num_layers,
        "d_model": model.d_model,
        "parameters": proposal.parameters,
        "layer_parameters": proposal.layer_parameters,
        "steps": proposal.config.steps,
        "global_batch_size": proposal.config.global_batch_size,
        "seq_len": proposal.config.seq_len,
        "tokens": proposal.tokens,
        "shares": proposal.shares,
        "epochs": proposal.epochs,
        "seconds": proposal.seconds,
        "tokens_per_second": proposal.tokens_per_second,
        "bits_per_byte": proposal.bits_per_byte,
        "margins": proposal.margins,
        "objective": proposal.objective,
    }


def proposal_table(proposal: Proposal, alternatives: Mapping[str, Proposal]) -> Table:
    """The proposal and its alternatives, one in each row."""
    languages = list(proposal.shares)
    heads = ["run", "layers x width", "parameters", "steps", "tokens"]
    heads += [f"{name} {what}" for what in ("share", "epochs", "bits/byte") for name in languages]
    heads += ["mean", "training"]
    rows = []
    for name, run in {"proposed": proposal, **alternatives}.items():
        model = run.config.model
        row = [name, f"{model.num_layers} x {model.d_model}", format_count(run.parameters), f"{run.config.steps:,}"]
        row += [format_count(run.tokens)]
        row += [f"{run.shares[language]:.0%}" for language in languages]
        row += [f"{run.epochs[language]:.2g}" for language in languages]
        row += [
            f"{run.bits_per_byte[each]:.3f} ±{run.margins[each] * run.bits_per_byte[each]:.3f}" for each in languages
        ]
        rows.append([*row, f"{run.objective:.3f}", format_seconds(run.seconds)])
    return Table(
        "What to train, and the bits per byte of held-out text to expect (± the 90 % interval)",
        heads,
        rows,
        "l" + "r" * (len(heads) - 1),
    )


def fit_table(fit: ScalingFit) -> Table:
    """The law of each language."""
    rows = []
    for name, each in fit.by_language.items():
        law = each.law
        numbers = (
            law.floor,
            law.size_factor,
            law.size_power,
            law.text_factor,
            law.text_power,
            law.text_start,
            law.transfer,
            law.overfitting,
        )
        row = [name, *(f"{number:.3f}" for number in numbers)]
        rows.append([*row, f"{each.residual:.2%}", f"{each.factor:.3f}"])
    heads = ["language", "E", "A", "alpha", "B", "beta", "D0", "transfer", "P", "residual", "level"]
    title = "The fit: bits per byte = E + A * N^-alpha + B * (D0 + D)^-beta (N in M, D in MB; docs/plan.md)"
    return Table(title, heads, rows, "l" + "r" * (len(heads) - 1))


def check_table(fit: ScalingFit) -> Table:
    """How well runs of each size are predicted by the fit to the other sizes."""
    rows = [
        [
            format_count(row["layer_parameters"]),
            *(f"{row['error'][name]:.2%}" for name in fit.by_language),
            f"{row['worst']:.2%}",
            f"{row['right']} of {row['pairs']}",
        ]
        for row in fit.left_out
    ]
    heads = ["size left out", *(f"{name} error" for name in fit.by_language), "worst run", "mixes in order"]
    return Table("The check: each size predicted from the others", heads, rows, "l" + "r" * (len(heads) - 1))


def notes(fit: ScalingFit, proposal: Proposal, seconds: float, *, measured: str) -> list[str]:
    """What a reader must know before the prediction is trusted.

    Args:
      seconds: of training that the budget allows.
      measured: "fit" where the user's runs were fitted, "level" where they adapted the level, "" where there were none.
    """
    said = []
    if not measured:
        said.append(
            f"the fit rests on other text ({fit.about}): text of another kind has another level. Train the proposal, or a "
            "shorter run, and give its folder as --measured: then the level is that of your text"
        )
    if measured == "level":
        adapted = ", ".join(name for name, each in fit.by_language.items() if each.level_runs)
        said.append(
            f"too few runs for a law of their own: the shipped law was adapted to their level in {adapted}, a factor each"
        )
    far = {"the layers": proposal.layer_parameters / fit.layer_parameters.greatest}
    far |= {
        f"the {name} text": float(proposal.texts[name].read) / each.read_bytes.greatest
        for name, each in fit.by_language.items()
        if name in proposal.texts
    }
    for what, factor in far.items():
        if factor > 1:
            weight = "; so far outside the prediction is a guess" if factor > FAR else ""
            said.append(f"{what}: {factor:,.1f} times that of the largest fitted run{weight}")
    often = [f"{name} {epochs:.1f}" for name, epochs in proposal.epochs.items() if epochs > USUAL_EPOCHS * 1.01]
    if often:
        said.append(
            f"more than {USUAL_EPOCHS:g} epochs ({', '.join(often)}), because the fit expects them to pay, or fewer have less "
            f"than {LEAST_STEPS} steps"
        )
    assumed = [
        f"{name} {epochs:.1f}"
        for name, epochs in proposal.epochs.items()
        if epochs > 1.01 and fit.by_language[name].most_epochs <= 1.0
    ]
    if assumed:
        said.append(
            f"epochs: {', '.join(assumed)}; no fitted run read this text twice, so what repetition costs is assumed, and is not "
            "in the interval"
        )
    if proposal.config.model.dropout or proposal.config.model.attention_dropout:
        said.append(
            "the config has dropout, and the law has no term for it; --measured runs with the same dropout set the level for it"
        )
    if proposal.seconds < 0.5 * seconds:
        said.append(
            f"the text is the limit, not the budget: the proposal takes {format_seconds(proposal.seconds)} of "
            f"{format_seconds(seconds)}; more text would gain most"
        )
    return said


def train_command(
    file: str, base: ConfigDict, proposal: Proposal, weights: Mapping[str, float], data_dir: str, workdir: str
) -> str:
    """The command line that trains exactly the proposal.

    Args:
      file: the config file, with its variant, that `base` is the config of.
      weights: of the sources.
    """
    config = copy_of(proposal.config)
    config.data.weights = {name: float(f"{weight:.4g}") for name, weight in weights.items()}
    config.data.dir = data_dir
    keys = [
        f"--config.{key}={value}"
        for key, value in sorted(_flat(to_json(config)).items())
        if value != _flat(to_json(base)).get(key)
    ]
    words = (f"--config={file}", f"--workdir={workdir}", *(key.replace("'", '"') for key in keys))
    return " ".join(["tonsai train", *map(shlex.quote, words)])


def as_text(tables: Sequence[Table], lines: Mapping[str, Sequence[str]]) -> str:
    """The tables, then groups of lines with their titles."""
    groups = [f"{title}\n" + "\n".join(f"  {line}" for line in group) for title, group in lines.items() if group]
    return "\n\n".join([tables_as_text(tables), *groups])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key != "weights":
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""The text of a run: the sources of its token rows, their mix, and how often each was read."""

import contextlib
from typing import Any, NamedTuple

from markupsafe import Markup

from tonsai_jax.report.run import RunRecord
from tonsai_jax.reporting.chart import share_bar
from tonsai_jax.reporting.numbers import format_count
from tonsai_jax.reporting.plot import legend
from tonsai_jax.reporting.tables import Table


class DataSection(NamedTuple):
    """The table of the sources, and the mix as a bar with its legend."""

    table: Table
    legend: Markup
    mix: Markup
    about: str


def data_section(run: RunRecord) -> DataSection | None:
    """What data.json says; None where there is none. A source that is not complete there is left out, with a note."""
    weights = (run.config.get("data") or {}).get("weights")
    rows, mix = [], []
    for name, source in run.data.get("sources", {}).items():
        try:
            weight = float(weights.get(name, 0.0) if isinstance(weights, dict) else source["weight"])
            if not 0 <= weight < float("inf"):
                raise ValueError(f"its weight is {weight}")
            rows.append(_row(run, name, source, weight))
            mix.append((name, weight))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            run.notes.append(f"data.json: source {name!r} left out ({type(error).__name__}: {error})")
    if not rows:
        return None
    total = sum(weight for _, weight in mix) or 1.0
    shares = [(name, weight / total) for name, weight in mix]
    for row, (_, share) in zip(rows, shares, strict=True):
        row[3] = f"{share:.1%}"
    heads = ["source", "language", "license", "mix", "documents", "tokens", "MB", "held-out tokens", "epochs read"]
    about = f"Token rows of {run.data.get('row_tokens', '?')} tokens, a vocabulary of {run.data.get('vocab_size', '?')} ids."
    if any(isinstance(stage, dict) and "weights" in stage for stage in run.config.get("stages") or ()):
        about += (
            " The mix is that of the manifest; the stages of this run set their own weights (configuration, stages)."
        )
    named = [f"{name} {share:.0%}" for name, share in shares]
    return DataSection(Table("", heads, rows, "lllrrrrrr"), legend(named), share_bar(shares), about)


def _row(run: RunRecord, name: str, source: dict[str, Any], weight: float) -> list[str]:
    train = source["splits"]["train"]
    held_out = 0
    with contextlib.suppress(KeyError, TypeError):
        held_out = source["splits"]["validation"]["tokens"]
    epochs = run.metrics[f"data/epochs/{name}"].last
    return [
        name,
        str(source["language"]),
        str(source.get("license") or "not given"),
        f"{weight:g}",
        f"{int(train['documents']):,}",
        format_count(train["tokens"]),
        f"{train['bytes'] / 1e6:,.1f}",
        format_count(held_out) if held_out else "none",
        "-" if epochs is None else f"{epochs:.2f}",
    ]

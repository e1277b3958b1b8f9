"""The report of a prepared dataset: one HTML page on which a person can judge a corpus, and the table that the command prints."""

from pathlib import Path
from typing import Any

from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import Table, as_text

# Used only to estimate the length of a run. Our byte-level BPE with 32,000 ids has 10.4 bytes per token on Khmer and 4.7 on
# English.
BYTES_PER_TOKEN = {"km": 10.0}
BYTES_PER_TOKEN_ELSE = 4.5


def write_report(
    path: Path,
    manifest: dict[str, Any],
    details: dict[str, Any],
    groups: dict[str, Any] | None,
    planned_tokens: float | None,
) -> None:
    """Writes the page.

    Args:
      path: the HTML file to write.
      manifest: of the dataset, with `sources`.
      details: {source: {"lengths": {floor(log2(characters)): documents}, "scripts": {name: characters},
        "scores": {floor(10 x score): documents}, "samples": [{"id", "text"}]}}, as `Statistics` gives them, and
        "dropped": [{"id", "text", "rule"}].
      groups: the duplicate groups, as `describe_groups` gives them; None if duplicates were not searched.
      planned_tokens: how many tokens the planned run reads, to show its epochs; None for no such column.
    """
    sources = manifest["sources"]
    documents = sum(entry["documents"] for entry in sources.values())
    megabytes = sum(entry["bytes"] for entry in sources.values()) / 1e6
    write_page(
        path,
        Path(__file__).with_name("report.html"),
        title="Prepared text",
        lead=f"{count_of(documents, 'document')}, {megabytes:,.1f} MB, {count_of(len(sources), 'source')}. "
        "A dropped document is counted once, under the first rule that dropped it.",
        overview=_overview(sources, planned_tokens),
        duplicates=_duplicates(groups) if groups else None,
        sources=[_source(name, entry, details[name]) for name, entry in sources.items()],
    )


def planned_epochs(sources: dict[str, Any], tokens: float) -> dict[str, float]:
    """How many epochs of each source a run of `tokens` tokens has: tokens x weight x bytes per token / bytes."""
    return {
        name: tokens * entry["weight"] * BYTES_PER_TOKEN.get(entry["language"], BYTES_PER_TOKEN_ELSE) / entry["bytes"]
        for name, entry in sources.items()
    }


def _overview(sources: dict[str, Any], planned_tokens: float | None) -> Table:
    heads = ["source", "language", "weight", "documents", "MB", "dropped", "license"]
    rows = []
    for name, entry in sources.items():
        dropped = sum(entry["filters"].values())
        share = dropped / max(1, dropped + entry["documents"])
        numbers = [f"{entry['weight']:.3f}", f"{entry['documents']:,}", f"{entry['bytes'] / 1e6:,.2f}"]
        rows.append([name, entry["language"], *numbers, f"{dropped:,} ({share:.1%})", entry["license"] or "not given"])
    if not planned_tokens:
        return Table("", heads, rows, "llrrrrl")
    note = (
        f"The epochs are an estimate from the weights, with {BYTES_PER_TOKEN['km']:g} bytes per token for Khmer and "
        f"{BYTES_PER_TOKEN_ELSE:g} for other languages. The exact figure depends on the tokenizer."
    )
    epochs = planned_epochs(sources, planned_tokens)
    rows = [[*row, f"{epochs[name]:.2f}"] for row, name in zip(rows, sources, strict=True)]
    return Table("", [*heads, f"epochs of {planned_tokens / 1e9:g} B tokens"], rows, "llrrrrlr", note)


def _source(name: str, entry: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """What the template shows in the section of a source."""
    read = entry["documents"] + sum(entry["filters"].values())
    dropped = [(rule, count, "dropped") for rule, count in sorted(entry["filters"].items(), key=_largest) if count]
    changes = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in entry["changes"].items() if count]
    return {
        "name": name,
        "lead": f"{entry['language']}, {entry['documents']:,} of {read:,} documents kept, {entry['bytes'] / 1e6:,.2f} MB",
        "read": read,
        "rules": [("kept", entry["documents"], ""), *dropped],
        "characters": sum(details["scripts"].values()),
        "scripts": [(script, count, "") for script, count in sorted(details["scripts"].items(), key=_largest)],
        "lengths": _by_power(details["lengths"]),
        "scores": _by_tenth(details["scores"]),
        "notes": [*([entry["reading"]] if entry["reading"] else []), *changes],
        "kept": details["samples"],
        "dropped": details["dropped"],
    }


def _duplicates(groups: dict[str, Any]) -> dict[str, Any]:
    """What the template shows about duplicates."""
    names = sorted({name for row in groups["between"].values() for name in row})
    rows = [[source, *(f"{row.get(name, 0):,}" for name in names)] for source, row in groups["between"].items()]
    return {
        "lead": f"{count_of(groups['clusters'], 'duplicate group')} with {count_of(groups['documents'], 'document')}; "
        "the first of each group is kept",
        "between": Table("", ["dropped from ↓, kept in →", *names], rows, "l" + "r" * len(names)),
        "sizes": _by_power(groups["sizes"]),
        "largest": groups["largest"],
    }


def _largest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _by_power(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    """The bars of a histogram over powers of two: (label, range, count)."""
    by_power = {int(power): count for power, count in counts.items()}
    if not by_power:
        return []
    powers = range(min(by_power), max(by_power) + 1)
    return [(_short(2**power), f"{2**power:,} to {2 ** (power + 1) - 1:,}", by_power.get(power, 0)) for power in powers]


def _by_tenth(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    """The bars of a histogram over scores from 0 to 1: (label, range, count)."""
    return [(f".{tenth}", f"from 0.{tenth}", counts.get(str(tenth), 0)) for tenth in range(10)] if counts else []


def _short(number: int) -> str:
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """The figures of each source: language, weight, documents, megabytes (10^6 bytes) and dropped documents."""
    return {
        name: {
            "language": entry["language"],
            "weight": entry["weight"],
            "documents": entry["documents"],
            "megabytes": entry["bytes"] / 1e6,
            "dropped": sum(entry["filters"].values()),
        }
        for name, entry in manifest["sources"].items()
    }


def table(manifest: dict[str, Any]) -> str:
    """The figures as a table, and under it what was read and why documents were dropped."""
    rows = [
        [
            name,
            row["language"],
            f"{row['weight']:.3f}",
            f"{row['documents']:,}",
            f"{row['megabytes']:,.2f}",
            f"{row['dropped']:,}",
        ]
        for name, row in figures(manifest).items()
    ]
    lines = [as_text(Table("", ["source", "language", "weight", "documents", "MB", "dropped"], rows, "llrrrr"))]
    for name, entry in manifest["sources"].items():
        if entry["reading"]:
            lines.append(f"{name} {entry['reading']}")
        reasons = [f"{count:,} {kind}" for kind, count in entry["filters"].items() if count]
        if reasons:
            lines.append(f"dropped from {name}: {', '.join(reasons)}")
    return "\n".join(lines)

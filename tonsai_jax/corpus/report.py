"""The report of a prepared dataset: one HTML page, without scripts or network access, to judge a corpus by."""

import html
from pathlib import Path
from typing import Any

from tonsai_jax.reporting.page import write_page

# Only to estimate epochs: our byte-level BPE of 32,000 ids has 10.4 bytes per token of Khmer and 4.7 of English.
BYTES_PER_TOKEN = {"km": 10.0}
BYTES_PER_TOKEN_ELSE = 4.5

_STYLE = """
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 0 2.5rem }
.row { display: grid; grid-template-columns: 7.5rem 1fr 7.5rem; gap: .6rem; align-items: center; font-size: .88rem;
  margin: .15rem 0 } .row span:last-child { text-align: right; font-variant-numeric: tabular-nums; color: var(--faint) }
.lengths div, .axis span { max-width: 5rem }
.bar { background: var(--bar); border-radius: .2rem; height: .8rem; overflow: hidden }
.bar i { display: block; height: 100%; background: var(--kept) } .dropped .bar i { background: var(--dropped) }
.lengths { display: flex; align-items: flex-end; gap: 2px; height: 6rem } .lengths div { flex: 1; background: var(--kept);
  border-radius: 2px 2px 0 0; min-height: 1px } .axis { display: flex; gap: 2px; font-size: .72rem; color: var(--faint) }
.axis span { flex: 1; text-align: center }
blockquote { margin: .6rem 0; padding: .5rem .8rem; border-left: 3px solid var(--kept); background: var(--page);
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem }
details.dropped blockquote { border-left-color: var(--dropped) }
blockquote small { display: block; color: var(--faint); margin-bottom: .2rem }
"""


def write_report(
    path: Path,
    manifest: dict[str, Any],
    details: dict[str, Any],
    groups: dict[str, Any] | None,
    planned_tokens: float | None,
) -> None:
    """Writes the page.

    Args:
      manifest: the manifest of the dataset.
      details: {source: {"lengths": {floor(log2(characters)): documents}, "scripts": {name: characters},
        "scores": {floor(10 x score): documents}, "samples": [{"id", "text"}]}} from `Statistics`, and "dropped":
        [{"id", "text", "rule"}] from `merged_samples`.
      groups: the duplicate groups, from `describe_groups`; None if duplicates were not searched for.
      planned_tokens: tokens of a planned run, whose epochs the page shows, or None.
    """
    sources = manifest["sources"]
    documents = sum(entry["documents"] for entry in sources.values())
    megabytes = sum(entry["bytes"] for entry in sources.values()) / 1e6
    body = [
        "<h1>Prepared text</h1>",
        f'<p class="lead">{documents:,} documents, {megabytes:,.1f} MB, {len(sources)} sources. A document is counted once, '
        "under the first rule that dropped it.</p>",
        _overview(sources, planned_tokens),
    ]
    body += [_duplicate_groups(groups)] if groups else []
    body += [_source(name, entry, details[name]) for name, entry in sources.items()]
    write_page(path, title="Prepared text", style=_STYLE, body=body)


def planned_epochs(sources: dict[str, Any], tokens: float) -> dict[str, float]:
    """How many epochs of each source a run of `tokens` tokens has: tokens x weight x bytes per token / bytes."""
    return {
        name: tokens * entry["weight"] * BYTES_PER_TOKEN.get(entry["language"], BYTES_PER_TOKEN_ELSE) / entry["bytes"]
        for name, entry in sources.items()
    }


def _overview(sources: dict[str, Any], planned_tokens: float | None) -> str:
    epochs = planned_epochs(sources, planned_tokens) if planned_tokens else {}
    heads = ["source", "language", "weight", "documents", "MB", "dropped", "licence"]
    heads += [f"epochs of {planned_tokens / 1e9:g} B tokens"] if planned_tokens else []
    rows = []
    for name, entry in sources.items():
        dropped = sum(entry["filters"].values())
        share = dropped / max(1, dropped + entry["documents"])
        cells = [
            f"<td>{_text(name)}</td><td>{_text(entry['language'])}</td>",
            f'<td class="number">{entry["weight"]:.3f}</td><td class="number">{entry["documents"]:,}</td>',
            f'<td class="number">{entry["bytes"] / 1e6:,.2f}</td><td class="number">{dropped:,} ({share:.1%})</td>',
            f"<td>{_text(entry['license'] or 'not given')}</td>",
            f'<td class="number">{epochs[name]:.2f}</td>' if epochs else "",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    number = {"weight", "documents", "MB", "dropped"} | set(heads[7:])
    head = "".join(f"<th{' class=number' if name in number else ''}>{_text(name)}</th>" for name in heads)
    note = ""
    if planned_tokens:
        note = (
            f'<p class="lead">Epochs, by the weights, at {BYTES_PER_TOKEN["km"]:g} bytes a token of Khmer and '
            f"{BYTES_PER_TOKEN_ELSE:g} of other languages: an estimate, the tokenizer decides.</p>"
        )
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>{note}'


def _source(name: str, entry: dict[str, Any], details: dict[str, Any]) -> str:
    read = entry["documents"] + sum(entry["filters"].values())
    kept = [("kept", entry["documents"], "")]
    dropped = [(rule, count, "dropped") for rule, count in sorted(entry["filters"].items(), key=_largest) if count]
    scripts = [(script, count, "") for script, count in sorted(details["scripts"].items(), key=_largest)]
    columns = (
        ("Documents by rule", _bars(kept + dropped, read)),
        ("Characters by script", _bars(scripts, sum(details["scripts"].values()))),
        ("Length of documents, characters", _powers(details["lengths"], "documents")),
        ("Score of quality", _scores(details["scores"])),
    )
    shown = "".join(f"<div><h3>{title}</h3>{chart}</div>" for title, chart in columns if chart)
    return (
        f'<section><h2>{_text(name)}</h2><p class="lead">{_text(entry["language"])}, {entry["documents"]:,} of {read:,} '
        f'documents kept, {entry["bytes"] / 1e6:,.2f} MB</p><div class="columns">{shown}</div>'
        f'{_changes(entry)}<div class="columns">{_samples(details["samples"], "kept", "")}'
        f"{_samples(details['dropped'], 'dropped', 'dropped')}</div></section>"
    )


def _largest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _bars(rows: list[tuple[str, int, str]], total: int) -> str:
    lines = [
        f'<div class="row {kind}"><span>{_text(label.replace("_", " "))}</span><div class="bar">'
        f'<i style="width:{100 * count / max(1, total):.2f}%"></i></div>'
        f"<span>{count:,} ({count / max(1, total):.1%})</span></div>"
        for label, count, kind in rows
    ]
    return "".join(lines)


def _changes(entry: dict[str, Any]) -> str:
    said = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in entry["changes"].items() if count]
    reading = [entry["reading"]] if entry["reading"] else []
    return f'<p class="lead">{_text("; ".join([*reading, *said]))}</p>' if reading or said else ""


def _duplicate_groups(groups: dict[str, Any]) -> str:
    """The section about duplicates."""
    lead = f"{groups['clusters']:,} duplicate groups with {groups['documents']:,} documents; the first of each group is kept"
    names = sorted({name for row in groups["between"].values() for name in row})
    head = "".join(f'<th class="number">{_text(name)}</th>' for name in names)
    rows = "".join(
        f"<tr><td>{_text(source)}</td>"
        + "".join(f'<td class="number">{row.get(name, 0):,}</td>' for name in names)
        + "</tr>"
        for source, row in groups["between"].items()
    )
    table = (
        f'<div class="wide"><table><tr><th>dropped from ↓, kept in →</th>{head}</tr>{rows}</table></div>'
        if rows
        else ""
    )
    sizes = f"<h3>Size of duplicate groups</h3>{_powers(groups['sizes'], 'groups')}" if groups["sizes"] else ""
    largest = "".join(
        f"<details><summary>{group['size']:,} documents</summary>{_quotes(group['documents'])}</details>"
        for group in groups["largest"]
    )
    return f'<section><h2>Duplicates</h2><p class="lead">{lead}</p>{table}{sizes}{largest}</section>'


def _powers(counts: dict[str, int], what: str) -> str:
    """Bars of counts by powers of two."""
    by_power = {int(power): count for power, count in counts.items()}
    powers = range(min(by_power), max(by_power) + 1)
    bars = [(_short(2**power), f"{2**power:,} to {2 ** (power + 1) - 1:,}", by_power.get(power, 0)) for power in powers]
    return _histogram(bars, what)


def _scores(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    return _histogram([(f".{tenth}", f"from 0.{tenth}", counts.get(str(tenth), 0)) for tenth in range(10)], "documents")


def _histogram(bars: list[tuple[str, str, int]], what: str) -> str:
    """Upright bars, each (label, what it is of, count)."""
    top = max(count for _, _, count in bars)
    drawn = "".join(
        f'<div style="height:{100 * count / max(top, 1):.1f}%" title="{title}: {count:,} {what}"></div>'
        for _, title, count in bars
    )
    axis = "".join(f"<span>{label}</span>" for label, _, _ in bars)
    return f'<div class="lengths">{drawn}</div><div class="axis">{axis}</div>'


def _short(number: int) -> str:
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)


def _samples(samples: list[dict[str, str]], what: str, kind: str) -> str:
    if not samples:
        return ""
    summary = f"<summary>{len(samples)} documents {what}, at random</summary>"
    return f'<details class="{kind}" open>{summary}{_quotes(samples)}</details>'


def _quotes(samples: list[dict[str, str]]) -> str:
    return "".join(
        f"<blockquote><small>{_text(sample['id'])}{' · ' + _text(sample['rule']) if 'rule' in sample else ''}</small>"
        f"{_text(sample['text'])}</blockquote>"
        for sample in samples
    )


def _text(text: str) -> str:
    return html.escape(text)


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """The figures of each source: language, weight, documents, megabytes (10^6 bytes), dropped documents."""
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
    """The figures as a table, followed by the reasons why documents were dropped."""
    width = max(len("source"), *(len(name) for name in manifest["sources"]))
    lines = [f"{'source':{width}}  language  weight    documents          MB  dropped"]
    for name, row in figures(manifest).items():
        lines.append(
            f"{name:{width}}  {row['language']:8}  {row['weight']:6.3f}  {row['documents']:11,}  "
            f"{row['megabytes']:10,.2f}  {row['dropped']:7,}"
        )
    for name, entry in manifest["sources"].items():
        if entry["reading"]:
            lines.append(f"{name} {entry['reading']}")
        reasons = [f"{count:,} {kind}" for kind, count in entry["filters"].items() if count]
        if reasons:
            lines.append(f"dropped from {name}: {', '.join(reasons)}")
    return "\n".join(lines)

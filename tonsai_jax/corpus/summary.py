"""What preparing text has done, in figures, for the terminal and for other programs."""

from typing import Any


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is reported for each source: language, weight, documents, megabytes (10^6 bytes), dropped."""
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
    """The figures as a table for people, followed by why documents were dropped."""
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

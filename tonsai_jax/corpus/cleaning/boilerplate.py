"""Lines that a source repeats in many of its documents, such as menus and footers, are counted, then taken out."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.cleaned import cleaned_file, read_cleaned
from tonsai_jax.corpus.statistics import DroppedStatistics
from tonsai_jax.files import write_array
from tonsai_jax.text.ngrams import text_hash

_PARTITION_LINES = 16_000_000  # kinds of lines counted together: some 500 MB


def count_lines(key: str, path: Path) -> dict[str, Any]:
    """A task: in how many documents of a cleaned piece, given by its key, each line stands.

    Writes `path`.npy, uint64 (2, kinds of lines): hashes, sorted, and counts. A document of one line has none.
    """
    counts: Counter[int] = Counter()
    for document in read_cleaned(path.parents[1] / "clean" / f"{key}.parquet"):
        counts.update({text_hash(line.encode()) for line in _lines(document.text)})
    hashes = np.fromiter(counts.keys(), np.uint64, len(counts))
    numbers = np.fromiter(counts.values(), np.uint64, len(counts))
    order = np.argsort(hashes)
    write_array(path.with_suffix(".npy"), np.stack([hashes[order], numbers[order]]))
    return {"lines": len(counts)}


@dataclasses.dataclass(frozen=True)
class FindBoilerplate:
    """The task that finds the lines that stand in `documents` documents of a source; its payload is its pieces' keys.

    Writes `path`.npy, the hashes of those lines: uint64 (lines,).
    """

    documents: int

    def __call__(self, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
        counted = [np.load(path.parents[1] / "lines" / f"{key}.npy", mmap_mode="r") for key in keys]
        parts = 1 + sum(counts.shape[1] for counts in counted) // _PARTITION_LINES
        edges = np.array([2**64 * part // parts for part in range(1, parts)], np.uint64)  # hashes are spread evenly
        cuts = [np.concatenate(([0], np.searchsorted(counts[0], edges), [counts.shape[1]])) for counts in counted]
        found = []
        for part in range(parts):
            together = np.concatenate(
                [counts[:, cut[part] : cut[part + 1]] for counts, cut in zip(counted, cuts, strict=True)], axis=1
            )
            kinds, places = np.unique(together[0], return_inverse=True)
            numbers = np.bincount(places, weights=together[1], minlength=len(kinds))
            found.append(kinds[numbers >= self.documents])
        write_array(path.with_suffix(".npy"), np.concatenate(found))
        return {"lines": sum(map(len, found))}


def strip_lines(piece: tuple[str, str], path: Path) -> dict[str, Any]:
    """A task: writes a cleaned piece again without the lines found; its payload is the keys of the piece and of those.

    What stays goes to `path`.parquet, documents of which nothing does to `path`.dropped.parquet.
    """
    key, found = piece
    work = path.parents[1]
    boilerplate = set(np.load(work / "boilerplate" / f"{found}.npy").tolist())
    lines = 0
    dropped = DroppedStatistics()
    with cleaned_file(path.with_suffix(".parquet")) as kept, cleaned_file(path.with_suffix(".dropped.parquet")) as gone:
        for document in read_cleaned(work / "clean" / f"{key}.parquet"):
            text, count = _without(document.text, boilerplate)
            lines += count
            if text:
                kept.add(document._replace(text=text))
            else:
                gone.add(document._replace(rule="boilerplate"))
                dropped.add(document.id, document.text, "boilerplate")
    return {
        "kept": kept.documents,
        "filters": dict(dropped.counts),
        "changes": {"boilerplate_lines": lines},
        "dropped": dropped.samples(),
    }


def _without(text: str, boilerplate: set[int]) -> tuple[str, int]:
    """A text without the lines whose hashes are given, and how many went."""
    if not _lines(text):
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not (stripped := line.strip()) or text_hash(stripped.encode()) not in boilerplate]
    if len(kept) == len(lines):
        return text, 0
    return re.sub("\n{3,}", "\n\n", "\n".join(kept)).strip("\n"), len(lines) - len(kept)


def _lines(text: str) -> list[str]:
    """The lines of a text that are not blank, without the space around them; none where there is but one."""
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    return lines if len(lines) > 1 else []

"""Boilerplate: lines that many documents of a source repeat, such as menus and footers, are counted and removed."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.intermediate import piece_writer, read_piece
from tonsai_jax.corpus.statistics import DroppedStatistics
from tonsai_jax.files import write_array
from tonsai_jax.text.ngrams import text_hash

_PARTITION_LINES = 16_000_000  # distinct lines counted together; takes about 500 MB


def count_lines(key: str, path: Path) -> dict[str, Any]:
    """A task: counts, for each distinct line of a cleaned piece, the documents that have it. Its payload is the piece's key.

    Writes `path`.npy, uint64 (2, lines): the sorted hashes, and the counts. Lines of one-line documents are not counted.
    """
    counts: Counter[int] = Counter()
    for document in read_piece(path.parents[1] / "clean" / f"{key}.parquet"):
        counts.update({text_hash(line.encode()) for line in _lines(document.text)})
    hashes = np.fromiter(counts.keys(), np.uint64, len(counts))
    numbers = np.fromiter(counts.values(), np.uint64, len(counts))
    order = np.argsort(hashes)
    write_array(path.with_suffix(".npy"), np.stack([hashes[order], numbers[order]]))
    return {"lines": len(counts)}


@dataclasses.dataclass(frozen=True)
class FindBoilerplate:
    """The task that finds the lines that occur in at least `documents` documents of a source.

    Its payload is the keys of the `count_lines` results of the source. Writes `path`.npy, uint64 (lines,): the hashes of
    the lines found.
    """

    documents: int

    def __call__(self, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
        counted = [np.load(path.parents[1] / "lines" / f"{key}.npy", mmap_mode="r") for key in keys]
        partitions = 1 + sum(counts.shape[1] for counts in counted) // _PARTITION_LINES
        edges = np.array([2**64 * part // partitions for part in range(1, partitions)], np.uint64)  # hashes are uniform
        cuts = [np.concatenate(([0], np.searchsorted(counts[0], edges), [counts.shape[1]])) for counts in counted]
        found = []
        for part in range(partitions):
            together = np.concatenate(
                [counts[:, cut[part] : cut[part + 1]] for counts, cut in zip(counted, cuts, strict=True)], axis=1
            )
            lines, places = np.unique(together[0], return_inverse=True)
            numbers = np.bincount(places, weights=together[1], minlength=len(lines))
            found.append(lines[numbers >= self.documents])
        write_array(path.with_suffix(".npy"), np.concatenate(found))
        return {"lines": sum(map(len, found))}


def strip_lines(keys: tuple[str, str], path: Path) -> dict[str, Any]:
    """A task: writes a cleaned piece again without boilerplate. Its payload: the keys of the piece and of the lines found.

    Writes the documents to `path`.parquet, and those with no line left to `path`.dropped.parquet.
    """
    key, found = keys
    work = path.parents[1]
    boilerplate = set(np.load(work / "boilerplate" / f"{found}.npy").tolist())
    removed = 0
    dropped = DroppedStatistics()
    with (
        piece_writer(path.with_suffix(".parquet")) as kept_documents,
        piece_writer(path.with_suffix(".dropped.parquet")) as dropped_documents,
    ):
        for document in read_piece(work / "clean" / f"{key}.parquet"):
            text, count = _without(document.text, boilerplate)
            removed += count
            if text:
                kept_documents.add(document._replace(text=text))
            else:
                dropped_documents.add(document._replace(rule="boilerplate"))
                dropped.add(document.id, document.text, "boilerplate")
    return {
        "kept": kept_documents.documents,
        "filters": dict(dropped.counts),
        "changes": {"boilerplate_lines": removed},
        "dropped": dropped.samples(),
    }


def _without(text: str, boilerplate: set[int]) -> tuple[str, int]:
    """Removes the lines with the given hashes; returns the text and the number of lines removed."""
    if not _lines(text):
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not (stripped := line.strip()) or text_hash(stripped.encode()) not in boilerplate]
    if len(kept) == len(lines):
        return text, 0
    return re.sub("\n{3,}", "\n\n", "\n".join(kept)).strip("\n"), len(lines) - len(kept)


def _lines(text: str) -> list[str]:
    """The lines of a text that are not blank, stripped. Empty for a text of one line, which is never boilerplate."""
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    return lines if len(lines) > 1 else []

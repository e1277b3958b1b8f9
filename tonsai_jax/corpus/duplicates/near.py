"""Near-duplicates by MinHash: of documents that are mostly the same, the first in the order of the sources stays.

How alike two documents are is the Jaccard similarity of their sets of 5-grams of units (`ngrams.py`). For each document the
smallest of its 5-grams under each of 120 random orders is kept: two documents agree in as many of the 120 as they are alike
(Broder, 1997, "On the resemblance and containment of documents"). Those that agree in all six of one of 20 groups ("bands")
are compared by a sketch, one byte of each of the 120, so that what only happens to share a band is kept.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.cleaned import read_cleaned
from tonsai_jax.files import write_array
from tonsai_jax.text.ngrams import hashed, ngrams, text_hash, units

SHINGLE_UNITS = 5
BANDS, ROWS = 20, 6  # a pair that is 0.8 alike shares a band with 1 - (1 - 0.8^6)^20 = 0.998, one that is 0.7 with 0.92
_ORDERS = BANDS * ROWS
_BLOCK = 512  # shingles that are put in all orders at once: they and the result fit in the cache
_PARTITION_DOCUMENTS = 8_000_000  # of one band matched at a time: some 400 MB
_COMPARED = 65_536  # pairs at a time

_random = np.random.Generator(np.random.PCG64(2026))
_FACTORS = _random.integers(0, 2**32, (_ORDERS, 1), dtype=np.uint32) | np.uint32(1)
_TERMS = _random.integers(0, 2**32, (_ORDERS, 1), dtype=np.uint32)
_BAND_FACTORS = _random.integers(0, 2**64, (ROWS,), dtype=np.uint64) | np.uint64(1)


def minima(text: str) -> np.ndarray:
    """The smallest shingle of a text under each order: uint32 (120,)."""
    row = hashed(units(text))
    shingles = (
        ngrams(row, min(SHINGLE_UNITS, len(row))) if len(row) else np.array([text_hash(text.encode())], np.uint64)
    )
    shingles = np.unique((shingles >> np.uint64(32)).astype(np.uint32))
    smallest = np.full(_ORDERS, 2**32 - 1, np.uint32)
    for start in range(0, len(shingles), _BLOCK):
        ordered = shingles[None, start : start + _BLOCK] * _FACTORS
        ordered += _TERMS
        np.minimum(smallest, ordered.min(axis=1), out=smallest)
    return smallest


def sign(cleaned: tuple[str, str], path: Path) -> dict[str, Any]:
    """A task: what is compared of the documents of a piece, given by its stage's folder and its key.

    Writes `path`.bands.npy, uint64 (20, documents), and `path`.sketch.npy, uint8 (documents, 120).
    """
    folder, key = cleaned
    smallest = [minima(document.text) for document in read_cleaned(path.parents[1] / folder / f"{key}.parquet")]
    table = np.array(smallest, np.uint32).reshape(-1, BANDS, ROWS)
    bands = (table.astype(np.uint64) * _BAND_FACTORS).sum(axis=2, dtype=np.uint64)
    bands ^= bands >> np.uint64(31)
    for kind, array in (("bands", bands.T), ("sketch", (table & 0xFF).astype(np.uint8).reshape(-1, _ORDERS))):
        write_array(path.with_suffix(f".{kind}.npy"), np.ascontiguousarray(array))
    return {"documents": len(table)}


@dataclasses.dataclass(frozen=True)
class Signed:
    """The signed pieces of all sources in order: the key of each, and the number of its first document (one more: of all)."""

    keys: tuple[str, ...]
    starts: tuple[int, ...]

    def bands(self, folder: Path, band: int) -> Iterator[np.ndarray]:
        """Gives the keys of one band of each piece, uint64 (documents,)."""
        for key in self.keys:
            yield np.load(folder / f"{key}.bands.npy", mmap_mode="r")[band]

    def sketches(self, folder: Path, documents: np.ndarray) -> np.ndarray:
        """The sketches of documents given by their numbers: uint8 (documents, 120)."""
        found = np.empty((len(documents), _ORDERS), np.uint8)
        order = np.argsort(documents)
        ends = np.searchsorted(documents[order], self.starts)
        for piece in np.flatnonzero(np.diff(ends)):
            places = order[ends[piece] : ends[piece + 1]]
            rows = np.load(folder / f"{self.keys[piece]}.sketch.npy", mmap_mode="r")
            found[places] = rows[documents[places] - self.starts[piece]]
        return found

    def alike(self, folder: Path, pairs: np.ndarray) -> np.ndarray:
        """How alike the documents of each pair (pairs, 2) are, estimated: float64 (pairs,)."""
        similarity = np.empty(len(pairs))
        for start in range(0, len(pairs), _COMPARED):
            part = pairs[start : start + _COMPARED]
            same = self.sketches(folder, part[:, 0]) == self.sketches(folder, part[:, 1])
            similarity[start : start + _COMPARED] = same.mean(axis=1)
        return (similarity - 1 / 256) / (1 - 1 / 256)  # one byte is the same by chance in 1 of 256


@dataclasses.dataclass(frozen=True)
class Match:
    """The task that finds the pairs of alike documents that share one band, among those of one part of its keys.

    Its payload is (band, part); it writes `path`.npy, uint32 (pairs, 2), the earlier document first.
    """

    signed: Signed
    exact: str  # key of the task that has found the exact duplicates
    similarity: float
    parts: int

    def __call__(self, payload: tuple[int, int], path: Path) -> dict[str, Any]:
        band, part = payload
        work = path.parents[1]
        leader = np.load(work / "duplicates" / f"{self.exact}.npy", mmap_mode="r")
        numbers, keys = [], []
        for start, own in zip(self.signed.starts, self.signed.bands(work / "signed", band), strict=False):
            stays = leader[start : start + len(own)] == np.arange(start, start + len(own))
            taken = np.flatnonzero((own % np.uint64(self.parts) == part) & stays)
            numbers.append((taken + start).astype(np.uint32))
            keys.append(own[taken])
        pairs = _neighbors(np.concatenate(numbers), np.concatenate(keys))
        pairs = pairs[self.signed.alike(work / "signed", pairs) >= self.similarity]
        write_array(path.with_suffix(".npy"), pairs)
        return {"pairs": len(pairs)}


def match_parts(documents: int) -> int:
    """Into how many parts the keys of a band are divided, so that memory does not grow with the corpus."""
    return 1 + documents // _PARTITION_DOCUMENTS


def _neighbors(numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of documents with the same key, each with the first of them and with the one before it: uint32 (pairs, 2)."""
    order = np.argsort(keys, kind="stable")  # so that numbers stay in order
    numbers, keys = numbers[order], keys[order]
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.int64)
    first_of = np.repeat(begins, np.diff(np.append(begins, len(keys))))
    later = np.flatnonzero(first_of != np.arange(len(keys)))
    with_first = np.stack([numbers[first_of[later]], numbers[later]], axis=1)
    later = later[first_of[later] != later - 1]
    with_previous = np.stack([numbers[later - 1], numbers[later]], axis=1)
    return np.concatenate([with_first, with_previous])


def leaders(pairs: np.ndarray, exact: np.ndarray, alike: Callable[[int, int], bool]) -> np.ndarray:
    """For each document the one that stays in its place, itself if it stays: uint32 (documents,).

    A document goes only for one that stays and is itself alike, so no chain of small differences takes away what is
    different. `pairs` (pairs, 2) are alike, the earlier document first; `exact` is the same as the result, for equal ones.
    """
    leader = np.array(exact)
    pairs = np.unique(pairs[:, [1, 0]], axis=0)  # by the later document, then by the earlier
    later_ones, begins = np.unique(pairs[:, 0], return_index=True)
    for later, earlier in zip(later_ones, np.split(pairs[:, 1], begins[1:]), strict=False):
        stay = leader[earlier]
        direct = stay[stay == earlier]
        if len(direct):
            leader[later] = direct[0]
        else:
            leader[later] = next((one for one in dict.fromkeys(stay.tolist()) if alike(one, int(later))), later)
    return leader[leader]  # an exact duplicate of what has gone meanwhile goes for the same


@dataclasses.dataclass(frozen=True)
class Resolve:
    """The task that decides which document goes for which; its payload is the keys of the `Match` tasks.

    Writes `path`.npy as `FindDuplicates` does, for exact and near-duplicates together.
    """

    signed: Signed
    exact: str
    similarity: float

    def __call__(self, matched: Sequence[str], path: Path) -> dict[str, Any]:
        work = path.parents[1]
        pairs = np.concatenate([np.load(work / "matched" / f"{key}.npy") for key in matched])

        def alike(earlier: int, later: int) -> bool:
            pair = np.array([[earlier, later]], np.uint32)
            return bool(self.signed.alike(work / "signed", pair)[0] >= self.similarity)

        leader = leaders(pairs, np.load(work / "duplicates" / f"{self.exact}.npy"), alike)
        write_array(path.with_suffix(".npy"), leader)
        return {}

"""Near-duplicates by MinHash: of documents that are mostly equal, the first in the order of the sources is kept.

The similarity of two documents is the Jaccard similarity of their sets of 5-grams of units (`text/ngrams.py`). Under each of
120 random orders, the smallest 5-gram of a document is its signature's entry: two documents agree in a share of the 120
entries that estimates their similarity (Broder, 1997, "On the resemblance and containment of documents"). The 120 entries form
20 bands of 6. Documents that agree in a whole band are candidates, and are compared by a sketch of one byte per entry, so
that documents that share a band by chance are kept.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.intermediate import StoredPiece, read_piece
from tonsai_jax.files import write_array
from tonsai_jax.text.ngrams import hashed, ngrams, text_hash, units

SHINGLE_UNITS = 5
BANDS, ROWS = (
    20,
    6,
)  # two documents of similarity 0.8 share a band with probability 1 - (1 - 0.8^6)^20 = 0.998; of 0.7: 0.92
_ORDERS = BANDS * ROWS
_BLOCK = 512  # shingles ordered at once: they and the result fit in the CPU cache
_PARTITION_DOCUMENTS = 8_000_000  # of one band, matched together; takes about 400 MB
_PAIRS_AT_ONCE = 65_536

_random = np.random.Generator(np.random.PCG64(2026))
_FACTORS = _random.integers(0, 2**32, (_ORDERS, 1), dtype=np.uint32) | np.uint32(1)
_TERMS = _random.integers(0, 2**32, (_ORDERS, 1), dtype=np.uint32)
_BAND_FACTORS = _random.integers(0, 2**64, (ROWS,), dtype=np.uint64) | np.uint64(1)


def minhash(text: str) -> np.ndarray:
    """The smallest shingle of a text under each random order: uint32 (120,)."""
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


def compute_signatures(piece: tuple[str, str], path: Path) -> dict[str, Any]:
    """A task: computes what is compared of each document of a piece. Its payload is the stage and the key of the piece.

    Writes `path`.bands.npy, uint64 (20, documents), a hash of each band; and `path`.sketch.npy, uint8 (documents, 120).
    """
    smallest = [minhash(document.text) for document in read_piece(StoredPiece(*piece).path(path.parents[1]))]
    table = np.array(smallest, np.uint32).reshape(-1, BANDS, ROWS)
    bands = (table.astype(np.uint64) * _BAND_FACTORS).sum(axis=2, dtype=np.uint64)
    bands ^= bands >> np.uint64(31)
    for kind, array in (("bands", bands.T), ("sketch", (table & 0xFF).astype(np.uint8).reshape(-1, _ORDERS))):
        write_array(path.with_suffix(f".{kind}.npy"), np.ascontiguousarray(array))
    return {"documents": len(table)}


@dataclasses.dataclass(frozen=True)
class Signatures:
    """The signatures of all pieces, as `compute_signatures` has written them.

    Attributes:
      keys: the keys of these results, in the order of the pieces.
      starts: the number of the first document of each piece, and at the end the number of all documents.
    """

    keys: tuple[str, ...]
    starts: tuple[int, ...]

    def bands(self, folder: Path, band: int) -> Iterator[np.ndarray]:
        """Gives the hashes of one band for each piece, uint64 (documents,)."""
        for key in self.keys:
            yield np.load(folder / f"{key}.bands.npy", mmap_mode="r")[band]

    def sketches(self, folder: Path, documents: np.ndarray) -> np.ndarray:
        """The sketches of documents given by their numbers: uint8 (documents, 120)."""
        found = np.empty((len(documents), _ORDERS), np.uint8)
        order = np.argsort(documents)
        ends = np.searchsorted(documents[order], self.starts)
        for piece in map(int, np.flatnonzero(np.diff(ends))):
            positions = order[ends[piece] : ends[piece + 1]]
            rows = np.load(folder / f"{self.keys[piece]}.sketch.npy", mmap_mode="r")
            found[positions] = rows[documents[positions] - self.starts[piece]]
        return found

    def similarity(self, folder: Path, pairs: np.ndarray) -> np.ndarray:
        """The estimated similarity of the documents of each pair (pairs, 2): float64 (pairs,)."""
        similarity = np.empty(len(pairs))
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            same = self.sketches(folder, part[:, 0]) == self.sketches(folder, part[:, 1])
            similarity[start : start + _PAIRS_AT_ONCE] = same.mean(axis=1)
        return (similarity - 1 / 256) / (1 - 1 / 256)  # one byte is equal by chance in 1 of 256


@dataclasses.dataclass(frozen=True)
class MatchBand:
    """The task that finds the pairs of near-duplicates that share one band, in one partition of the band's hashes.

    Its payload is (band, partition). Writes `path`.npy, uint32 (pairs, 2), the earlier document first.

    Attributes:
      exact: key of the result of `FindExactDuplicates`.
      similarity: the least similarity of a pair.
      partitions: how many there are.
    """

    signatures: Signatures
    exact: str
    similarity: float
    partitions: int

    def __call__(self, payload: tuple[int, int], path: Path) -> dict[str, Any]:
        band, partition = payload
        work = path.parents[1]
        representative = np.load(work / "duplicates" / f"{self.exact}.npy", mmap_mode="r")
        numbers, hashes = [], []
        for start, own in zip(self.signatures.starts, self.signatures.bands(work / "signed", band), strict=False):
            kept = representative[start : start + len(own)] == np.arange(start, start + len(own))
            taken = np.flatnonzero((own % np.uint64(self.partitions) == partition) & kept)
            numbers.append((taken + start).astype(np.uint32))
            hashes.append(own[taken])
        pairs = _candidates(np.concatenate(numbers), np.concatenate(hashes))
        pairs = pairs[self.signatures.similarity(work / "signed", pairs) >= self.similarity]
        write_array(path.with_suffix(".npy"), pairs)
        return {"pairs": len(pairs)}


def partition_count(documents: int) -> int:
    """Into how many partitions the hashes of a band are divided, so that memory does not grow with the corpus."""
    return 1 + documents // _PARTITION_DOCUMENTS


def _candidates(numbers: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Pairs each document with the first and with the previous one of equal hash: uint32 (pairs, 2)."""
    order = np.argsort(hashes, kind="stable")  # so that numbers stay in order
    numbers, hashes = numbers[order], hashes[order]
    begins = (
        np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1]))) if len(hashes) else np.empty(0, np.int64)
    )
    first_of = np.repeat(begins, np.diff(np.append(begins, len(hashes))))
    later = np.flatnonzero(first_of != np.arange(len(hashes)))
    with_first = np.stack([numbers[first_of[later]], numbers[later]], axis=1)
    later = later[first_of[later] != later - 1]
    with_previous = np.stack([numbers[later - 1], numbers[later]], axis=1)
    return np.concatenate([with_first, with_previous])


def representatives(pairs: np.ndarray, exact: np.ndarray, is_similar: Callable[[int, int], bool]) -> np.ndarray:
    """The document that is kept for each document, itself if it is kept: uint32 (documents,).

    A document is dropped only if a kept document is similar to it directly. So a chain of small differences never drops a
    document that is different.

    Args:
      pairs: (pairs, 2) similar documents, the earlier one first.
      exact: the same as the result, for equal documents only.
      is_similar: whether an earlier and a later document are similar.
    """
    representative = np.array(exact)
    pairs = np.unique(pairs[:, [1, 0]], axis=0)  # by the later document, then by the earlier
    later_ones, begins = np.unique(pairs[:, 0], return_index=True)
    for later, earlier in zip(later_ones, np.split(pairs[:, 1], begins[1:]), strict=False):
        kept = representative[earlier]
        direct = kept[kept == earlier]
        if len(direct):
            representative[later] = direct[0]
        else:
            similar = (one for one in dict.fromkeys(kept.tolist()) if is_similar(one, int(later)))
            representative[later] = next(similar, later)
    return representative[representative]  # exact duplicates of a document that was dropped above follow it


@dataclasses.dataclass(frozen=True)
class ResolveMatches:
    """The task that chooses the representatives. Its payload is the keys of the `MatchBand` results.

    Writes `path`.npy as `FindExactDuplicates` does, for exact and near-duplicates together.
    """

    signatures: Signatures
    exact: str
    similarity: float

    def __call__(self, matched: Sequence[str], path: Path) -> dict[str, Any]:
        work = path.parents[1]
        pairs = np.concatenate([np.load(work / "matched" / f"{key}.npy") for key in matched])

        def is_similar(earlier: int, later: int) -> bool:
            pair = np.array([[earlier, later]], np.uint32)
            return bool(self.signatures.similarity(work / "signed", pair)[0] >= self.similarity)

        exact = np.load(work / "duplicates" / f"{self.exact}.npy")
        write_array(path.with_suffix(".npy"), representatives(pairs, exact, is_similar))
        return {}

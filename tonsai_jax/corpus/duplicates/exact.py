"""What is done about duplicates, and the exact ones: of equal documents the first in the order of the sources stays."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.cleaned import read_hashes
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_array

_PARTITION_DOCUMENTS = 16_000_000  # looked at together: some 500 MB


@dataclasses.dataclass(frozen=True)
class Deduplication:
    """What is done about duplicates, by the keys under `deduplicate:` in a sources file."""

    lines: int = 0  # lines that stand in so many documents of their source go (menus, footers); 0: none
    exact: bool = False  # documents that are equal after cleaning: keep the first, by the order of the sources
    near: bool = False  # so too documents that are mostly the same; exact ones with them
    similarity: float = (
        0.7  # what is mostly the same: the Jaccard similarity of the sets of 5 words, or Khmer clusters, in a row
    )

    def __post_init__(self) -> None:
        for name in ("exact", "near"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"deduplicate: {name} is {getattr(self, name)!r}; it must be true or false")
        if not isinstance(self.lines, int) or isinstance(self.lines, bool) or self.lines < 0 or self.lines == 1:
            raise UserError(f"deduplicate: lines is {self.lines!r}; it must be a number of documents, 2 or more, or 0")
        if not isinstance(self.similarity, int | float) or not 0.5 <= self.similarity <= 1:
            raise UserError(f"deduplicate: similarity is {self.similarity!r}; it must be between 0.5 and 1")


@dataclasses.dataclass(frozen=True)
class Leaders:
    """Which documents stay in the place of which: names, in the work folder, of arrays of one number a document.

    Attributes:
      exact, near: the arrays for equal documents, and for equal and alike ones together; None if not asked for.
      starts: the number of the first document of each piece; one more, of all documents.
    """

    exact: str | None
    near: str | None
    starts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FindDuplicates:
    """The task that finds the equal documents of all pieces; its payload is the keys of these, in order.

    `folder` is the name of their stage. Writes `path`.npy, uint32 (documents,): the number of the document that stays in
    the place of each, its own if it stays itself.
    """

    folder: str

    def __call__(self, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
        pieces = [path.parents[1] / self.folder / f"{key}.parquet" for key in keys]
        sizes = [len(read_hashes(piece)) for piece in pieces]
        starts = np.cumsum([0, *sizes])
        leader = np.arange(starts[-1], dtype=np.uint32)
        parts = 1 + int(starts[-1]) // _PARTITION_DOCUMENTS
        for part in range(parts):  # so that memory does not grow with the corpus
            hashes, taken_numbers = [], []
            for start, piece in zip(starts, pieces, strict=False):
                own = read_hashes(piece)
                taken = np.flatnonzero(own % np.uint64(parts) == part)
                hashes.append(own[taken])
                taken_numbers.append(taken + start)
            numbers = np.concatenate(taken_numbers)
            _, first, kinds = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
            leader[numbers] = numbers[first[kinds]]
        write_array(path.with_suffix(".npy"), leader)
        return {"starts": starts.tolist()}

"""Duplicates: the settings, and the groups of documents that are equal. The first document of a group is kept."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.intermediate import read_hashes
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_array

_PARTITION_DOCUMENTS = 16_000_000  # compared together; takes about 500 MB


@dataclasses.dataclass(frozen=True)
class Deduplication:
    """What happens to duplicates: the keys under `deduplicate:` in a sources file. Raises `UserError` for other values."""

    lines: int = 0  # remove lines that occur in at least this many documents of their source (menus, footers); 0: none
    exact: bool = False  # of documents that are equal after cleaning keep the first, in the order of the sources
    near: bool = False  # the same for documents that are mostly equal; includes exact duplicates
    similarity: float = 0.7  # mostly equal: Jaccard similarity of the sets of 5 consecutive words (or Khmer syllables)

    def __post_init__(self) -> None:
        for name in ("exact", "near"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"deduplicate: {name} is {getattr(self, name)!r}; it must be true or false")
        if not isinstance(self.lines, int) or isinstance(self.lines, bool) or self.lines < 0 or self.lines == 1:
            raise UserError(
                f"deduplicate: lines is {self.lines!r}; it must be a number of documents: 2 or more, or 0 to keep all lines"
            )
        if not isinstance(self.similarity, int | float) or not 0.5 <= self.similarity <= 1:
            raise UserError(f"deduplicate: similarity is {self.similarity!r}; it must be between 0.5 and 1")


@dataclasses.dataclass(frozen=True)
class DuplicateGroups:
    """The duplicate groups among all documents, which are numbered in the order of the pieces.

    A group is stored as an array with one number per document: the document that is kept for its group, called its
    representative. A document that is its own representative is kept.

    Attributes:
      exact: the file of that array for equal documents, relative to the work folder, without .npy. None: not asked for.
      near: the same for equal and near-duplicate documents together.
      starts: the number of the first document of each piece, and at the end the number of all documents.
    """

    exact: str | None
    near: str | None
    starts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FindExactDuplicates:
    """The task that finds the equal documents of all pieces. Its payload is the keys of the pieces, in order.

    Writes `path`.npy, uint32 (documents,): the representative of each document.

    Attributes:
      folder: the stage of the pieces.
    """

    folder: str

    def __call__(self, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
        pieces = [path.parents[1] / self.folder / f"{key}.parquet" for key in keys]
        sizes = [len(read_hashes(piece)) for piece in pieces]
        starts = np.cumsum([0, *sizes])
        representative = np.arange(starts[-1], dtype=np.uint32)
        partitions = 1 + int(starts[-1]) // _PARTITION_DOCUMENTS
        for partition in range(partitions):  # so that memory does not grow with the corpus
            hashes, taken_numbers = [], []
            for start, piece in zip(starts, pieces, strict=False):
                own = read_hashes(piece)
                taken = np.flatnonzero(own % np.uint64(partitions) == partition)
                hashes.append(own[taken])
                taken_numbers.append(taken + start)
            numbers = np.concatenate(taken_numbers)
            _, first, group = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
            representative[numbers] = numbers[first[group]]
        write_array(path.with_suffix(".npy"), representative)
        return {"starts": starts.tolist()}

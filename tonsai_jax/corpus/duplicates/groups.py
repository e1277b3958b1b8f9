"""Figures and examples of the duplicate groups: their sizes, the sources they come from, the largest ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.duplicates.exact import DuplicateGroups
from tonsai_jax.corpus.intermediate import StoredPiece, read_document

SHOWN = 5  # groups, the largest
SHOWN_DOCUMENTS = 3  # of each, with the one that is kept first
_CHARACTERS = 400


def describe_groups(
    groups: DuplicateGroups, pieces: Sequence[StoredPiece], sources: Sequence[tuple[str, int]], work: Path
) -> dict[str, Any]:
    """Describes the duplicate groups of two or more documents.

    Args:
      groups: near-duplicates if they were searched for, else exact duplicates.
      pieces: the pieces that `groups` numbers, in order.
      sources: the name of each source and the number of its pieces.
      work: the work folder.

    Returns:
      {"clusters": number of groups, "documents": documents in groups, "sizes": {floor(log2(size)): groups},
      "between": {source: {source of the kept document: dropped documents}},
      "largest": [{"size", "documents": [{"id", "text"}]}]}
    """
    representative = np.load(work / f"{groups.near or groups.exact}.npy")
    sizes = np.bincount(representative, minlength=len(representative))
    kept = np.flatnonzero(sizes > 1)
    powers, counts = np.unique(np.log2(sizes[kept]).astype(int), return_counts=True)

    names = [name for name, _ in sources]
    ends = np.array([groups.starts[end] for end in np.cumsum([count for _, count in sources])])
    dropped = np.flatnonzero(representative != np.arange(len(representative)))
    source = np.searchsorted(ends, dropped, "right")
    source_of_kept = np.searchsorted(ends, representative[dropped], "right")
    table = np.bincount(source * len(names) + source_of_kept, minlength=len(names) ** 2)
    between = {
        name: {other: int(count) for other, count in zip(names, row, strict=True) if count}
        for name, row in zip(names, table.reshape(len(names), len(names)), strict=True)
        if row.any()
    }

    def shown(number: int) -> dict[str, str]:
        piece = int(np.searchsorted(groups.starts, number, "right")) - 1
        document = read_document(pieces[piece].path(work), number - groups.starts[piece])
        return {"id": document.id, "text": document.text[:_CHARACTERS]}

    largest = kept[np.argsort(-sizes[kept], kind="stable")][:SHOWN]
    return {
        "clusters": len(kept),
        "documents": int(sizes[kept].sum()),
        "sizes": {str(power): int(count) for power, count in zip(powers, counts, strict=True)},
        "between": between,
        "largest": [
            {
                "size": int(sizes[number]),
                "documents": [shown(int(one)) for one in np.flatnonzero(representative == number)[:SHOWN_DOCUMENTS]],
            }
            for number in largest
        ],
    }

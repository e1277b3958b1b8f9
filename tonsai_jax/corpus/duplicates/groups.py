"""What was found to be the same: how large the groups of duplicates are, from which sources, and what they look like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.cleaned import Stored, document_at
from tonsai_jax.corpus.duplicates.exact import Leaders

SHOWN = 5  # of the largest clusters
SHOWN_DOCUMENTS = 3  # of each of them, the one that stays first
_CHARACTERS = 400


def describe_clusters(
    leaders: Leaders, pieces: Sequence[Stored], sources: Sequence[tuple[str, int]], work: Path
) -> dict[str, Any]:
    """Figures and examples of the clusters; a cluster is a document that stays and those that go for it.

    Args:
      pieces: those that `leaders` speaks of, in order.
      sources: the name of each source and how many pieces it has.

    Returns:
      {"clusters", "documents" (in clusters), "sizes": {floor(log2(size)): clusters},
      "between": {source: {source of what stays: documents that go}}, "largest": [{"size", "documents": [{"id", "text"}]}]}
    """
    leader = np.load(work / f"{leaders.near or leaders.exact}.npy")
    sizes = np.bincount(leader, minlength=len(leader))
    clusters = np.flatnonzero(sizes > 1)
    powers, counts = np.unique(np.log2(sizes[clusters]).astype(int), return_counts=True)

    names = [name for name, _ in sources]
    ends = np.array([leaders.starts[end] for end in np.cumsum([count for _, count in sources])])
    gone = np.flatnonzero(leader != np.arange(len(leader)))
    pairs = np.searchsorted(ends, gone, "right") * len(names) + np.searchsorted(ends, leader[gone], "right")
    table = np.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), len(names))
    between = {
        name: {other: int(count) for other, count in zip(names, row, strict=True) if count}
        for name, row in zip(names, table, strict=True)
        if row.any()
    }

    def shown(number: int) -> dict[str, str]:
        piece = int(np.searchsorted(leaders.starts, number, "right")) - 1
        document = document_at(pieces[piece].path(work), number - leaders.starts[piece])
        return {"id": document.id, "text": document.text[:_CHARACTERS]}

    largest = clusters[np.argsort(-sizes[clusters], kind="stable")][:SHOWN]
    return {
        "clusters": len(clusters),
        "documents": int(sizes[clusters].sum()),
        "sizes": {str(power): int(count) for power, count in zip(powers, counts, strict=True)},
        "between": between,
        "largest": [
            {
                "size": int(sizes[number]),
                "documents": [shown(int(one)) for one in np.flatnonzero(leader == number)[:SHOWN_DOCUMENTS]],
            }
            for number in largest
        ],
    }

"""Lists of words and phrases, found in texts by the hashes of their units: stop words, word lists, evaluation sets.

A phrase is found whatever its case and the signs between its words, and in Khmer only between clusters: as a row of
units, not of characters.
"""

from collections.abc import Iterable

import numpy as np

from tonsai_jax.text.ngrams import hashed, ngrams, units


class Phrases:
    """A set of phrases, held as 8 bytes each."""

    def __init__(self, phrases: Iterable[str]):
        by_length: dict[int, list[int]] = {}
        for phrase in phrases:
            row = hashed(units(phrase))
            if len(row):
                by_length.setdefault(len(row), []).append(int(ngrams(row, len(row))[0]))
        self._tables = {n: np.unique(np.array(by_length[n], np.uint64)) for n in sorted(by_length)}

    def found(self, row: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Where phrases begin in a row of hashed units: (their units, places) for each length that phrases have."""
        return [(n, np.flatnonzero(is_among(ngrams(row, n), table))) for n, table in self._tables.items()]


def is_among(hashes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which of `hashes` are in the sorted `table`, which is not empty: bool (hashes,)."""
    return table[np.minimum(np.searchsorted(table, hashes), len(table) - 1)] == hashes

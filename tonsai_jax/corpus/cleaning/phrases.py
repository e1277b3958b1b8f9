"""Words and phrases found in texts by the hashes of their units: stop words, word lists, evaluation sets.

A phrase is a sequence of units, not of characters. So it is found in any case and with any punctuation between its words, and in
Khmer it begins and ends where orthographic syllables do.
"""

from collections.abc import Iterable

import numpy as np

from tonsai_jax.text.ngrams import hashed, ngrams, units


class Phrases:
    """A set of phrases, stored as 8 bytes each."""

    def __init__(self, phrases: Iterable[str]):
        by_length: dict[int, list[int]] = {}
        for phrase in phrases:
            row = hashed(units(phrase))
            if len(row):
                by_length.setdefault(len(row), []).append(int(ngrams(row, len(row))[0]))
        self._tables = {n: np.unique(np.array(by_length[n], np.uint64)) for n in sorted(by_length)}

    def found(self, row: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Where phrases begin in a sequence of hashed units: (n, positions) for each length n in units that phrases have."""
        return [(n, np.flatnonzero(is_among(ngrams(row, n), table))) for n, table in self._tables.items()]


def is_among(hashes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which of `hashes` are in `table`, which is sorted and not empty: bool (hashes,)."""
    return table[np.minimum(np.searchsorted(table, hashes), len(table) - 1)] == hashes

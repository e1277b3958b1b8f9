"""Rows of tokens in which sequences that begin alike share their beginning, so that a model computes it once.

Sequences are sorted, so those that begin alike are neighbors. A row takes one after the other: of each only the tokens after
what it shares with the one before. This is the depth-first order of a tree; `model.attention.subtree_mask` has the mask.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

SHORTEST_ROW = 64
# The part of a row's cost that grows with the square of its length: a row of 2,048 tokens costs twice as much per token as a
# very short one. Measured with GPT-2 of 124 M parameters on a CPU; the choice of a length depends little on it.
_TOKENS_OF_DOUBLE_COST = 2048


@dataclasses.dataclass(frozen=True)
class PrefixRows:
    """Rows of one length R x T, and where the sequences are in them.

    Attributes:
      tokens_RxT: int32 ids; 0 where a row is not full.
      ends_RxT: int32, the index after the subtree of each token; a token that fills a row up is alone in its subtree.
      row_of: for each sequence the number of its row.
      slots_of: for each sequence the indices in its row of its last tokens, as many as were asked for.
    """

    tokens_RxT: np.ndarray
    ends_RxT: np.ndarray
    row_of: list[int]
    slots_of: list[np.ndarray]


def prefix_rows(sequences: Sequence[tuple[int, ...]], last: Sequence[int], row_length: int | None = None) -> PrefixRows:
    """Puts sequences into rows.

    Args:
      sequences: the ids of each, at least one.
      last: for each sequence, of how many of its last tokens the caller needs to know where they are.
      row_length: T, not below the longest sequence; by default the power of two for which the model has the least to compute.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number])
    shared = [0] + [_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    T = row_length or _cheapest_length([len(sequences[number]) for number in order], shared)
    rows: list[tuple[list[int], list[int]]] = []
    row_of, slots_of = [0] * len(sequences), [np.empty(0, np.int32)] * len(sequences)
    tokens: list[int] = []
    ends: list[int] = []
    path: list[int] = []
    for number, common in zip(order, shared, strict=True):
        ids = sequences[number]
        if not rows or len(tokens) + len(ids) - common > T:
            tokens, ends, path, common = [], [], [], 0
            rows.append((tokens, ends))
        for slot in path[common:]:
            ends[slot] = len(tokens)
        added = range(len(tokens), len(tokens) + len(ids) - common)
        path = path[:common] + list(added)
        tokens.extend(ids[common:])
        ends.extend([T] * len(added))  # until another sequence leaves the path
        row_of[number] = len(rows) - 1
        slots_of[number] = np.array(path[len(path) - last[number] :], np.int32)
    tokens_RxT = np.zeros((len(rows), T), np.int32)
    ends_RxT = np.tile(np.arange(1, T + 1, dtype=np.int32), (len(rows), 1))
    for row, (tokens, ends) in enumerate(rows):
        tokens_RxT[row, : len(tokens)] = tokens
        ends_RxT[row, : len(ends)] = np.minimum(ends, len(tokens))
    return PrefixRows(tokens_RxT, ends_RxT, row_of, slots_of)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    both = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:both]) != np.asarray(second[:both]))
    return int(differ[0]) if len(differ) else both


def _cheapest_length(lengths: Sequence[int], shared: Sequence[int]) -> int:
    """The row length, a power of two, for which all rows together cost least."""
    T = max(SHORTEST_ROW, 1 << (max(lengths) - 1).bit_length())
    candidates = [T, 2 * T, 4 * T]
    return min(candidates, key=lambda T: _count_rows(lengths, shared, T) * T * (1 + T / _TOKENS_OF_DOUBLE_COST))


def _count_rows(lengths: Sequence[int], shared: Sequence[int], row_length: int) -> int:
    rows, used = 0, row_length
    for length, common in zip(lengths, shared, strict=True):
        used += length - common
        if used > row_length or not rows:
            rows, used = rows + 1, length
    return rows

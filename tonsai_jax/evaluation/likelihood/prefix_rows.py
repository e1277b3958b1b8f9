"""Rows of tokens in which sequences that begin alike share their beginning, so that a model computes it once.

Sequences are sorted, so those that begin alike are neighbors. A row takes one after the other: of each only the tokens after
what it shares with the one before. This is the depth-first order of a tree; `model.attention.subtree_mask` has the mask.
Neighbors that share much stay together as a block, and blocks of different sizes fill the rows.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

SHORTEST_ROW = 64
# A token in a row of this length costs twice as much as one in a very short row, for attention. Measured on a CPU with GPT-2 of
# 124 M parameters, in rows of 256 to 2,048 tokens.
_TOKENS_OF_DOUBLE_COST = 1150


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
      row_length: T, not below the longest sequence; by default the length for which the model has the least to compute, of
        64, 80, 96, 112, 128, 160 and so on.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number])
    blocks, base = _blocks(order, sequences)
    sizes = [size for _, size in blocks]
    longest = max(map(len, sequences))
    T = row_length or min(
        _lengths(longest), key=lambda T: len(_bins(sizes, T - base)) * T * (1 + T / _TOKENS_OF_DOUBLE_COST)
    )
    rows: list[tuple[list[int], list[int]]] = []
    row_of, slots_of = [0] * len(sequences), [np.empty(0, np.int32)] * len(sequences)
    for chosen in _bins(sizes, T - base):
        tokens: list[int] = []
        ends: list[int] = []
        path: list[int] = []
        before: tuple[int, ...] = ()
        rows.append((tokens, ends))
        for number in itertools.chain.from_iterable(blocks[block][0] for block in chosen):
            ids = sequences[number]
            common = common_prefix(before, ids)
            if len(tokens) + len(ids) - common > T:  # a block of more than a row
                tokens, ends, path, common = [], [], [], 0
                rows.append((tokens, ends))
            for slot in path[common:]:
                ends[slot] = len(tokens)
            added = range(len(tokens), len(tokens) + len(ids) - common)
            path = path[:common] + list(added)
            tokens.extend(ids[common:])
            ends.extend([T] * len(added))  # until another sequence leaves the path
            before = ids
            row_of[number] = len(rows) - 1
            slots_of[number] = np.array(path[len(path) - last[number] :], np.int32)
    tokens_RxT = np.zeros((len(rows), T), np.int32)
    ends_RxT = np.tile(np.arange(1, T + 1, dtype=np.int32), (len(rows), 1))
    for row, (tokens, ends) in enumerate(rows):
        tokens_RxT[row, : len(tokens)] = tokens
        ends_RxT[row, : len(ends)] = np.minimum(ends, len(tokens))
    return PrefixRows(tokens_RxT, ends_RxT, row_of, slots_of)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    both = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:both]) != np.asarray(second[:both]))
    return int(differ[0]) if len(differ) else both


def _blocks(order: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> tuple[list[tuple[list[int], int]], int]:
    """Sorted sequences in blocks, each with its tokens in a row, and the number of tokens that all sequences begin with.

    A sequence begins a block when it shares less than a quarter of its tokens with the one before, not counting what all share:
    apart from each other, the two lose little.
    """
    shared = [common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    base = min(shared, default=0)
    blocks: list[tuple[list[int], int]] = []
    for number, common in zip(order, [0, *shared], strict=True):
        length = len(sequences[number])
        if not blocks or 4 * (common - base) < length - base:
            blocks.append(([number], length - base))
        else:
            numbers, size = blocks[-1]
            blocks[-1] = ([*numbers, number], size + length - common)
    return blocks, base


def _bins(sizes: Sequence[int], room: int) -> list[list[int]]:
    """The numbers of the blocks in each row: each goes where it leaves the least room, the largest first."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (room left, bin), sorted
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        at = bisect.bisect_left(spaces, (sizes[number], 0))
        if at == len(spaces):
            bins.append([number])
            left, to = room - sizes[number], len(bins) - 1
        else:
            left, to = spaces.pop(at)
            left -= sizes[number]
            bins[to].append(number)
        if left > 0:
            bisect.insort(spaces, (left, to))
    return bins


def _lengths(longest: int) -> list[int]:
    """Row lengths from `longest` to about four times that: powers of two, and three between each two of them."""
    longest = max(longest, SHORTEST_ROW)
    least = 1 << ((longest - 1).bit_length() - 1)  # a power of two below it
    steps = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28)
    return [length for step in steps if (length := least * step // 4) >= longest]

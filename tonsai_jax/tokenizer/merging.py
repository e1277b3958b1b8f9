"""Learns the merges of byte-pair encoding: joins the most frequent pair of neighboring symbols, again and again.

Sennrich, Haddow and Birch (2016), https://arxiv.org/abs/1508.07909. Why it is fast: all positions of a pair are known when the
later of its two symbols is made, and after that positions can only disappear. So the count at that time is an upper bound, and
only the pair with the largest bound is counted again.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np

END = -1  # before, between and after words; never part of a pair
_GONE = -2  # joined with the symbol before it
_RIGHT = (1 << 32) - 1  # the bits of the right symbol in a pair's key, which is left << 32 | right


def learn_merges(
    symbols: np.ndarray, counts: np.ndarray, sizes: np.ndarray, *, max_size: int, min_count: int
) -> Iterator[tuple[int, int, int]]:
    """Joins the most frequent pair, again and again; among equally frequent pairs, the one with the oldest symbols.

    Args:
      symbols: int32 (n,), the symbols of all words in a row, with an `END` before, between and after the words; overwritten.
      counts: int32 (n,), for each symbol how often its word occurs.
      sizes: int32 (k,), the bytes of the symbols 0 to k-1.
      max_size: the most bytes that a joined pair can have.
      min_count: the least number of times that a pair must occur.

    Yields:
      (left, right, count) of each joined pair; the first becomes symbol k, the next k+1, and so on.
    """
    after = np.arange(1, len(symbols) + 1, dtype=np.int32)
    before = np.arange(-1, len(symbols) - 1, dtype=np.int32)
    made = len(sizes)
    sizes = np.resize(sizes, 2 * made)

    def found(positions: np.ndarray) -> _Pairs:
        left, right = symbols[positions], symbols[after[positions]]
        fits = sizes[left] + sizes[right] <= max_size
        return _Pairs.at(positions[fits], left[fits].astype(np.int64) << 32 | right[fits], counts, min_count)

    inside = (symbols[:-1] != END) & (symbols[1:] != END)
    heap = found(np.flatnonzero(inside).astype(np.int32)).entries(0)
    while heap:
        bound, key, index, pairs = heapq.heappop(heap)
        for entry in pairs.entries(index + 1):
            heapq.heappush(heap, entry)
        left, right = key >> 32, key & _RIGHT
        positions = pairs.positions[pairs.starts[index] : pairs.ends[index]]
        positions = positions[symbols[positions] == left]
        positions = positions[symbols[after[positions]] == right]
        joining = _apart(positions, after) if left == right else positions
        count = int(counts[joining].sum(dtype=np.int64))
        if count < -bound:
            if count >= min_count:
                heapq.heappush(heap, (-count, key, 0, _Pairs.one(key, count, positions)))
            continue
        yield left, right, count
        if made == len(sizes):
            sizes = np.resize(sizes, 2 * made)
        sizes[made] = sizes[left] + sizes[right]
        joined = after[joining]
        symbols[joining], symbols[joined] = made, _GONE
        behind = after[joined]
        after[joining], before[behind] = behind, joining
        ahead = before[joining]
        # Two new symbols in a row are one pair: it is found once, at the first of them, as one of `joining`.
        ahead = ahead[(symbols[ahead] != END) & (symbols[ahead] != made)]
        for entry in found(np.concatenate([ahead, joining[symbols[behind] != END]])).entries(0):
            heapq.heappush(heap, entry)
        made += 1


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs found at the same time, the most frequent first; only the first pair not joined yet is on the heap.

    Attributes:
      keys: int64 (p,), left << 32 | right.
      totals: int64 (p,), how often each pair occurred when it was found, in descending order.
      starts, ends: int64 (p,), the range of each pair in `positions`.
      positions: int32, the positions of the left symbols.
    """

    keys: np.ndarray
    totals: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    positions: np.ndarray

    @classmethod
    def at(cls, positions: np.ndarray, keys: np.ndarray, counts: np.ndarray, min_count: int) -> "_Pairs":
        order = np.argsort(keys, kind="stable")
        keys, positions = keys[order], positions[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        totals = np.add.reduceat(counts[positions], starts, dtype=np.int64) if len(starts) else starts
        often = totals >= min_count
        lengths = np.diff(starts, append=len(keys))
        positions = positions[np.repeat(often, lengths)]
        keys, totals, lengths = keys[starts[often]], totals[often], lengths[often]
        ends = np.cumsum(lengths)
        first = np.argsort(-totals, kind="stable")
        return cls(keys[first], totals[first], (ends - lengths)[first], ends[first], positions)

    @classmethod
    def one(cls, key: int, count: int, positions: np.ndarray) -> "_Pairs":
        return cls(np.array([key]), np.array([count]), np.array([0]), np.array([len(positions)]), positions)

    def entries(self, index: int) -> list[tuple[int, int, int, "_Pairs"]]:
        """The heap entry of the pair `index`, or an empty list if there is no such pair."""
        return [(-int(self.totals[index]), int(self.keys[index]), index, self)] if index < len(self.keys) else []


def _apart(positions: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Every second one of neighboring positions: three equal symbols in a row hold one pair, not two."""
    touches = np.append(False, after[positions[:-1]] == positions[1:])
    index = np.arange(len(positions))
    first = np.maximum.accumulate(np.where(touches, 0, index))
    return positions[(index - first) % 2 == 0]

"""The learning of byte-pair encoding: which pair of neighbours is the most frequent, and then, once they are joined?

Sennrich, Haddow and Birch (2016), https://arxiv.org/abs/1508.07909. What makes it fast: a pair's places are all known when the
later of its two symbols is made, and from then on they only go away. So the count of a pair when it was found is a bound, and
only the pair with the largest bound is ever counted again.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np

END = -1  # before, between and behind words; in no pair
_GONE = -2  # joined with the symbol before it
_RIGHT = (1 << 32) - 1  # of a pair's key, which is left << 32 | right


def learn_merges(
    symbols: np.ndarray, counts: np.ndarray, sizes: np.ndarray, *, max_size: int, min_count: int
) -> Iterator[tuple[int, int, int]]:
    """Joins the most frequent pair, again and again; of pairs as frequent as each other, that of the oldest symbols.

    Args:
      symbols: int32 (n,) of all words, one after the other, with an `END` before, between and behind them; overwritten.
      counts: int32 (n,), how often the word occurs that a symbol is in.
      sizes: int32 (k,), bytes of the symbols 0 to k-1.
      max_size: bytes that a pair may have at most.
      min_count: how often a pair must occur at least.

    Yields:
      left, right and count of each pair, whose symbol is k, then k+1 and so on.
    """
    after = np.arange(1, len(symbols) + 1, dtype=np.int32)
    before = np.arange(-1, len(symbols) - 1, dtype=np.int32)
    made = len(sizes)
    sizes = np.resize(sizes, 2 * made)

    def found(places: np.ndarray) -> _Pairs:
        left, right = symbols[places], symbols[after[places]]
        fits = sizes[left] + sizes[right] <= max_size
        return _Pairs.at(places[fits], left[fits].astype(np.int64) << 32 | right[fits], counts, min_count)

    inside = (symbols[:-1] != END) & (symbols[1:] != END)
    heap = found(np.flatnonzero(inside).astype(np.int32)).entries(0)
    while heap:
        bound, key, index, pairs = heapq.heappop(heap)
        for entry in pairs.entries(index + 1):
            heapq.heappush(heap, entry)
        left, right = key >> 32, key & _RIGHT
        places = pairs.places[pairs.starts[index] : pairs.ends[index]]
        places = places[symbols[places] == left]
        places = places[symbols[after[places]] == right]
        joining = _apart(places, after) if left == right else places
        count = int(counts[joining].sum(dtype=np.int64))
        if count < -bound:
            if count >= min_count:
                heapq.heappush(heap, (-count, key, 0, _Pairs.one(key, count, places)))
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
        # Of two new symbols side by side the first one is taken, as a place behind which there is another.
        ahead = ahead[(symbols[ahead] != END) & (symbols[ahead] != made)]
        for entry in found(np.concatenate([ahead, joining[symbols[behind] != END]])).entries(0):
            heapq.heappush(heap, entry)
        made += 1


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs found together, the most frequent first; only the first that was not yet taken is on the heap.

    Attributes:
      keys: int64 (p,).
      totals: int64 (p,), the largest first.
      starts, ends: int64 (p,), of each pair in `places`.
      places: int32, where the left symbol stands.
    """

    keys: np.ndarray
    totals: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    places: np.ndarray

    @classmethod
    def at(cls, places: np.ndarray, keys: np.ndarray, counts: np.ndarray, min_count: int) -> "_Pairs":
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        totals = np.add.reduceat(counts[places], starts, dtype=np.int64) if len(starts) else starts
        often = totals >= min_count
        lengths = np.diff(starts, append=len(keys))
        places = places[np.repeat(often, lengths)]
        keys, totals, lengths = keys[starts[often]], totals[often], lengths[often]
        ends = np.cumsum(lengths)
        first = np.argsort(-totals, kind="stable")
        return cls(keys[first], totals[first], (ends - lengths)[first], ends[first], places)

    @classmethod
    def one(cls, key: int, count: int, places: np.ndarray) -> "_Pairs":
        return cls(np.array([key]), np.array([count]), np.array([0]), np.array([len(places)]), places)

    def entries(self, index: int) -> list[tuple[int, int, int, "_Pairs"]]:
        """The pair `index` for the heap, or nothing where there are no more."""
        return [(-int(self.totals[index]), int(self.keys[index]), index, self)] if index < len(self.keys) else []


def _apart(places: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Every second of places that follow one another: in a row of three equal symbols there is one pair, not two."""
    touches = np.append(False, after[places[:-1]] == places[1:])
    index = np.arange(len(places))
    first = np.maximum.accumulate(np.where(touches, 0, index))
    return places[(index - first) % 2 == 0]

"""The order in which the windows of one source are read: a pure function of (seed, source name, epoch).

A window is `seq_len` tokens and their targets, cut from a token row. Nothing here reads a file, and no memory
grows with the size of the source.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from grain.experimental import index_shuffle

# Windows are shuffled within blocks of this many shuffled rows. When the sequence length changes, reading continues
# at the next block, so a block is at most a sixteenth of a source, unless the source is very small.
_MAX_BLOCK_ROWS = 4096
_MIN_BLOCK_ROWS = 256
_BLOCKS_PER_EPOCH = 16
# Permutations up to this size are kept as tables.
_MAX_TABLE = 2**16


@dataclass(frozen=True)
class Position:
    """How far a source has been read: `windows` windows of `seq_len` tokens since the start of its first epoch."""

    seq_len: int
    windows: int


class SourceOrder:
    """The order of the windows of one source, epoch after epoch.

    The full rows are permuted over the whole source and cut into blocks. Then the windows of each block are
    permuted. Every target is read exactly once in an epoch: of the padded last row, only the windows that hold a
    target are read, and they join the last block.

    Args:
      name: the source; with `seed`, it determines the permutations.
      targets: number of targets in the source (`SplitInfo.targets`).
      row_tokens: inputs in a full row.
      seed: the run's seed.
    """

    def __init__(self, name: str, targets: int, row_tokens: int, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._row_tokens = row_tokens
        self._full_rows, self._rest = divmod(targets, row_tokens)
        self._block_rows = min(_MAX_BLOCK_ROWS, max(_MIN_BLOCK_ROWS, self._full_rows // _BLOCKS_PER_EPOCH))
        self._blocks = max(1, -(-self._full_rows // self._block_rows))

    def windows(self, seq_len: int) -> int:
        """Returns the number of windows of `seq_len` tokens in one epoch."""
        return self._full_rows * (self._row_tokens // seq_len) + -(-self._rest // seq_len)

    def window(self, number: int, seq_len: int) -> tuple[int, int, int]:
        """Finds window `number` of the source, counted from the start of the first epoch.

        Returns:
          (row, part, valid): the window holds the ids part*seq_len ... (part+1)*seq_len of the row, both ends
          included; `valid` of its seq_len targets are real, the others are padding.
        """
        parts = self._row_tokens // seq_len
        epoch, number = divmod(number, self.windows(seq_len))
        block = min(number // (self._block_rows * parts), self._blocks - 1)
        first_row = block * self._block_rows
        if block == self._blocks - 1:
            rows = self._full_rows - first_row
            size = self.windows(seq_len) - first_row * parts
        else:
            rows = self._block_rows
            size = rows * parts
        number = _shuffled(number - first_row * parts, size, _key(self._seed, self._name, epoch, block))
        if number >= rows * parts:
            part = number - rows * parts
            return self._full_rows, part, min(seq_len, self._rest - part * seq_len)
        row, part = divmod(number, parts)
        row = _shuffled(first_row + row, self._full_rows, _key(self._seed, self._name, epoch, -1))
        return row, part, seq_len

    def move(self, position: Position, seq_len: int) -> Position:
        """Converts a position to another sequence length without reading a token of this epoch again.

        Reading continues at the next block. The unread rest of the block before it is skipped in this epoch.
        """
        if position.seq_len == seq_len:
            return position
        epoch, number = divmod(position.windows, self.windows(position.seq_len))
        block = -(-number // (self._block_rows * (self._row_tokens // position.seq_len)))
        if block >= self._blocks:
            epoch, block = epoch + 1, 0
        number = block * self._block_rows * (self._row_tokens // seq_len)
        return Position(seq_len, epoch * self.windows(seq_len) + number)


@functools.lru_cache(maxsize=1024)
def _key(seed: int, name: str, epoch: int, block: int) -> int:
    text = f"{seed}/{name}/{epoch}/{block}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def _shuffled(index: int, size: int, key: int) -> int:
    """Returns element `index` of a permutation of range(size), in constant memory."""
    # Grain's permutation searches a range of at least 2**16 numbers for one below `size`. That takes two
    # microseconds when the size is larger than the range, but a millisecond when it is 16.
    if size > _MAX_TABLE:
        return index_shuffle(index, size - 1, key, 4)
    return int(_table(size, key)[index])


@functools.lru_cache(maxsize=256)
def _table(size: int, key: int) -> np.ndarray:
    # RandomState, because NumPy promises that its numbers never change.
    return np.random.RandomState(key).permutation(size).astype(np.int32)

"""Token rows on disk: the format and its readers.

The tokens of one source and split form one long stream. Token row r holds the ids r*row_tokens ... (r+1)*row_tokens
of it, both ends included: `row_tokens` inputs, and one more id, so that the last input has a target. So a row can be
cut into whole windows of every sequence length that divides `row_tokens`. The windows of all rows, in order, are the
windows of the stream. Rows of conversations are packed instead (packing.py), and their marks follow the ids.
"""

import bisect
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from tonsai_jax.data.manifest import RowsManifest, SplitInfo
from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import count_of

# No thread pool and no read-ahead: both only cost time when rows are read in random order.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class DamagedRowError(UserError):
    """One row of a file cannot be read, or cannot be right; the other rows of the file may be good."""


class Rows:
    """Reads the token rows of one source and split in any order.

    A file is opened when one of its rows is read for the first time.

    Args:
      split: what the manifest says about the files.
      row_tokens: inputs in a row.
      dtype: dtype of the ids on disk.
      vocab_size: every id is below it; None does not look.
      is_packed: whether the marks of the ids follow them.
    """

    def __init__(
        self,
        split: SplitInfo,
        *,
        row_tokens: int,
        dtype: np.dtype,
        vocab_size: int | None = None,
        is_packed: bool = False,
    ) -> None:
        self.split = split
        self.row_tokens = row_tokens
        self.dtype = dtype
        # A vocabulary of all numbers that the dtype has needs no look, which would take longer than reading a short window.
        self._vocab_size = vocab_size if vocab_size is None or vocab_size <= np.iinfo(dtype).max else None
        self._row_bytes = (row_tokens + 1) * (dtype.itemsize + is_packed)
        self._first_rows = np.cumsum([0, *(shard.rows for shard in split.files)]).tolist()
        self._readers: list[Any] = [None] * len(split.files)

    def __len__(self) -> int:
        return self.split.rows

    def read(self, index: int) -> bytes:
        """Returns the bytes of row `index`: row_tokens + 1 ids of `dtype`, and as many marks in packed rows.

        Raises:
          IndexError: there is no such row.
          DamagedRowError: the row is damaged, or of another length.
          UserError: the file of the row is missing, or damaged as a whole.
        """
        if not 0 <= index < self.split.rows:
            raise IndexError(f"row {index} does not exist; there are {self.split.rows} rows, counted from 0")
        shard = bisect.bisect_right(self._first_rows, index) - 1
        reader = self._readers[shard] or self._open(shard)
        position = index - self._first_rows[shard]
        try:
            # Read by range: to read by a list of indices takes time in proportion to all rows of the shard.
            record: bytes = reader.read(position, position + 1)[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged_row(index, str(error)) from error
        if len(record) != self._row_bytes:
            raise self._damaged_row(index, f"it has {len(record):,} bytes instead of {self._row_bytes:,}")
        return record

    def window(self, row: int, part: int, seq_len: int) -> np.ndarray:
        """Returns the ids part*seq_len ... (part+1)*seq_len of a row, (seq_len + 1,) of `dtype`.

        Raises as `read` does, and `DamagedRowError` for an id outside the vocabulary.
        """
        tokens = np.frombuffer(self.read(row), self.dtype, seq_len + 1, part * seq_len * self.dtype.itemsize)
        return self._checked(row, tokens)

    def packed_window(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids and the marks of a packed row, (row_tokens + 1,) of `dtype` and of uint8; raises as `window` does."""
        record, slots = self.read(row), self.row_tokens + 1
        marks = np.frombuffer(record, np.uint8, slots, slots * self.dtype.itemsize)
        return self._checked(row, np.frombuffer(record, self.dtype, slots)), marks

    def _checked(self, row: int, tokens: np.ndarray) -> np.ndarray:
        """The same ids. XLA would take the last row of the embedding table for an id that has none, and say nothing."""
        if self._vocab_size is not None and (largest := tokens.max()) >= self._vocab_size:
            raise self._damaged_row(row, f"id {largest} is outside the vocabulary of {self._vocab_size:,}")
        return tokens

    def _open(self, shard: int) -> Any:
        info = self.split.files[shard]
        if not info.path.is_file():  # ArrayRecord would treat a missing file as an empty one
            raise UserError(f"{info.path}: this file of token rows is missing; tokenize the dataset again")
        try:
            reader = ArrayRecordReader(str(info.path), _READER_OPTIONS)
            count = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise self._damaged(shard, str(error)) from error
        if count != info.rows:
            raise self._damaged(shard, f"it holds {count_of(count, 'row')}, the manifest says {info.rows}")
        self._readers[shard] = reader
        return reader

    def _damaged_row(self, index: int, reason: str) -> DamagedRowError:
        shard = bisect.bisect_right(self._first_rows, index) - 1
        return DamagedRowError(
            f"{self.split.files[shard].path}: damaged token rows (row {index - self._first_rows[shard]}: {reason}); "
            "copy the file again, or tokenize the dataset again"
        )

    def _damaged(self, shard: int, reason: str) -> UserError:
        return UserError(f"{self.split.files[shard].path}: damaged token rows ({reason}); tokenize the dataset again")


def open_rows(manifest: RowsManifest, source: str, split: str) -> Rows:
    """Opens the token rows of one source and split; nothing is read yet."""
    info = manifest.sources[source]
    return Rows(
        info.splits[split],
        row_tokens=manifest.row_tokens,
        dtype=manifest.dtype,
        vocab_size=manifest.vocab_size,
        is_packed=info.is_packed,
    )


def check_seq_len(seq_len: int, row_tokens: int) -> None:
    """Raises UserError unless a row of `row_tokens` can be cut into whole windows of `seq_len`."""
    if seq_len < 1 or row_tokens % seq_len:
        raise UserError(
            f"seq_len {seq_len} does not divide row_tokens {row_tokens} of the token rows; "
            "choose a seq_len that does, or make rows of another length with `tonsai tokenize --row-tokens`"
        )


def window_count(rows: Rows, seq_len: int) -> int:
    """Returns the number of windows of `seq_len` that hold a target; raises UserError as `check_seq_len` does."""
    check_seq_len(seq_len, rows.row_tokens)
    return -(-rows.split.targets // seq_len)


def read_window(rows: Rows, number: int, seq_len: int) -> tuple[np.ndarray, int]:
    """Reads window `number` of a split, counted in the order of the text. All windows together hold every target once.

    Returns:
      (tokens, valid): tokens is (seq_len + 1,) of the rows' dtype; the first `valid` of its seq_len targets are real,
      the others are padding. Only the last window has padding.

    Raises:
      UserError: the file of the window is missing or damaged.
    """
    row, part = divmod(number, rows.row_tokens // seq_len)
    return rows.window(row, part, seq_len), min(seq_len, rows.split.targets - number * seq_len)

"""Token rows on disk: the format, the writer and the readers.

The tokens of one source and split form one long stream. Token row r holds the ids r*row_tokens ... (r+1)*row_tokens
of it, both ends included: `row_tokens` inputs, and one more id, so that the last input has a target. So a row can be
cut into whole windows of every sequence length that divides `row_tokens`. The windows of all rows, in order, are the
windows of the stream.
"""

import bisect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from numpy.typing import ArrayLike

from tonsai_jax.data.manifest import RowsManifest, ShardInfo, SplitInfo, dtype_for
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, sha256_file

# One row per chunk and no compression, so that reading a row reads nothing else.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# No thread pool and no read-ahead: both only cost time when rows are read in random order.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class RowWriter:
    """Writes the token rows of one source and split. The same ids always give the same bytes.

    It is a context manager. `finish` gives the files their final names; leaving the block without it removes them.

        with RowWriter(out, "khmer", "train", row_tokens=8192, vocab_size=50_000, end_of_text_id=0) as writer:
            for ids in documents:
                writer.write(ids)
            split = writer.finish(documents=len(documents), text_bytes=123_456)

    Args:
      directory: the folder of all sources; the files go to directory/source.
      split: "train" or "validation".
      row_tokens: inputs in a row.
      vocab_size: number of ids in the vocabulary; it determines the dtype on disk (`dtype_for`).
      end_of_text_id: the id that pads the last row.
      rows_per_shard: rows in a file, at most.
    """

    def __init__(
        self,
        directory: str | Path,
        source: str,
        split: str,
        *,
        row_tokens: int,
        vocab_size: int,
        end_of_text_id: int,
        rows_per_shard: int = 65_536,
    ) -> None:
        self._folder = Path(directory).absolute() / source
        self._split = split
        self._rows_per_shard = rows_per_shard
        self._end_of_text_id = end_of_text_id
        self._vocab_size = vocab_size
        self._row = np.empty(row_tokens + 1, dtype_for(vocab_size))
        self._filled = 0  # number of ids in self._row
        self._tokens = 0
        self._shard_rows: list[int] = []
        self._shard: ArrayRecordWriter | None = None

    def write(self, ids: ArrayLike) -> None:
        """Appends ids, (n,) of any integer dtype.

        Raises:
          ValueError: an id is outside the vocabulary.
          UserError: the disk is full.
        """
        ids = np.asarray(ids)
        if ids.size == 0:
            return
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise ValueError(
                f"an id is outside the vocabulary of {self._vocab_size}: these ids range from {ids.min()} to {ids.max()}"
            )
        self._tokens += ids.size
        start = 0
        while start < ids.size:
            if self._filled == self._row.size:
                self._write_row()
                self._row[0] = self._row[-1]
                self._filled = 1
            count = min(self._row.size - self._filled, ids.size - start)
            self._row[self._filled : self._filled + count] = ids[start : start + count]
            self._filled += count
            start += count

    def finish(self, *, documents: int, text_bytes: int) -> SplitInfo:
        """Pads and writes the last row, gives the files their final names, and returns what they hold.

        Args:
          documents: number of documents written.
          text_bytes: UTF-8 bytes of their text.

        Raises:
          UserError: the disk is full.
        """
        if self._filled > 1:  # a stream of one id has no target, so it needs no row
            self._row[self._filled :] = self._end_of_text_id
            self._write_row()
        self._close_shard()
        count = len(self._shard_rows)
        files = []
        for index, rows in enumerate(self._shard_rows):
            path = self._folder / f"{self._split}-{index:05d}-of-{count:05d}.arrayrecord"
            os.replace(self._partial(index), path)
            files.append(ShardInfo(path, rows, sha256_file(path)))
        return SplitInfo(sum(self._shard_rows), self._tokens, documents, text_bytes, tuple(files))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shard = None  # closing a failed ArrayRecord writer would raise again and hide the first error
        for index in range(len(self._shard_rows)):
            self._partial(index).unlink(missing_ok=True)

    def _partial(self, index: int) -> Path:
        return self._folder / f".{self._split}-{index:05d}.partial-{os.getpid()}"

    def _write_row(self) -> None:
        if self._shard_rows and self._shard_rows[-1] == self._rows_per_shard:
            self._close_shard()
        with self._write_errors():
            if self._shard is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._shard_rows.append(0)
                self._shard = ArrayRecordWriter(str(self._partial(len(self._shard_rows) - 1)), _WRITER_OPTIONS)
            self._shard.write(self._row.tobytes())
        self._shard_rows[-1] += 1

    def _close_shard(self) -> None:
        if self._shard is not None:
            with self._write_errors():
                self._shard.close()
            self._shard = None

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        # ArrayRecord reports a full disk as a RuntimeError, and only when the shard is closed.
        with disk_errors(self._folder):
            try:
                yield
            except RuntimeError as error:
                raise UserError(
                    f"{self._folder}: could not write token rows ({error}); "
                    "free some space or choose another folder, then run again"
                ) from error


class Rows:
    """Reads the token rows of one source and split in any order.

    A file is opened when one of its rows is read for the first time.

    Args:
      split: what the manifest says about the files.
      row_tokens: inputs in a row.
      dtype: dtype of the ids on disk.
    """

    def __init__(self, split: SplitInfo, *, row_tokens: int, dtype: np.dtype) -> None:
        self.split = split
        self.row_tokens = row_tokens
        self.dtype = dtype
        self._first_rows = np.cumsum([0, *(shard.rows for shard in split.files)]).tolist()
        self._readers: list[Any] = [None] * len(split.files)

    def __len__(self) -> int:
        return self.split.rows

    def read(self, index: int) -> bytes:
        """Returns the bytes of row `index`: row_tokens + 1 ids of `dtype`.

        Raises:
          IndexError: there is no such row.
          UserError: the file of the row is missing or damaged.
        """
        if not 0 <= index < self.split.rows:
            raise IndexError(f"row {index} does not exist; there are {self.split.rows} rows, counted from 0")
        shard = bisect.bisect_right(self._first_rows, index) - 1
        reader = self._readers[shard] or self._open(shard)
        position = index - self._first_rows[shard]
        try:
            # Read by range: to read by a list of indices takes time in proportion to all rows of the shard.
            return reader.read(position, position + 1)[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(shard, str(error)) from error

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
            raise self._damaged(shard, f"it holds {count} rows, the manifest says {info.rows}")
        self._readers[shard] = reader
        return reader

    def _damaged(self, shard: int, reason: str) -> UserError:
        return UserError(f"{self.split.files[shard].path}: damaged token rows ({reason}); tokenize the dataset again")


def open_rows(manifest: RowsManifest, source: str, split: str) -> Rows:
    """Opens the token rows of one source and split; nothing is read yet."""
    return Rows(manifest.sources[source].splits[split], row_tokens=manifest.row_tokens, dtype=manifest.dtype)


def check_seq_len(seq_len: int, row_tokens: int) -> None:
    """Raises UserError unless a row of `row_tokens` can be cut into whole windows of `seq_len`."""
    if seq_len < 1 or row_tokens % seq_len:
        raise UserError(
            f"seq_len {seq_len} does not divide row_tokens {row_tokens} of the token rows; "
            "choose a seq_len that does, or tokenize again with another --row-tokens"
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
    tokens = np.frombuffer(rows.read(row), rows.dtype)[part * seq_len : (part + 1) * seq_len + 1]
    return tokens, min(seq_len, rows.split.targets - number * seq_len)

"""Writes records to the files of a source: ArrayRecord, a file of bounded size each, with final names at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from array_record.python.array_record_module import ArrayRecordWriter

from tonsai_jax.checksums import sample_sha256
from tonsai_jax.data.manifest import ShardInfo
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, sha256_file

# One row per chunk and no compression, so that reading a row reads nothing else.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class ShardWriter:
    """Writes records to the files of one source and split. The same records always give the same bytes.

    It is a context manager. `finish` gives the files their final names; leaving the block without it removes them.

    Args:
      directory: the folder of all sources; the files go to directory/source.
      split: "train" or "validation".
      rows_per_shard: records in a file, at most.
    """

    def __init__(self, directory: str | Path, source: str, split: str, *, rows_per_shard: int = 65_536) -> None:
        self._folder = Path(directory).absolute() / source
        self._split = split
        self._rows_per_shard = rows_per_shard
        self._shard_rows: list[int] = []
        self._shard: ArrayRecordWriter | None = None

    def write(self, record: bytes) -> None:
        """Appends a record; raises `UserError` if the disk is full."""
        if self._shard_rows and self._shard_rows[-1] == self._rows_per_shard:
            self._close_shard()
        with self._write_errors():
            if self._shard is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._shard_rows.append(0)
                self._shard = ArrayRecordWriter(str(self._partial(len(self._shard_rows) - 1)), _WRITER_OPTIONS)
            self._shard.write(record)
        self._shard_rows[-1] += 1

    def finish(self) -> tuple[ShardInfo, ...]:
        """Gives the files their final names and returns them; raises `UserError` if the disk is full."""
        self._close_shard()
        count = len(self._shard_rows)
        files = []
        for index, rows in enumerate(self._shard_rows):
            path = self._folder / f"{self._split}-{index:05d}-of-{count:05d}.arrayrecord"
            os.replace(self._partial(index), path)
            files.append(ShardInfo(path, rows, sha256_file(path), path.stat().st_size, sample_sha256(path)))
        return tuple(files)

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

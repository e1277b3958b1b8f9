"""Cleaned pieces between the stages: one parquet file a piece, written and read a row group at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.documents import ROW_GROUP_BYTES
from tonsai_jax.files import atomic_write
from tonsai_jax.text.ngrams import text_hash

_STRINGS = ("id", "text", "rule")
_SCHEMA = pa.schema([*((name, pa.string()) for name in _STRINGS), ("score", pa.float32()), ("hash", pa.uint64())])


class Stored(NamedTuple):
    """Where the documents of a piece lie: in `{work}/{stage}/{key}.parquet`."""

    stage: str
    key: str

    def path(self, work: Path) -> Path:
        return work / self.stage / f"{self.key}.parquet"


class Cleaned(NamedTuple):
    """A document between two stages.

    Attributes:
      rule: which one has dropped it; None where it stays.
      score: of its quality; None where none was asked for.
    """

    id: str
    text: str
    rule: str | None = None
    score: float | None = None


@contextlib.contextmanager
def cleaned_file(path: Path) -> Iterator["CleanedWriter"]:
    """Gives a writer of a piece; the file is at `path` once the block has ended well."""
    with atomic_write(path) as partial, CleanedWriter(partial) as writer:
        yield writer


class CleanedWriter:
    """Context manager that writes a piece to `path`; `documents` is how many it has."""

    def __init__(self, path: Path):
        self.documents = 0
        self._path = path
        self._rows: list[tuple[str, str, str | None, float | None, int]] = []
        self._bytes = 0

    def __enter__(self) -> "CleanedWriter":
        # Texts do not repeat, so a dictionary of them would only cost time.
        self._writer = pq.ParquetWriter(self._path, _SCHEMA, compression="zstd", use_dictionary=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, document: Cleaned) -> None:
        """Takes one document."""
        encoded = document.text.encode("utf-8")
        if self._rows and self._bytes + len(encoded) > ROW_GROUP_BYTES:
            self._flush()
        self._rows.append((*document, text_hash(encoded)))
        self._bytes += len(encoded)
        self.documents += 1

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._rows, self._bytes = [], 0


def read_cleaned(path: Path) -> Iterator[Cleaned]:
    """Gives the documents of a piece in order; holds one row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(Cleaned._fields))
            yield from map(Cleaned._make, zip(*(column.to_pylist() for column in table.columns), strict=True))


def document_at(path: Path, number: int) -> Cleaned:
    """The document with this number in a piece; reads its row group alone."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < rows:
                row = file.read_row_group(group, columns=list(Cleaned._fields)).slice(number, 1)
                return Cleaned(**row.to_pylist()[0])
            number -= rows
    raise IndexError(f"{path}: no document {number}")


def read_hashes(path: Path) -> np.ndarray:
    """The hash of each text of a piece, uint64 (documents,)."""
    return pq.read_table(path, columns=["hash"]).column("hash").to_numpy()

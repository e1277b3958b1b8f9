"""Pieces between two stages: one Parquet file per piece, written and read one row group at a time."""

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


class StoredPiece(NamedTuple):
    """Where the documents of a piece are: in the file `{work}/{stage}/{key}.parquet`."""

    stage: str
    key: str

    def path(self, work: Path) -> Path:
        return work / self.stage / f"{self.key}.parquet"


class Document(NamedTuple):
    """A document between two stages.

    Attributes:
      rule: the name of the rule that dropped it; None if it is kept.
      score: its quality score, 0 to 1; None if quality is not checked.
    """

    id: str
    text: str
    rule: str | None = None
    score: float | None = None


@contextlib.contextmanager
def piece_writer(path: Path) -> Iterator["PieceWriter"]:
    """Gives a writer of a piece. The file appears at `path` when the block ends without an exception."""
    with atomic_write(path) as partial, PieceWriter(partial) as writer:
        yield writer


class PieceWriter:
    """Context manager that writes a piece to `path`. `documents` counts the documents written so far."""

    def __init__(self, path: Path):
        self.documents = 0
        self._path = path
        self._rows: list[tuple[str, str, str | None, float | None, int]] = []
        self._bytes = 0

    def __enter__(self) -> "PieceWriter":
        # Texts do not repeat, so a dictionary of them would only cost time.
        self._writer = pq.ParquetWriter(self._path, _SCHEMA, compression="zstd", use_dictionary=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, document: Document) -> None:
        """Adds one document."""
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


def read_piece(path: Path) -> Iterator[Document]:
    """Gives the documents of a piece in order. Only one row group is in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(Document._fields))
            yield from map(Document._make, zip(*(column.to_pylist() for column in table.columns), strict=True))


def read_document(path: Path, number: int) -> Document:
    """Reads the document with this number (from 0) in a piece; only its row group is read.

    Raises `IndexError` if the piece has no such document.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < rows:
                row = file.read_row_group(group, columns=list(Document._fields)).slice(number, 1)
                return Document(**row.to_pylist()[0])
            number -= rows
    raise IndexError(f"{path}: no document {number}")


def read_hashes(path: Path) -> np.ndarray:
    """The hash of each text of a piece, uint64 (documents,)."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=["hash"]).column("hash").to_numpy()

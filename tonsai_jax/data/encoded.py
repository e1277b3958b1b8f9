"""Documents as ids, in pieces on the disk: what is encoded once is kept until the whole is written.

A piece is some row groups of one Parquet file. Pieces are encoded by the engine of the corpus, each as a task that is named by
all that its ids depend on: so a run that was killed goes on from the pieces that are there, and none is taken for another.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tonsai_jax.corpus.documents import parquet_errors
from tonsai_jax.files import atomic_write, sha256_file, write_array
from tonsai_jax.jobs.cache import code_hash, content_key
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.tokenizer.loading import Tokenizer

VERSION = (
    1  # of encoded pieces; raise it when they change although no module does, such as with another library release
)
PIECE_BYTES = 16 * 2**20  # of text that one task encodes
SMALL_BYTES = 16 * 2**20  # of text: below this, processes take longer to start than to work


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A piece of one source.

    Attributes:
      ids: of all its documents, each followed by the end-of-text id; (tokens,).
      lengths: ids of each document with that one, int64 (documents,).
      sizes: UTF-8 bytes of the text of each document, int64 (documents,).
    """

    ids: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray


def encode_sources(
    files: dict[str, list[Path]], tokenizer: Tokenizer, dtype: np.dtype, work: Path, *, progress: bool
) -> dict[str, list[Path]]:
    """Encodes the `files` of each source on all cores; returns its pieces in `work`, in order, for `read_piece`.

    Raises `UserError` where a file is damaged, or the disk is full.
    """
    identity = [VERSION, code_hash(__name__), dtype.str, *_tokenizer_hashes(tokenizer)]
    tasks: list[tuple[str, _Piece]] = []
    pieces: dict[str, list[Path]] = {}
    for name, paths in files.items():
        found = [piece for path in paths for piece in _cut(path)]
        keys = [content_key(*identity, piece.file_hash, piece.first, piece.last) for piece in found]
        pieces[name] = [work / "encoded" / key for key in keys]
        tasks += zip(keys, found, strict=True)
    sizes = [piece.text_bytes for _, piece in tasks]
    executor = Executor(workers=1 if sum(sizes) < SMALL_BYTES else 0)
    task = _Encode(str(tokenizer.folder), dtype.str)
    with Engine(executor, modules=(__name__,)) as engine:
        engine.run(work / "encoded", task, tasks, progress="tokenizing" if progress else None, sizes=sizes)
    return pieces


def read_piece(path: Path, dtype: np.dtype) -> Encoded:
    """Reads a piece that `encode_sources` wrote."""
    lengths, sizes = np.load(path.with_suffix(".npy"))
    return Encoded(np.fromfile(path.with_suffix(".ids"), dtype), lengths, sizes)


def count_documents(pieces: list[Path]) -> int:
    """How many documents there are in pieces."""
    return sum(np.load(path.with_suffix(".npy"), mmap_mode="r").shape[1] for path in pieces)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """The row groups `first` to `last` - 1 of a file."""

    path: str
    file_hash: str
    first: int
    last: int
    text_bytes: int


def _cut(path: Path) -> Iterator[_Piece]:
    with parquet_errors(path):
        metadata = pq.read_metadata(path)
        column = metadata.schema.names.index("text")
        sizes = [
            metadata.row_group(number).column(column).total_uncompressed_size
            for number in range(metadata.num_row_groups)
        ]
        file_hash = sha256_file(path)
    first = total = 0
    for number, size in enumerate(sizes):
        if total and total + size > PIECE_BYTES:
            yield _Piece(str(path), file_hash, first, number, total)
            first, total = number, 0
        total += size
    if sizes:
        yield _Piece(str(path), file_hash, first, len(sizes), total)


@dataclasses.dataclass(frozen=True)
class _Encode:
    """The task: from a piece to its ids, lengths and sizes on the disk."""

    tokenizer_dir: str
    dtype: str

    def __call__(self, piece: _Piece, target: Path) -> dict[str, Any]:
        tokenizer = _opened(self.tokenizer_dir)
        end = np.array([tokenizer.end_of_text_id], self.dtype).tobytes()
        lengths, sizes = [], []
        with atomic_write(target.with_suffix(".ids")) as partial, partial.open("wb") as out:
            for text in _texts(piece):
                count = 0
                for ids in tokenizer.encode_in_parts(text):
                    out.write(np.array(ids, self.dtype).tobytes())
                    count += len(ids)
                out.write(end)
                lengths.append(count + 1)
                sizes.append(len(text.encode()))
        write_array(target.with_suffix(".npy"), np.array([lengths, sizes], np.int64))
        return {"documents": len(lengths)}


def _texts(piece: _Piece) -> Iterator[str]:
    path = Path(piece.path)
    with parquet_errors(path), pq.ParquetFile(path) as file:
        for group in range(piece.first, piece.last):
            for text in file.read_row_group(group, columns=["text"]).column("text"):
                yield text.as_py()


@functools.cache
def _opened(folder: str) -> Tokenizer:
    return Tokenizer.from_folder(folder)  # once in each process


def _tokenizer_hashes(tokenizer: Tokenizer) -> list[str]:
    model = tokenizer.folder / "spm.model"
    return [tokenizer.hash, sha256_file(model) if model.exists() else ""]

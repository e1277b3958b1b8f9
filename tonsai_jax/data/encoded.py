"""Encodes documents in pieces on disk, so that a command that was killed does not encode a finished piece again.

A piece is a few row groups of one Parquet file. Each piece is a task of the job engine. The name of the task is a hash
of everything that its ids depend on: the tokenizer, the text and the code. So a piece is used again only when encoding
it would give the same ids.
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
from tonsai_jax.jobs.cache import content_key, loaded_code_hash
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.jobs.progress import TaskProgress
from tonsai_jax.tokenizer.loading import Tokenizer

# The version of encoded pieces; raise it when they change although no module does, as with another release of a library.
VERSION = 1
PIECE_BYTES = 16 * 2**20  # of text in one piece, if its row groups are not larger
SMALL_BYTES = 16 * 2**20  # of text in all: below this, starting processes takes longer than the work


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The ids of one piece.

    Attributes:
      ids: the ids of all documents, each followed by the end-of-text id; (tokens,) of the rows' dtype.
      lengths: number of ids of each document, with the end-of-text id; (documents,) int64.
      sizes: UTF-8 bytes of the text of each document; (documents,) int64.
    """

    ids: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray


def encode_sources(
    files: dict[str, list[Path]], tokenizer: Tokenizer, dtype: np.dtype, work: Path, *, progress: bool
) -> dict[str, list[Path]]:
    """Encodes the documents of every source, on all cores.

    Args:
      files: the Parquet files of each source, in order.
      tokenizer: must come from a folder, because each process opens it again.
      dtype: dtype of the ids.
      work: folder for the pieces; pieces that are already there are used again.
      progress: show the progress on stderr.

    Returns:
      The pieces of each source in order, for `read_piece`.

    Raises:
      UserError: a file is damaged, or the disk is full.
    """
    identity = [VERSION, loaded_code_hash(__name__), dtype.str, *_tokenizer_hashes(tokenizer)]
    tasks: list[tuple[str, _Piece]] = []
    pieces: dict[str, list[Path]] = {}
    for name, paths in files.items():
        found = [piece for path in paths for piece in _cut(path)]
        keys = [content_key(*identity, piece.file_hash, piece.first, piece.last) for piece in found]
        pieces[name] = [work / "encoded" / key for key in keys]
        tasks += zip(keys, found, strict=True)
    sizes = [piece.text_bytes for _, piece in tasks]
    executor = Executor(workers=1 if sum(sizes) < SMALL_BYTES else 0)
    task = _Encode(str(tokenizer.folder), tokenizer.hash, dtype.str)
    with Engine(executor, modules=(__name__,)) as engine:
        engine.run(work / "encoded", task, tasks, progress="tokenizing" if progress else None, sizes=sizes)
    return pieces


def read_piece(path: Path, dtype: np.dtype) -> Encoded:
    """Reads a piece that `encode_sources` wrote."""
    lengths, sizes = np.load(path.with_suffix(".npy"))
    return Encoded(np.fromfile(path.with_suffix(".ids"), dtype), lengths, sizes)


def count_documents(pieces: list[Path]) -> int:
    """Counts the documents of pieces without reading their ids."""
    return sum(np.load(path.with_suffix(".npy"), mmap_mode="r").shape[1] for path in pieces)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """The row groups `first` ... `last` - 1 of a Parquet file; `text_bytes` is the size of their text."""

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
    """The task: encodes a piece and writes target.ids (the ids) and target.npy (lengths and sizes)."""

    tokenizer_dir: str
    tokenizer_hash: str
    dtype: str

    def __call__(self, piece: _Piece, target: Path) -> dict[str, Any]:
        tokenizer = _opened(self.tokenizer_dir, self.tokenizer_hash)
        end = np.array([tokenizer.end_of_text_id], self.dtype).tobytes()
        lengths, sizes = [], []
        progress = TaskProgress(target)
        with atomic_write(target.with_suffix(".ids")) as partial, partial.open("wb") as out:
            for text in _texts(piece):
                count = 0
                for ids in tokenizer.encode_in_parts(text):
                    out.write(np.array(ids, self.dtype).tobytes())
                    count += len(ids)
                out.write(end)
                lengths.append(count + 1)
                sizes.append(len(text.encode()))
                progress.add(sizes[-1])
        write_array(target.with_suffix(".npy"), np.array([lengths, sizes], np.int64))
        return {"documents": len(lengths)}


def _texts(piece: _Piece) -> Iterator[str]:
    path = Path(piece.path)
    with parquet_errors(path), pq.ParquetFile(path) as file:
        for group in range(piece.first, piece.last):
            for text in file.read_row_group(group, columns=["text"]).column("text"):
                yield text.as_py()


@functools.cache
def _opened(folder: str, tokenizer_hash: str) -> Tokenizer:
    """The tokenizer, opened once in each process; the hash tells it from another one that was there before."""
    return Tokenizer.from_folder(folder)


def _tokenizer_hashes(tokenizer: Tokenizer) -> list[str]:
    model = tokenizer.folder / "spm.model"
    return [tokenizer.hash, sha256_file(model) if model.exists() else "", str(tokenizer.end_of_text_id)]

"""Flat files of ids, for other trainers: one file for each source and split, with one document after the other.

A `bin` file holds ids and nothing else, so a program can map it into memory. An `npy` file holds the same for
`np.load`. In both, the end-of-text id follows every document, as in token rows. A `jsonl` file has one document per
line, without the end-of-text id.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from tonsai_jax.checksums import with_checksum
from tonsai_jax.data.manifest import ShardInfo, SourceInfo, SplitInfo
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, sha256_file, write_json
from tonsai_jax.tokenizer.loading import Tokenizer

FORMAT = "tonsai_jax/ids"
VERSION = 1
FILE_FORMATS = ("bin", "npy", "jsonl")
_HEADER_BYTES = 128  # of an .npy file: the length that NumPy writes for every array of one dimension


class FlatFileWriter:
    """Writes the flat file of one source and split.

    It is a context manager, like `RowWriter`: leaving the block without `finish` removes what was written.

    Args:
      path: the file without its suffix; `file_format` becomes the suffix.
      file_format: "bin", "npy" or "jsonl".
      dtype: dtype of the ids on disk.
      end_of_text_id: the id that ends a document.

    Raises:
      UserError: `file_format` is something else.
    """

    def __init__(self, path: Path, file_format: str, dtype: np.dtype, end_of_text_id: int) -> None:
        if file_format not in FILE_FORMATS:
            raise UserError(
                f"--format {file_format!r} is not known; choose one of: arrayrecord, {', '.join(FILE_FORMATS)}"
            )
        self._path = path.with_name(f"{path.name}.{file_format}")
        self._file_format, self._dtype, self._end_of_text_id = file_format, dtype, end_of_text_id
        self._tokens = 0
        self._file: IO[bytes] | None = None

    def write(self, ids: np.ndarray) -> None:
        """Appends whole documents: ids (n,), with the end-of-text id after each document.

        Raises:
          UserError: the disk is full.
        """
        if not len(ids):
            return
        self._tokens += len(ids)
        with disk_errors(self._path):
            file = self._file or self._open()
            if self._file_format == "jsonl":
                ends = np.flatnonzero(ids == self._end_of_text_id)
                for document in np.split(ids, ends + 1)[:-1]:
                    file.write(json.dumps({"ids": document[:-1].tolist()}, separators=(",", ":")).encode() + b"\n")
            else:
                file.write(ids.astype(self._dtype).tobytes())

    def finish(self, *, documents: int, text_bytes: int) -> SplitInfo:
        """Gives the file its final name and returns what it holds. Without documents there is no file.

        Args:
          documents: number of documents written.
          text_bytes: UTF-8 bytes of their text.

        Raises:
          UserError: the disk is full.
        """
        files: tuple[ShardInfo, ...] = ()
        if self._file is not None:
            with disk_errors(self._path):
                if self._file_format == "npy":
                    self._file.seek(0)
                    self._file.write(self._header())
                self._file.close()
                os.replace(self._partial, self._path)
            files = (ShardInfo(self._path, 0, sha256_file(self._path)),)
        return SplitInfo(0, self._tokens, documents, text_bytes, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self._path.with_name(f".{self._path.name}.partial-{os.getpid()}")

    def _open(self) -> IO[bytes]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        if self._file_format == "npy":
            self._file.write(self._header())
        return self._file

    def _header(self) -> bytes:
        """The header of an array of `_tokens` ids, as in version 1.0 of NumPy's file format."""
        fields = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._tokens,)}
        text = repr(fields).encode()
        length = _HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


def write_flat_files_manifest(
    folder: Path, file_format: str, dtype: np.dtype, tokenizer: Tokenizer, sources: dict[str, SourceInfo]
) -> None:
    """Writes `folder/manifest.json`. Call it last, because the manifest marks the folder as complete."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "file_format": file_format,
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text_id": tokenizer.end_of_text_id,
        "tokenizer_hash": tokenizer.hash,
        "sources": {name: _source_to_json(folder, source) for name, source in sources.items()},
    }
    write_json(folder / "manifest.json", with_checksum(manifest))


def _source_to_json(folder: Path, source: SourceInfo) -> dict[str, Any]:
    splits: dict[str, dict[str, Any]] = {}
    for name, split in source.splits.items():
        splits[name] = {"tokens": split.tokens, "documents": split.documents, "bytes": split.bytes}
        for file in split.files:
            splits[name] |= {"file": file.path.relative_to(folder).as_posix(), "sha256": file.sha256}
    return {
        "weight": source.weight,
        "language": source.language,
        "license": source.license,
        "dataset": source.dataset,
        "splits": splits,
    }

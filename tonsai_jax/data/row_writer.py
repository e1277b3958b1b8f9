"""Writes token rows and their manifest; `rows.py` describes the format and reads it, `manifest.py` the manifest."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tonsai_jax.checksums import with_checksum
from tonsai_jax.data.manifest import FORMAT, VERSION, RowsManifest, SplitInfo, dtype_for
from tonsai_jax.data.shard_writer import ShardWriter
from tonsai_jax.files import write_json


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
        self._shards = ShardWriter(directory, source, split, rows_per_shard=rows_per_shard)
        self._end_of_text_id = end_of_text_id
        self._vocab_size = vocab_size
        self._row = np.empty(row_tokens + 1, dtype_for(vocab_size))
        self._filled = 0  # number of ids in self._row
        self._tokens = 0

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
                self._shards.write(self._row.tobytes())
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
            self._shards.write(self._row.tobytes())
        files = self._shards.finish()
        return SplitInfo(sum(shard.rows for shard in files), self._tokens, documents, text_bytes, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.__exit__(kind, error, trace)


def write_manifest(manifest: RowsManifest) -> None:
    """Writes `manifest.directory/manifest.json`. Call it last, because the manifest marks the folder as complete."""
    sources = {
        source.name: {
            "weight": source.weight,
            "language": source.language,
            "kind": source.kind,
            "license": source.license,
            "dataset": source.dataset,
            "splits": {name: _split_to_json(manifest.directory, split) for name, split in source.splits.items()},
        }
        for source in manifest.sources.values()
    }
    value = {
        "format": FORMAT,
        "version": VERSION,
        "row_tokens": manifest.row_tokens,
        "dtype": manifest.dtype.name,
        "vocab_size": manifest.vocab_size,
        "end_of_text_id": manifest.end_of_text_id,
        "tokenizer_hash": manifest.tokenizer_hash,
        "sources": sources,
    }
    write_json(manifest.directory / "manifest.json", with_checksum(value))


def _split_to_json(directory: Path, split: SplitInfo) -> dict[str, Any]:
    files = [
        {
            "path": shard.path.relative_to(directory).as_posix(),
            "rows": shard.rows,
            "sha256": shard.sha256,
            "bytes": shard.bytes,
            "sample_sha256": shard.sample,
        }
        for shard in split.files
    ]
    counts = {"rows": split.rows, "tokens": split.tokens, "documents": split.documents, "bytes": split.bytes}
    return {**counts, "files": files}

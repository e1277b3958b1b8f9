"""The tasks of preparing text: each piece of a source is read and cleaned, and the pieces are put together again."""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.documents import ROW_GROUP_BYTES, DocumentWriter
from tonsai_jax.corpus.duplicates import text_hash
from tonsai_jax.corpus.faults import Errors, Faults
from tonsai_jax.corpus.normalize import Normalization, normalize
from tonsai_jax.corpus.sources import Piece
from tonsai_jax.corpus.statistics import Statistics
from tonsai_jax.files import atomic_write, disk_errors


def identity(piece: Piece, file_hashes: Mapping[str, str]) -> dict[str, Any]:
    """What the documents of a piece depend on, as JSON; `file_hashes` has the content hash of each path.

    Where a file lies does not count, nor what only the manifest tells of a source. A dataset of the Hub is known by its id.
    """
    source = {key: value for key, value in vars(piece.source).items() if key not in ("path", "weight", "license")}
    spans = [(span.file, Path(span.path).name, file_hashes[span.path], span.start, span.end) for span in piece.spans]
    reading = None if piece.reading is None else (piece.reading.fields, piece.reading.template)
    return {"source": source, "spans": spans, "shards": piece.shards, "reading": reading}


@dataclasses.dataclass(frozen=True)
class Clean:
    """The task that reads and cleans one piece; its texts go to `{key}.parquet`, with their ids and hashes."""

    normalization: Normalization
    errors: Errors

    def __call__(self, piece: Piece, path: Path) -> dict[str, Any]:
        faults = Faults(self.errors)
        faults.counts["empty"] = 0
        read = kept = 0
        schema = pa.schema([("text", pa.string()), ("id", pa.string()), ("hash", pa.uint64())])
        with (
            atomic_write(path.with_suffix(".parquet")) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=False) as writer,
        ):
            texts: list[str] = []
            ids: list[str] = []
            hashes: list[int] = []
            waiting = 0
            for document_id, raw in piece.documents(faults):
                read += 1
                text = normalize(raw, self.normalization)
                if not text:
                    faults.counts["empty"] += 1
                    continue
                encoded = text.encode("utf-8")
                size = len(encoded)
                if texts and waiting + size > ROW_GROUP_BYTES:
                    writer.write_table(pa.table([texts, ids, hashes], schema=schema))
                    texts, ids, hashes, waiting = [], [], [], 0
                texts.append(text)
                ids.append(document_id)
                hashes.append(text_hash(encoded))
                waiting += size
                kept += 1
            if texts:
                writer.write_table(pa.table([texts, ids, hashes], schema=schema))
        return {"read": read, "kept": kept, "filters": dict(sorted(faults.counts.items()))}


@dataclasses.dataclass(frozen=True)
class CleanedSource:
    """The cleaned pieces of one source: the key of each, and where it is written which of its documents are no duplicates
    (key of that task, place of the piece's first document), if that was asked.
    """

    name: str
    language: str
    pieces: tuple[tuple[str, tuple[str, int] | None], ...]


def write_source(source: CleanedSource, path: Path) -> dict[str, Any]:
    """The task that writes one source's documents as they stay, under `path`."""
    statistics = Statistics()
    content = hashlib.sha256()
    shutil.rmtree(path, ignore_errors=True)
    with disk_errors(path):
        path.mkdir(parents=True)
        duplicates = 0
        with DocumentWriter(path, source=source.name, language=source.language) as writer:
            for key, first_of in source.pieces:
                for document_id, text, is_first in _cleaned(path.parent.parent, key, first_of):
                    if not is_first:
                        duplicates += 1
                        continue
                    encoded = text.encode("utf-8")
                    size = len(encoded)
                    # The size goes in too, so that text moved from one document to the next changes the hash.
                    content.update(size.to_bytes(8, "little") + encoded)
                    statistics.add(document_id, text, size)
                    writer.add(text, size, document_id)
    return {
        "files": writer.files,
        "content_hash": content.hexdigest(),
        "filters": {"duplicate": duplicates} if duplicates else {},
        "statistics": statistics.as_json(),
    }


def _cleaned(work: Path, key: str, first_of: tuple[str, int] | None) -> Iterator[tuple[str, str, bool]]:
    """The ids and texts of a piece, and whether each is the first of its kind."""
    flags = None
    if first_of is not None:
        flags = np.load(work / "duplicates" / f"{first_of[0]}.npy", mmap_mode="r")[first_of[1] :]
    number = 0
    with pq.ParquetFile(work / "clean" / f"{key}.parquet") as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", "text"])
            for document_id, text in zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True):
                yield document_id, text, flags is None or bool(flags[number])
                number += 1

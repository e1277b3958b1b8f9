"""The tasks of preparing text: a source is cut into parts, each part is read and cleaned, and the parts are joined again."""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.documents import ROW_GROUP_BYTES, DocumentWriter
from tonsai_jax.corpus.duplicates import text_hash
from tonsai_jax.corpus.normalize import Normalization, normalize
from tonsai_jax.corpus.readers import Errors, Faults
from tonsai_jax.corpus.sources import Source
from tonsai_jax.corpus.statistics import Statistics
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, disk_errors, sha256_file

LARGEST_DOCUMENT = 2**30  # bytes; parquet cannot hold a value of 2 GiB
PART_BYTES = 64 * 2**20  # of files, as they lie on the disk, that one task reads


@dataclasses.dataclass(frozen=True)
class Part:
    """What one task reads: some files of a source, or the whole of it (no files)."""

    source: Source
    files: tuple[Path, ...]

    def identity(self) -> dict[str, Any]:
        """What the documents of this part depend on."""
        reading = {key: value for key, value in vars(self.source).items() if key not in ("path", "weight", "license")}
        return {**reading, "files": [(file.name, sha256_file(file)) for file in self.files]}

    def texts(self, faults: Faults) -> Iterator[str]:
        return self.source.texts(faults, self.files or None)


def parts_of(source: Source) -> list[Part]:
    """A source cut between its files; one that is read in part only stays whole."""
    files = source.files()
    if not files or source.max_samples is not None:
        return [Part(source, tuple(files))]
    parts: list[list[Path]] = [[]]
    size = 0
    for file in files:
        if parts[-1] and size + file.stat().st_size > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(file)
        size += file.stat().st_size
    return [Part(source, tuple(part)) for part in parts]


def total_bytes(parts: Sequence[Part]) -> float:
    if not all(part.files for part in parts):
        return float("inf")  # over the network: nobody knows
    return sum(file.stat().st_size for part in parts for file in part.files)


@dataclasses.dataclass(frozen=True)
class Clean:
    """The task that reads and cleans one part; its texts go to `{key}.parquet`, with their places among those read."""

    normalization: Normalization
    errors: Errors

    def __call__(self, part: Part, path: Path) -> dict[str, Any]:
        faults = Faults(self.errors)
        faults.counts["empty"] = 0
        read = kept = 0
        schema = pa.schema([("text", pa.string()), ("place", pa.int64()), ("hash", pa.uint64())])
        with (
            atomic_write(path.with_suffix(".parquet")) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=False) as writer,
        ):
            texts: list[str] = []
            places: list[int] = []
            hashes: list[int] = []
            waiting = 0
            for read, raw in enumerate(part.texts(faults), start=1):
                text = normalize(raw, self.normalization)
                if not text:
                    faults.counts["empty"] += 1
                    continue
                encoded = text.encode("utf-8")
                size = len(encoded)
                if size > LARGEST_DOCUMENT:
                    raise UserError(
                        f"source {part.source.name!r}: document {read} has {size / 1e9:.1f} GB, the limit is "
                        f"{LARGEST_DOCUMENT / 1e9:.1f} GB; for txt files set `document: line` or `paragraph`"
                    )
                if texts and waiting + size > ROW_GROUP_BYTES:
                    writer.write_table(pa.table([texts, places, hashes], schema=schema))
                    texts, places, hashes, waiting = [], [], [], 0
                texts.append(text)
                places.append(read - 1)
                hashes.append(text_hash(encoded))
                waiting += size
                kept += 1
            if texts:
                writer.write_table(pa.table([texts, places, hashes], schema=schema))
        return {"read": read, "kept": kept, "filters": dict(sorted(faults.counts.items()))}


@dataclasses.dataclass(frozen=True)
class CleanedSource:
    """The cleaned parts of one source: their keys, how many documents were read in each, and where it is written which of
    them are no duplicates (key of that task, place of the part's first document), if that was asked.
    """

    name: str
    language: str
    parts: tuple[tuple[str, int, tuple[str, int] | None], ...]


def write_source(source: CleanedSource, path: Path) -> dict[str, Any]:
    """The task that writes one source's documents as they stay, under `path`."""
    statistics = Statistics()
    content = hashlib.sha256()
    shutil.rmtree(path, ignore_errors=True)
    with disk_errors(path):
        path.mkdir(parents=True)
        read_before = duplicates = 0
        with DocumentWriter(path, source=source.name, language=source.language) as writer:
            for key, read, first_of in source.parts:
                for text, place, is_first in _cleaned(path.parent.parent, key, first_of):
                    if not is_first:
                        duplicates += 1
                        continue
                    encoded = text.encode("utf-8")
                    size = len(encoded)
                    document_id = f"{source.name}/{read_before + place}"
                    # The size goes in too, so that text moved from one document to the next changes the hash.
                    content.update(size.to_bytes(8, "little") + encoded)
                    statistics.add(document_id, text, size)
                    writer.add(text, size, document_id)
                read_before += read
    return {
        "files": writer.files,
        "content_hash": content.hexdigest(),
        "filters": {"duplicate": duplicates} if duplicates else {},
        "statistics": statistics.as_json(),
    }


def _cleaned(work: Path, key: str, first_of: tuple[str, int] | None) -> Iterator[tuple[str, int, bool]]:
    """The texts of a part, their places among those read, and whether each is the first of its kind."""
    flags = None
    if first_of is not None:
        flags = np.load(work / "duplicates" / f"{first_of[0]}.npy", mmap_mode="r")[first_of[1] :]
    number = 0
    with pq.ParquetFile(work / "clean" / f"{key}.parquet") as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["text", "place"])
            for text, place in zip(table.column("text").to_pylist(), table.column("place").to_pylist(), strict=True):
                yield text, place, flags is None or bool(flags[number])
                number += 1

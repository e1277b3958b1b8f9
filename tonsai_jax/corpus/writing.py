"""The last stage of text preparation: writes the documents of each source, without the duplicates."""

import contextlib
import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.documents import DocumentWriter, Extra
from tonsai_jax.corpus.intermediate import StoredPiece, read_piece
from tonsai_jax.corpus.statistics import DroppedStatistics, Statistics
from tonsai_jax.files import disk_errors
from tonsai_jax.jobs.progress import TaskProgress

DROPPED = "dropped"  # the folder of the documents that were dropped


@dataclasses.dataclass(frozen=True)
class SourcePieces:
    """A source as the earlier stages have left it.

    Attributes:
      name, language: of the source.
      pieces: each piece, and the number of its first document among the documents of all sources.
      dropped: the pieces of documents that earlier stages have dropped; empty if they are not to be written.
    """

    name: str
    language: str
    pieces: tuple[tuple[StoredPiece, int], ...]
    dropped: tuple[StoredPiece, ...]


@dataclasses.dataclass(frozen=True)
class WriteSource:
    """The task that writes the documents of one source to the folder `path`. Its payload is a `SourcePieces`.

    Attributes:
      exact, near: as in `DuplicateGroups`.
      scored: whether documents have quality scores, which are written too.
      keep_dropped: whether dropped documents are written too, to `path`/dropped.
    """

    exact: str | None
    near: str | None
    scored: bool
    keep_dropped: bool

    def __call__(self, source: SourcePieces, path: Path) -> dict[str, Any]:
        work = path.parents[1]
        groups = [
            (rule, np.load(work / f"{file}.npy", mmap_mode="r"))
            for rule, file in (("duplicate", self.exact), ("near_duplicate", self.near))
            if file
        ]
        statistics, dropped = Statistics(), DroppedStatistics()
        progress = TaskProgress(path)
        content = hashlib.sha256()
        shutil.rmtree(path, ignore_errors=True)
        with disk_errors(path), contextlib.ExitStack() as files:
            path.mkdir(parents=True)
            extra: Extra | None = "score" if self.scored else None
            writer = files.enter_context(
                DocumentWriter(path, source=source.name, language=source.language, extra=extra)
            )
            (path / DROPPED).mkdir()
            dropped_writer = files.enter_context(
                DocumentWriter(path / DROPPED, source=source.name, language=source.language, extra="rule")
            )
            for piece in source.dropped:
                for document in read_piece(piece.path(work)):
                    dropped_writer.add(document.text, len(document.text.encode()), document.id, document.rule)
            for piece, first in source.pieces:
                for number, document in enumerate(read_piece(piece.path(work)), start=first):
                    rule = next((rule for rule, representative in groups if representative[number] != number), None)
                    encoded = document.text.encode("utf-8")
                    progress.add(len(encoded))
                    if rule is None:
                        # With the size, because text that moves from one document to the next must change the hash.
                        content.update(len(encoded).to_bytes(8, "little") + encoded)
                        statistics.add(document.id, document.text, len(encoded), document.score)
                        writer.add(document.text, len(encoded), document.id, document.score)
                        continue
                    dropped.add(document.id, document.text, rule)
                    if self.keep_dropped:
                        dropped_writer.add(document.text, len(encoded), document.id, rule)
        return {
            "files": writer.files,
            "dropped_files": [f"{DROPPED}/{name}" for name in dropped_writer.files],
            "content_hash": content.hexdigest(),
            "filters": dict(dropped.counts),
            "dropped": dropped.samples(),
            "statistics": statistics.as_json(),
        }

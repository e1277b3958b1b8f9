"""The last stage of preparing text: each source is written as documents, without the duplicates."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.corpus.cleaned import Stored, read_cleaned
from tonsai_jax.corpus.documents import FORMAT, DocumentWriter, Extra
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.corpus.statistics import DroppedStatistics, Statistics
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json

REPORT = "report.html"
CONTAMINATED = "contaminated.jsonl"
DROPPED = "dropped"  # the folder of what did not stay


@dataclasses.dataclass(frozen=True)
class ToWrite:
    """A source as the stages before have left it.

    Attributes:
      pieces: for each where its documents are, and the number of the first of them among those of all sources.
      dropped: where the documents are that did not stay, of each piece in turn; none if they are not to be written.
    """

    name: str
    language: str
    pieces: tuple[tuple[Stored, int], ...]
    dropped: tuple[Stored, ...]


@dataclasses.dataclass(frozen=True)
class WriteSource:
    """The task that writes the documents of one source under `path`.

    Attributes:
      exact, near: as in `Leaders`.
      scored: whether the documents have scores.
      keep_dropped: whether what did not stay is written too, under `path`/dropped.
    """

    exact: str | None
    near: str | None
    scored: bool
    keep_dropped: bool

    def __call__(self, source: ToWrite, path: Path) -> dict[str, Any]:
        work = path.parents[1]
        leaders = [
            (rule, np.load(work / f"{file}.npy", mmap_mode="r"))
            for rule, file in (("duplicate", self.exact), ("near_duplicate", self.near))
            if file
        ]
        statistics, dropped = Statistics(), DroppedStatistics()
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
                for document in read_cleaned(piece.path(work)):
                    dropped_writer.add(document.text, len(document.text.encode()), document.id, document.rule)
            for piece, first in source.pieces:
                for number, document in enumerate(read_cleaned(piece.path(work)), start=first):
                    rule = next((rule for rule, leader in leaders if leader[number] != number), None)
                    encoded = document.text.encode("utf-8")
                    if rule is None:
                        # The size goes in too, so that text moved from one document to the next changes the hash.
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


def check_output(output: Path, sources: Sequence[Source]) -> None:
    """Raises `UserError` for a folder that holds anything but an earlier dataset, or from which a source reads."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output-dir must be a folder")
    for source in sources:
        for file in source.files():
            if output in file.absolute().parents:
                raise UserError(f"{file}: source {source.name!r} reads from the output folder; choose another folder")
    contents = {entry.name for entry in output.iterdir()} if output.exists() else set()
    if not contents:
        return
    written: set[str] = set()
    if "manifest.json" in contents:
        manifest = read_json(output / "manifest.json")
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            written = {"manifest.json", REPORT, CONTAMINATED, DROPPED, *manifest["sources"]}
    if contents - written:
        raise UserError(
            f"{output}: holds {min(contents - written)!r}, which this command did not write; "
            "choose a new or empty folder (an earlier prepared dataset would be replaced)"
        )


def link_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Puts files of one folder in a second place, without copying them where the file system can."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)

"""The first stage of text preparation: reads a piece of a source, normalizes, redacts and checks each document."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaning.decontaminate import Contamination
from tonsai_jax.corpus.cleaning.quality import QualityFilter
from tonsai_jax.corpus.cleaning.redact import Redaction, redact
from tonsai_jax.corpus.cleaning.rules import Quality
from tonsai_jax.corpus.intermediate import Document, piece_writer
from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.source import Piece
from tonsai_jax.corpus.statistics import DroppedStatistics
from tonsai_jax.files import read_json
from tonsai_jax.jobs.progress import TaskProgress
from tonsai_jax.text.normalize import Normalization, normalize


def identity(piece: Piece, file_hashes: Mapping[str, str]) -> dict[str, Any]:
    """What the documents of a piece depend on, as JSON. `file_hashes` has the content hash of each path.

    The folder of a file does not count, nor do the weight and the license of a source. A dataset on the Hugging Face Hub is
    identified by its id: its content is not hashed.
    """
    source = {key: value for key, value in vars(piece.source).items() if key not in ("path", "weight", "license")}
    spans = [(span.file, Path(span.path).name, file_hashes[span.path], span.start, span.end) for span in piece.spans]
    reading = None if piece.reading is None else (piece.reading.fields, piece.reading.template)
    return {"source": source, "spans": spans, "shards": piece.shards, "reading": reading}


@dataclasses.dataclass(frozen=True)
class Clean:
    """The task that cleans one piece. Its payload is the `Piece`.

    Writes the documents that are kept to `path`.parquet and, with `keep_dropped`, the others to `path`.dropped.parquet.

    Attributes:
      contamination: key of the n-grams of the evaluation sets (`index_sets`); None if there are no sets.
    """

    normalization: Normalization
    redaction: Redaction
    quality: Quality
    contamination: str | None
    keep_dropped: bool
    on_error: OnError

    def __call__(self, piece: Piece, path: Path) -> dict[str, Any]:
        faults = Faults(self.on_error)
        changes = Counter(redacted=0)
        dropped = DroppedStatistics()
        contaminated = []
        is_checked = self.quality.is_active and not piece.source.trusted
        quality_filter = QualityFilter(self.quality, piece.source.language) if is_checked else None
        sets = (
            _contamination(path.parents[1] / "contamination" / f"{self.contamination}.npz")
            if self.contamination
            else None
        )
        with contextlib.ExitStack() as files:
            kept_documents = files.enter_context(piece_writer(path.with_suffix(".parquet")))
            dropped_documents = None
            if self.keep_dropped:
                dropped_documents = files.enter_context(piece_writer(path.with_suffix(".dropped.parquet")))
            read = size = 0
            progress = TaskProgress(path)
            for document_id, raw in piece.documents(faults):
                raw_size = len(raw.encode("utf-8", "surrogatepass"))
                read += 1
                size += raw_size
                progress.add(raw_size)
                text = normalize(raw, self.normalization)
                if not text:
                    faults.counts["empty"] += 1
                    continue
                text, count = redact(text, self.redaction)
                changes["redacted"] += count
                rule, score = quality_filter(document_id, text) if quality_filter else (None, None)
                hit = sets.find(text) if sets and not rule else None
                if hit:
                    rule = "contaminated"
                    contaminated.append({"id": document_id, **hit._asdict()})
                document = Document(document_id, text, rule, score)
                if rule is None:
                    kept_documents.add(document)
                    continue
                dropped.add(document_id, text, rule)
                if dropped_documents:
                    dropped_documents.add(document)
        return {
            "read": read,
            "bytes": size,
            "kept": kept_documents.documents,
            "filters": dict(sorted((faults.counts + dropped.counts).items())),
            "changes": dict(changes),
            "contaminated": contaminated,
            "dropped": dropped.samples(),
        }


def cleaned_bytes(folder: Path) -> int:
    """The UTF-8 bytes of text that were read for the results of `Clean` in a folder, as far as they say it."""
    results = [read_json(path) for path in folder.glob("*.json") if not path.name.endswith(".error.json")]
    return sum(result.get("bytes", 0) for result in results)


@functools.lru_cache(maxsize=1)
def _contamination(path: Path) -> Contamination:
    """The n-grams of the evaluation sets, read once in each process."""
    return Contamination(path)

"""The first stage of preparing text: a piece of a source is read, normalized, redacted and judged, a document at a time."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaned import Cleaned, cleaned_file
from tonsai_jax.corpus.cleaning.decontaminate import Contamination
from tonsai_jax.corpus.cleaning.quality import Judge
from tonsai_jax.corpus.cleaning.redact import Redaction, redact
from tonsai_jax.corpus.cleaning.rules import Quality
from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.source import Piece
from tonsai_jax.corpus.statistics import DroppedStatistics
from tonsai_jax.text.normalize import Normalization, normalize


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
    """The task that cleans one piece and writes what stays of it to `path`.parquet, what does not to `path`.dropped.parquet.

    `contamination` is the key under which the n-grams of the evaluation sets lie, if there are any.
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
        judge = None if piece.source.trusted or not self.quality.judges else Judge(self.quality, piece.source.language)
        sets = (
            _contamination(path.parents[1] / "contamination" / f"{self.contamination}.npz")
            if self.contamination
            else None
        )
        with contextlib.ExitStack() as files:
            kept_documents = files.enter_context(cleaned_file(path.with_suffix(".parquet")))
            dropped_documents = None
            if self.keep_dropped:
                dropped_documents = files.enter_context(cleaned_file(path.with_suffix(".dropped.parquet")))
            read = 0
            for document_id, raw in piece.documents(faults):
                read += 1
                text = normalize(raw, self.normalization)
                if not text:
                    faults.counts["empty"] += 1
                    continue
                text, count = redact(text, self.redaction)
                changes["redacted"] += count
                rule, score = judge(document_id, text) if judge else (None, None)
                hit = sets.find(text) if sets and not rule else None
                if hit:
                    rule = "contaminated"
                    contaminated.append({"id": document_id, **hit._asdict()})
                document = Cleaned(document_id, text, rule, score)
                if rule is None:
                    kept_documents.add(document)
                    continue
                dropped.add(document_id, text, rule)
                if dropped_documents:
                    dropped_documents.add(document)
        return {
            "read": read,
            "kept": kept_documents.documents,
            "filters": dict(sorted((faults.counts + dropped.counts).items())),
            "changes": dict(changes),
            "contaminated": contaminated,
            "dropped": dropped.samples(),
        }


@functools.lru_cache(maxsize=1)
def _contamination(path: Path) -> Contamination:
    """Read once in each process, not for each piece."""
    return Contamination(path)

"""The sources on their way through the stages: the results of each so far, and the sources that have failed."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaning.rules import Quality, Rules
from tonsai_jax.corpus.intermediate import StoredPiece
from tonsai_jax.corpus.sources.faults import OnError
from tonsai_jax.corpus.sources.source import Piece, Source
from tonsai_jax.errors import UserError


@dataclasses.dataclass
class SourceState:
    """One source and its results so far.

    Attributes:
      pieces: the pieces that the source was cut into.
      keys: the key of the cleaned form of each piece.
      results: for each stage so far, the result of each piece.
      stored: where the documents of each piece are after the last of these stages.
      folder: where the documents of the source were written.
      written: the result of `WriteSource`.
    """

    source: Source
    pieces: list[Piece]
    keys: list[str] = dataclasses.field(default_factory=list)
    results: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)
    stored: list[StoredPiece] = dataclasses.field(default_factory=list)
    folder: Path = Path()
    written: dict[str, Any] = dataclasses.field(default_factory=dict)

    def sum_of(self, name: str) -> dict[str, int]:
        """Adds up the counts under this name in all results."""
        counts: Counter[str] = Counter()
        for value in self.all_of(name):
            counts.update(value)
        return {kind: counts[kind] for kind in sorted(counts)}

    def all_of(self, name: str) -> list[Any]:
        """The values under this name in all results that have one."""
        results = [*(result for stage in self.results for result in stage), self.written]
        return [result[name] for result in results if name in result]

    def check_cleaned(self, quality: Quality) -> None:
        """Raises `UserError` if a piece could not be cleaned or no document is left. `quality`: the rules that dropped them."""
        (results,) = self.results
        for result in results:
            if "error" in result:
                raise UserError(result["error"])
        if not any(result["kept"] for result in results):
            read = sum(result["read"] for result in results)
            counts = self.sum_of("filters")
            message = f"source {self.source.name!r}: no document left of {read} read{in_words(counts)}"
            most = max(counts, key=lambda rule: counts[rule]) if counts else ""
            raise UserError(message + _way_out(most, self.source.language, quality))

    def check_written(self) -> None:
        """Raises `UserError` if no document is left without the duplicates."""
        if not self.written["files"]:
            raise UserError(
                f"source {self.source.name!r}: no document left{in_words(self.sum_of('filters'))}; remove it from the "
                "sources, or list it before the sources that have the same documents"
            )


class FailedSources:
    """What happens to a source that fails: with "stop" its error is raised; with "skip" the source is left out.

    Attributes:
      reasons: {name of a source that was left out: its error}.
    """

    def __init__(self, on_error: OnError):
        self.reasons: dict[str, str] = {}
        self._on_error = on_error

    @contextlib.contextmanager
    def catch(self, source: Source) -> Iterator[None]:
        """Handles the `UserError` that the block raises about `source`."""
        try:
            yield
        except UserError as error:
            if self._on_error == "stop":
                raise
            self.reasons[source.name] = str(error)

    def remaining(self, sources: Sequence[Source]) -> list[Source]:
        """The sources that have not failed. Raises `UserError` if all have."""
        remaining = [source for source in sources if source.name not in self.reasons]
        if not remaining:
            raise UserError("; ".join(self.reasons.values()))
        return remaining

    def remaining_states(self, states: Sequence[SourceState]) -> list[SourceState]:
        """The states of the sources that have not failed. Raises `UserError` if all have."""
        names = {source.name for source in self.remaining([state.source for state in states])}
        return [state for state in states if state.source.name in names]


def _way_out(rule: str, language: str, quality: Quality) -> str:
    """What to change where `rule` dropped the most documents, for the end of a message; "" where nothing would help."""
    if rule in {field.name for field in dataclasses.fields(Rules)}:
        limit = getattr(quality.for_language(language), rule)
        key = f"`quality: {{rules: {{{language}: {{{rule}: ...}}}}}}` (now {limit}, null turns it off)"
    elif rule in ("min_score", "sample_by_score"):
        key = f"`quality: {{{rule}: ...}}` (now {getattr(quality, rule)})"
    else:
        keys = {
            "contaminated": "the files under `decontaminate`, whose texts these documents have",
            "empty": "the file, or `text_column`: the texts are blank",
            "too_long": "`max_document_mb` of this source",
        }
        return f"; check {keys[rule]}" if rule in keys else ""
    return f"; {rule} dropped the most: set {key}, or `trusted: true` for this source, to which no rule then applies"


def in_words(counts: Mapping[str, int]) -> str:
    """How many documents were dropped and why, for the end of a message: " (dropped: empty 2)", or ""."""
    dropped = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()) if count)
    return f" (dropped: {dropped})" if dropped else ""

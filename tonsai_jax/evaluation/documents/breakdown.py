"""Bits per byte and perplexity of many documents: by language, by where they come from, and by their length."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tonsai_jax.evaluation.bits_per_byte import Evaluation, Score
from tonsai_jax.evaluation.statistics import Estimate, RatioSums
from tonsai_jax.reporting.tables import Table, tables_as_text

# Documents by their UTF-8 bytes; each limit is the first length that is too long.
LENGTHS = ("under 256 B", "under 1 KiB", "under 4 KiB", "under 16 KiB", "16 KiB and more")
_LIMITS = (256, 1024, 4096, 16384)
_MOST_SHOWN = 30  # parts in a table


@dataclasses.dataclass(frozen=True)
class Documents:
    """The scores of documents, arrays of the same length.

    Attributes:
      nats: loss of what was scored, float64.
      tokens, bytes: of what was scored, int64.
      lengths: bytes of the whole document, int64.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    lengths: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Documents":
        return Documents(self.nats[chosen], self.tokens[chosen], self.bytes[chosen], self.lengths[chosen])


@dataclasses.dataclass(frozen=True)
class Tally:
    """The sums over some documents.

    Attributes:
      score: nats, tokens and bytes.
      bits: of bits and bytes, for the interval.
    """

    score: Score = dataclasses.field(default_factory=Score)
    bits: RatioSums = dataclasses.field(default_factory=RatioSums)

    @classmethod
    def of(cls, documents: Documents) -> "Tally":
        score = Score(float(documents.nats.sum()), int(documents.tokens.sum()), int(documents.bytes.sum()))
        return cls(score, RatioSums.of(documents.nats / math.log(2), documents.bytes))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.score + other.score, self.bits + other.bits)

    @property
    def documents(self) -> int:
        return self.bits.n

    @property
    def bits_per_byte(self) -> Estimate:
        """With its 95 % interval over documents; NaN without text."""
        return self.bits.estimate() if self.score.bytes else Estimate(math.nan, None, None, None)


class Breakdown:
    """Scores of documents, added up by language, by part and by length.

    Args:
      part: what the documents of a language are divided into: "source" or "file".
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self._tallies: dict[tuple[str, str], list[Tally]] = {}  # of (language, part), for each length

    def add(self, language: str, part: str, documents: Documents) -> None:
        """Adds documents; those of which nothing was scored are left out."""
        documents = documents[documents.tokens > 0]
        place = np.searchsorted(_LIMITS, documents.lengths, side="right")
        tallies = self._tallies.setdefault((language, part), [Tally()] * len(LENGTHS))
        for number in np.unique(place):
            tallies[number] += Tally.of(documents[place == number])

    @property
    def languages(self) -> dict[str, Tally]:
        """The tally of each language."""
        return {name: _total(by_length) for name, by_length in self._by_length("language").items()}

    @property
    def parts(self) -> dict[str, Tally]:
        """The tally of each part, by its name."""
        return {name: _total(by_length) for name, by_length in self._by_length(self.part).items()}

    def evaluation(self) -> Evaluation:
        """The scores without intervals and lengths, as an evaluation in training has them."""
        return Evaluation(
            {name: tally.score for name, tally in self.parts.items() if tally.score.bytes},
            {name: tally.score for name, tally in self.languages.items() if tally.score.bytes},
        )

    def records(self) -> list[dict[str, Any]]:
        """Every figure, as plain values: a record for each language and part, and for each of their lengths ("length")."""
        records = []
        for kind, name, by_length in self._all():
            for length, tally in ((None, _total(by_length)), *zip(LENGTHS, by_length, strict=True)):
                if not tally.score.bytes:
                    continue
                bits, score = tally.bits_per_byte, tally.score
                records.append(
                    {"kind": kind, "name": name, "length": length}
                    | {"bits_per_byte": bits.value, "low": bits.low, "high": bits.high, "perplexity": score.perplexity}
                    | {"tokens": score.tokens, "bytes": score.bytes, "documents": tally.documents}
                )
        return records

    def table(self) -> str:
        """Two tables for the terminal: all figures of each part and language; bits per byte by length of the documents.

        Of more parts than fit a screen, only the languages are shown.
        """
        totals, lengths = [], []
        for kind, name, by_length in self._all():
            if kind == self.part and len(self._tallies) > _MOST_SHOWN:
                continue
            tally = _total(by_length)
            label, score = f"{kind} {name}", tally.score
            counts = [f"{count:,}" for count in (score.tokens, score.bytes, tally.documents)]
            totals.append([label, _with_interval(tally.bits_per_byte), f"{score.perplexity:.2f}", *counts])
            lengths.append([label, *(_bits(part) for part in by_length)])
        return tables_as_text(
            (
                Table("", ["", "bits/byte", "perplexity", "tokens", "bytes", "documents"], totals, "llrrrr"),
                Table("bits per byte by length of the document", ["", *LENGTHS], lengths, "l" + "r" * len(LENGTHS)),
            )
        )

    def _all(self) -> list[tuple[str, str, list[Tally]]]:
        """(kind, name, tallies by length) of every part and language that has text."""
        found = [(kind, *named) for kind in (self.part, "language") for named in self._by_length(kind).items()]
        return [each for each in found if _total(each[2]).score.bytes]

    def _by_length(self, kind: str) -> dict[str, list[Tally]]:
        found: dict[str, list[Tally]] = {}
        for (language, part), tallies in self._tallies.items():
            name = language if kind == "language" else part
            before = found.get(name, [Tally()] * len(LENGTHS))
            found[name] = [ours + theirs for ours, theirs in zip(before, tallies, strict=True)]
        return found


def _total(tallies: Iterable[Tally]) -> Tally:
    return sum(tallies, Tally())


def _with_interval(bits: Estimate) -> str:
    return f"{bits.value:.4f}" if bits.high is None else f"{bits.value:.4f} ± {bits.high - bits.value:.4f}"


def _bits(tally: Tally) -> str:
    return f"{tally.score.bits_per_byte:.4f}" if tally.score.bytes else "-"

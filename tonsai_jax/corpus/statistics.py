"""Statistics of documents: lengths, scripts, scores, and a random sample that does not depend on their order."""

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tonsai_jax.text.scripts import SCRIPT_RANGES

SAMPLES = 20  # documents of a source
SAMPLES_OF_RULE = 5  # documents that one rule drops, of a part of a source
SAMPLE_CHARACTERS = 600
# Names, and ranges of code points (first, last). Characters in no range are "other".
_SCRIPTS = (
    ("Khmer letters", SCRIPT_RANGES["Khmr"]),
    ("Khmer digits", ((0x17E0, 0x17E9), (0x17F0, 0x17F9))),
    ("Khmer signs", ((0x17D4, 0x17D6), (0x17D8, 0x17DB), (0x19E0, 0x19FF))),
    ("Latin", SCRIPT_RANGES["Latn"]),
    ("digits", ((0x30, 0x39),)),
    ("spaces", ((0x9, 0xD), (0x20, 0x20), (0x200B, 0x200B))),
    ("punctuation", ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xBF), (0x2010, 0x205E))),
)
SCRIPTS = (*(name for name, _ in _SCRIPTS), "other")


def _script_table() -> np.ndarray:
    table = np.full(2**16, len(_SCRIPTS), np.uint8)
    for number, (_, runs) in reversed(list(enumerate(_SCRIPTS))):
        for first, last in runs:
            table[first : last + 1] = number
    return table


_TABLE = _script_table()


class Statistics:
    """Counts over documents. They do not depend on the order of the documents.

    Attributes:
      documents, bytes: number of documents, and of their UTF-8 bytes.
      lengths: number of documents by floor(log2(characters)).
      scripts: number of characters by the names in `SCRIPTS`.
      scores: number of documents with a score, by floor(10 x score).
    """

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        self.lengths: Counter[int] = Counter()
        self.scripts: Counter[str] = Counter()
        self.scores: Counter[int] = Counter()
        self._sample = Sample(SAMPLES)

    def add(self, document_id: str, text: str, size: int, score: float | None = None) -> None:
        """Counts one document. `size` is the number of UTF-8 bytes of `text`, which is not empty."""
        self.documents += 1
        self.bytes += size
        self.lengths[len(text).bit_length() - 1] += 1
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        counts = np.bincount(_TABLE[np.minimum(points, 0xFFFF)], minlength=len(SCRIPTS))
        for name, count in zip(SCRIPTS, counts.tolist(), strict=True):
            self.scripts[name] += count
        if score is not None:
            self.scores[min(int(10 * score), 9)] += 1
        self._sample.add(document_id, text)

    def as_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "lengths": {str(length): self.lengths[length] for length in sorted(self.lengths)},
            "scripts": {name: self.scripts[name] for name in SCRIPTS if self.scripts[name]},
            "scores": {str(tenth): self.scores[tenth] for tenth in sorted(self.scores)},
            "samples": self._sample.as_json(),
        }


class DroppedStatistics:
    """Dropped documents: counts by rule, and a random sample for each rule."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._samples: dict[str, Sample] = {}

    def add(self, document_id: str, text: str, rule: str) -> None:
        """Counts one document that `rule` drops."""
        self.counts[rule] += 1
        if rule not in self._samples:
            self._samples[rule] = Sample(SAMPLES_OF_RULE)
        self._samples[rule].add(document_id, text)

    def samples(self) -> dict[str, list[dict[str, str]]]:
        """The sample for each rule: {rule: [{"id", "text"}]}."""
        return {rule: self._samples[rule].as_json() for rule in sorted(self._samples)}


class Sample:
    """The `size` documents whose ids have the smallest hashes: random, and independent of how the sources were cut."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._largest_first: list[tuple[int, str, dict[str, str]]] = []

    def add(self, document_id: str, text: str) -> None:
        """Takes a document into account."""
        rank = -_rank(document_id)
        if len(self._largest_first) == self._size and rank <= self._largest_first[0][0]:
            return
        entry = (rank, document_id, {"id": document_id, "text": text[:SAMPLE_CHARACTERS]})
        if len(self._largest_first) < self._size:
            heapq.heappush(self._largest_first, entry)
        else:
            heapq.heapreplace(self._largest_first, entry)

    def as_json(self) -> list[dict[str, str]]:
        return [entry for _, _, entry in sorted(self._largest_first, key=lambda ranked: -ranked[0])]


def merged_samples(samples: Sequence[dict[str, list[dict[str, str]]]]) -> list[dict[str, str]]:
    """Merges the samples of the parts of a source to `SAMPLES` documents {"id", "text", "rule"}, evenly over the rules.

    `samples` has what `DroppedStatistics.samples` returns for each part.
    """
    by_rule: dict[str, list[dict[str, str]]] = {}
    for part in samples:
        for rule, entries in part.items():
            by_rule.setdefault(rule, []).extend({**entry, "rule": rule} for entry in entries)
    ranked = [sorted(by_rule[rule], key=lambda entry: _rank(entry["id"]))[:SAMPLES] for rule in sorted(by_rule)]
    in_turn = (entry for entries in itertools.zip_longest(*ranked) for entry in entries if entry)
    return list(itertools.islice(in_turn, SAMPLES))


def _rank(document_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(document_id.encode("utf-8"), digest_size=8).digest(), "big")

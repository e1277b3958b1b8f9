"""What a body of documents looks like in figures: lengths, scripts, and a random sample that does not depend on order."""

import hashlib
import heapq
from collections import Counter
from typing import Any

import numpy as np

from tonsai_jax.corpus.language import SCRIPT_RANGES

SAMPLES = 20  # documents shown
SAMPLE_CHARACTERS = 600
# Code points: where a script's run ends, and its name. Letters and marks; what is in no run is "other".
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
    """Counts over documents, the same in whatever order they come.

    Attributes:
      documents, bytes: how many, and their UTF-8 bytes.
      lengths: documents by floor(log2(characters)).
      scripts: characters by the names of `SCRIPTS`.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        self.lengths: Counter[int] = Counter()
        self.scripts: Counter[str] = Counter()
        self._sample = Sample()

    def add(self, document_id: str, text: str, size: int) -> None:
        """Counts one document; `size` is the number of UTF-8 bytes of `text`, which is not empty."""
        self.documents += 1
        self.bytes += size
        self.lengths[len(text).bit_length() - 1] += 1
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        counts = np.bincount(_TABLE[np.minimum(points, 0xFFFF)], minlength=len(SCRIPTS))
        for name, count in zip(SCRIPTS, counts.tolist(), strict=True):
            self.scripts[name] += count
        self._sample.add(document_id, text)

    def as_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "lengths": {str(length): self.lengths[length] for length in sorted(self.lengths)},
            "scripts": {name: self.scripts[name] for name in SCRIPTS if self.scripts[name]},
            "samples": self._sample.as_json(),
        }


class Sample:
    """The `SAMPLES` documents whose ids have the smallest hashes: random, yet the same however the work was cut."""

    def __init__(self) -> None:
        self._largest_first: list[tuple[int, str, dict[str, str]]] = []

    def add(self, document_id: str, text: str) -> None:
        """Offers a document."""
        rank = -int.from_bytes(hashlib.blake2b(document_id.encode("utf-8"), digest_size=8).digest(), "big")
        if len(self._largest_first) == SAMPLES and rank <= self._largest_first[0][0]:
            return
        entry = (rank, document_id, {"id": document_id, "text": text[:SAMPLE_CHARACTERS]})
        if len(self._largest_first) < SAMPLES:
            heapq.heappush(self._largest_first, entry)
        else:
            heapq.heapreplace(self._largest_first, entry)

    def as_json(self) -> list[dict[str, str]]:
        return [entry for _, _, entry in sorted(self._largest_first, key=lambda ranked: -ranked[0])]

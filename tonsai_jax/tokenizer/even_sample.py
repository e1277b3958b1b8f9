"""The part of a body of text that a tokenizer's report is measured on, and the documents that it shows."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from random import Random
from typing import Generic, TypeVar

from tonsai_jax.tokenizer.examples import Example

SAMPLE_BYTES = 2_000_000  # of text that is measured, of each label
SHOWN_CHARACTERS = 600  # of a document

Item = TypeVar("Item")


class EvenSample(Generic[Item]):
    """A bounded part of a stream, taken evenly: every 2^n-th item, n growing as needed.

    Attributes:
      items: the part.
      sample_bytes: their UTF-8 bytes, at most `SAMPLE_BYTES` unless a single item has more.
      examples, bytes: how many items there were in all, and their UTF-8 bytes.
      stride: the 2^n.
    """

    def __init__(self) -> None:
        self.examples = 0
        self.bytes = 0
        self.sample_bytes = 0
        self._kept: list[tuple[Item, int]] = []
        self.stride = 1

    @property
    def items(self) -> list[Item]:
        return [item for item, _ in self._kept]

    def add(self, item: Item, size: int) -> None:
        """Offers an item of `size` UTF-8 bytes."""
        if self.examples % self.stride == 0:
            self._kept.append((item, size))
            self.sample_bytes += size
        self.examples += 1
        self.bytes += size
        while self.sample_bytes > SAMPLE_BYTES and len(self._kept) > 1:
            self._kept = self._kept[::2]
            self.sample_bytes = sum(kept_size for _, kept_size in self._kept)
            self.stride *= 2


class SampledText:
    """Of each label an even sample to measure on, and `n` documents at random to show, the labels in turn.

    The same examples, `n` and `seed` give the same documents.
    """

    def __init__(self, *, n: int = 10, seed: int = 42) -> None:
        self._n, self._seed = n, seed
        self._by_label: dict[str, EvenSample[str]] = {}

    def passing(self, examples: Iterable[Example]) -> Iterator[str]:
        """Gives the texts of `examples` as they are, having seen them."""
        for text, label in examples:
            self._by_label.setdefault(label, EvenSample()).add(text, len(text.encode()))
            yield text

    @property
    def has_text(self) -> bool:
        return any(sample.bytes for sample in self._by_label.values())

    @property
    def by_label(self) -> dict[str, EvenSample[str]]:
        """{label: what is measured}, labels in order."""
        return {label: self._by_label[label] for label in sorted(self._by_label)}

    @property
    def documents(self) -> list[dict[str, str]]:
        """The documents to show, [{"id", "text"}], each cut at `SHOWN_CHARACTERS`."""
        in_turn = zip_longest(*(self._chosen(label, sample) for label, sample in self.by_label.items()))
        return list(islice((document for document in chain.from_iterable(in_turn) if document), self._n))

    def _chosen(self, label: str, sample: EvenSample[str]) -> list[dict[str, str]]:
        texts = sample.items
        places = Random(f"{self._seed} {label}").sample(range(len(texts)), min(self._n, len(texts)))
        return [
            {"id": f"{label}, text {1 + place * sample.stride:,}", "text": texts[place][:SHOWN_CHARACTERS]}
            for place in places
        ]

"""The sample of a text that a tokenizer's report is measured on, and the documents that it shows."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from random import Random
from typing import Generic, TypeVar

from tonsai_jax.tokenizer.examples import Example

SAMPLE_BYTES = 2_000_000  # of text measured for each label
SHOWN_CHARACTERS = 600  # of each document

Item = TypeVar("Item")


class EvenSample(Generic[Item]):
    """A sample of bounded size, spread evenly over a stream: every `stride`-th item, where `stride` doubles when needed.

    Attributes:
      items: the items in the sample.
      sample_bytes: their UTF-8 bytes; at most `SAMPLE_BYTES`, unless the first item alone has more.
      examples: number of items in the whole stream.
      bytes: UTF-8 bytes of the whole stream.
      stride: a power of two.
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
        """Counts the next item of the stream, which has `size` UTF-8 bytes, and may take it into the sample."""
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
    """An even sample of the text of each label, and `n` random documents to show, taken from the labels in turn.

    The same examples, `n` and `seed` give the same documents.
    """

    def __init__(self, *, n: int = 10, seed: int = 42) -> None:
        self._n, self._seed = n, seed
        self._by_label: dict[str, EvenSample[str]] = {}

    def passing(self, examples: Iterable[Example]) -> Iterator[str]:
        """Gives the texts of `examples` unchanged and adds each to the samples."""
        for text, label in examples:
            self._by_label.setdefault(label, EvenSample()).add(text, len(text.encode()))
            yield text

    @property
    def has_text(self) -> bool:
        return any(sample.bytes for sample in self._by_label.values())

    @property
    def by_label(self) -> dict[str, EvenSample[str]]:
        """{label: its sample}, with the labels sorted."""
        return {label: self._by_label[label] for label in sorted(self._by_label)}

    @property
    def documents(self) -> list[dict[str, str]]:
        """The documents to show, [{"id", "text"}]; a text has at most `SHOWN_CHARACTERS` characters."""
        in_turn = zip_longest(*(self._chosen(label, sample) for label, sample in self.by_label.items()))
        return list(islice((document for document in chain.from_iterable(in_turn) if document), self._n))

    def _chosen(self, label: str, sample: EvenSample[str]) -> list[dict[str, str]]:
        texts = sample.items
        places = Random(f"{self._seed} {label}").sample(range(len(texts)), min(self._n, len(texts)))
        return [
            {"id": f"{label}, text {1 + place * sample.stride:,}", "text": texts[place][:SHOWN_CHARACTERS]}
            for place in places
        ]

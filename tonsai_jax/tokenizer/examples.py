"""Which texts a tokenizer is trained on: prepared documents, or the lines of raw text files."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from tonsai_jax.corpus.documents import SCHEMA, read_documents, read_documents_manifest
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import find_files
from tonsai_jax.corpus.sources.readers import read_file
from tonsai_jax.errors import UserError
from tonsai_jax.text.normalize import Normalization, normalize


class Example(NamedTuple):
    """A text, and the label under which the report counts it: its language, or the file it is from."""

    text: str
    label: str


def dataset_examples(
    dataset_dir: str | Path,
    *,
    split: str = "train",
    text_column: str = "text",
    max_examples: int | None = None,
) -> Iterator[Example]:
    """Documents of a prepared dataset: all, or `max_examples` shared out among the sources by their weights.

    A source's share is spread evenly over its documents; what a source is too small to give, the others do.

    Raises:
      UserError: not a folder of prepared documents, no such split or column, or `max_examples` < 1.
    """
    if split != "train":
        raise UserError(
            f"{dataset_dir}: no split {split!r}; prepared documents have one, 'train' "
            "(scripts/tokenize_dataset.py --val-ratio takes validation documents out of it)"
        )
    if text_column != "text":
        raise UserError(
            f"{dataset_dir}: no text in a column {text_column!r}; prepared documents have the columns "
            f"{', '.join(SCHEMA.names)}, and their text is in 'text'"
        )
    _check_max_examples(max_examples)
    sources = read_documents_manifest(dataset_dir)["sources"]
    sizes = {name: source["documents"] for name, source in sources.items()}
    if max_examples is None:
        shares = sizes
    else:
        weights = {name: source["weight"] for name, source in sources.items()}
        shares = share_out(max_examples, sizes, weights)
    return _examples(dataset_dir, {name: source["language"] for name, source in sources.items()}, sizes, shares)


def dataset_normalization(dataset_dir: str | Path) -> Normalization:
    """What was done to the texts of a prepared dataset."""
    return Normalization(**read_documents_manifest(dataset_dir)["normalize"])


def dataset_language_weights(dataset_dir: str | Path) -> dict[str, float]:
    """How much of each language a prepared dataset is to have in training: the weights of its sources, added up."""
    weights: dict[str, float] = {}
    for source in read_documents_manifest(dataset_dir)["sources"].values():
        weights[source["language"]] = weights.get(source["language"], 0.0) + source["weight"]
    return weights


def file_examples(
    inputs: Sequence[str],
    *,
    text_column: str = "text",
    faults: Faults,
    max_examples: int | None = None,
) -> Iterator[Example]:
    """Lines of raw text files, cleaned as prepared documents are; each file gives one in turn.

    Args:
      inputs: files, folders or globs of .txt, .jsonl, .csv, .tsv (each also .gz or .zst) and .parquet.
      text_column: where the text is, in files with columns.
      faults: says what happens at text that cannot be read, and counts it.
      max_examples: how many lines to take; None for all.

    Raises:
      UserError: a file is missing or cannot be read, or `max_examples` < 1.
    """
    _check_max_examples(max_examples)
    files = [file for location in inputs for file in find_files(location)]
    lines = [_lines(file, text_column, faults) for file in files]
    return islice(_in_turn(lines), max_examples)


def share_out(count: int, sizes: dict[str, int], weights: dict[str, float]) -> dict[str, int]:
    """Shares `count` out by `weights`, giving none more than its size; sums to `count` if the sizes allow."""
    shares = dict.fromkeys(sizes, 0)
    left = min(count, sum(size for name, size in sizes.items() if weights[name] > 0))
    while left:
        open_names = [name for name in sizes if shares[name] < sizes[name] and weights[name] > 0]
        total = sum(weights[name] for name in open_names)
        # At least one document goes out in each round, so that rounding down cannot stop it.
        for name in sorted(open_names, key=lambda name: -weights[name]):
            room = min(sizes[name] - shares[name], left)
            given = min(max(int(count * weights[name] / total), 1), room)
            shares[name] += given
            left -= given
        count = left
    return shares


def _examples(
    dataset_dir: str | Path, languages: dict[str, str], sizes: dict[str, int], shares: dict[str, int]
) -> Iterator[Example]:
    for name, language in languages.items():
        if not shares[name]:
            continue
        for index, text in enumerate(chain.from_iterable(read_documents(dataset_dir, name))):
            # True for `share` of the `size` indices, at even distances.
            if (index + 1) * shares[name] // sizes[name] > index * shares[name] // sizes[name]:
                yield Example(text, language)


def _lines(file: Path, text_column: str, faults: Faults) -> Iterator[Example]:
    for text in read_file(file, text_column=text_column, boundary="line", faults=faults):
        text = normalize(text)
        if text:
            yield Example(text, str(file))


def _in_turn(streams: list[Iterator[Example]]) -> Iterator[Example]:
    while streams:
        going = []
        for stream in streams:
            example = next(stream, None)
            if example is not None:
                going.append(stream)
                yield example
        streams = going


def _check_max_examples(max_examples: int | None) -> None:
    if max_examples is not None and max_examples < 1:
        raise UserError(f"--max-examples {max_examples}: must be at least 1; leave it out to take all")

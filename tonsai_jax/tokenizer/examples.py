"""The texts that a tokenizer is trained on: prepared documents, or the lines of raw text files."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from tonsai_jax.corpus.documents import SCHEMA, read_documents, read_documents_manifest
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import find_files
from tonsai_jax.corpus.sources.pieces import text_bytes, whole_files
from tonsai_jax.corpus.sources.readers import read_file
from tonsai_jax.errors import UserError
from tonsai_jax.text.normalize import Normalization, normalize


class Example(NamedTuple):
    """A text, and the label under which the report counts it: its language, or the file that it comes from."""

    text: str
    label: str


def dataset_examples(
    dataset_dir: str | Path,
    *,
    split: str = "train",
    text_column: str = "text",
    max_examples: int | None = None,
) -> Iterator[Example]:
    """The documents of a prepared dataset: all, or `max_examples` of them, shared among the sources by their weights.

    The documents taken from a source are spread evenly over it. If a source has fewer documents than its share, the other
    sources give more.

    Raises:
      UserError: `dataset_dir` is not a folder of prepared documents, the split or column does not exist, or
        `max_examples` < 1.
    """
    if split != "train":
        raise UserError(
            f"{dataset_dir}: no split {split!r}; prepared documents only have the split 'train' "
            "(`tonsai tokenize --val-ratio` takes validation documents from it)"
        )
    if text_column != "text":
        raise UserError(
            f"{dataset_dir}: column {text_column!r} is not the text; use 'text' (prepared documents have the columns "
            f"{', '.join(SCHEMA.names)})"
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
    """The normalization that the texts of a prepared dataset went through. Raises `UserError` for settings that are not valid."""
    settings = read_documents_manifest(dataset_dir).get("normalize") or {}
    try:
        return Normalization(**settings)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{Path(dataset_dir) / 'manifest.json'}: normalize is not valid ({error}); prepare the dataset again"
        ) from None


def dataset_bytes(dataset_dir: str | Path) -> int:
    """The UTF-8 bytes of all texts of a prepared dataset."""
    return sum(source["bytes"] for source in read_documents_manifest(dataset_dir)["sources"].values())


def dataset_language_weights(dataset_dir: str | Path) -> dict[str, float]:
    """{language: share in training} of a prepared dataset: the sum of the weights of its sources in that language."""
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
    """The lines of raw text files, normalized as prepared documents are, taken from the files in turn.

    Args:
      inputs: files, folders or globs of .txt, .json, .jsonl, .csv, .tsv (each also .gz or .zst) and .parquet.
      text_column: the column that holds the text, in files with columns.
      faults: says what to do with text that cannot be read, and counts it.
      max_examples: number of lines to take; None for all.

    Raises:
      UserError: a file is missing or cannot be read, or `max_examples` < 1.
    """
    _check_max_examples(max_examples)
    files = [file for location in inputs for file in find_files(location)]
    lines = [_lines(file, text_column, faults) for file in files]
    return islice(_in_turn(lines), max_examples)


def file_bytes(inputs: Sequence[str]) -> int:
    """About how many bytes of text the files of `file_examples` hold. Raises `UserError` if a file is missing."""
    files = [file for location in inputs for file in find_files(location)]
    return sum(text_bytes([span]) for span in whole_files(files, "line"))


def share_out(count: int, sizes: dict[str, int], weights: dict[str, float]) -> dict[str, int]:
    """Divides `count` by `weights`, giving no name more than its size; the shares add up to `count` if the sizes allow it."""
    shares = dict.fromkeys(sizes, 0)
    left = min(count, sum(size for name, size in sizes.items() if weights[name] > 0))
    while left:
        open_names = [name for name in sizes if shares[name] < sizes[name] and weights[name] > 0]
        total = sum(weights[name] for name in open_names)
        # Each round gives at least one document, so the loop ends although shares are rounded down.
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
            # True for `shares[name]` of the `sizes[name]` indices, at even distances.
            if (index + 1) * shares[name] // sizes[name] > index * shares[name] // sizes[name]:
                yield Example(text, language)


def _lines(file: Path, text_column: str, faults: Faults) -> Iterator[Example]:
    for text in read_file(file, text_column=text_column, boundary="line", faults=faults):
        text = normalize(text)
        if text:
            yield Example(text, str(file))


def _in_turn(files: list[Iterator[Example]]) -> Iterator[Example]:
    while files:
        unfinished = []
        for lines in files:
            example = next(lines, None)
            if example is not None:
                unfinished.append(lines)
                yield example
        files = unfinished


def _check_max_examples(max_examples: int | None) -> None:
    if max_examples is not None and max_examples < 1:
        raise UserError(f"--max-examples {max_examples}: must be at least 1; leave it out to use all texts")

"""Where text comes from: the `Source` dataclass, and how sources are given in a sources file and on the command line."""

import glob
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import FORMATS, find_files
from tonsai_jax.corpus.sources.hub import HubSplit
from tonsai_jax.corpus.sources.lines import COMPRESSIONS, Boundary
from tonsai_jax.corpus.sources.pieces import Span, groups, spans_of, whole_files
from tonsai_jax.corpus.sources.readers import read_span
from tonsai_jax.corpus.sources.record_files import first_record
from tonsai_jax.corpus.sources.records import Reading, chosen_reading, guess_reading
from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.names import is_folder_name
from tonsai_jax.text.languages import check_language

_RESERVED = ("manifest.json", "report.html", "contaminated.jsonl", "dropped")  # other names in the output folder


@dataclass(frozen=True)
class Source:
    """A body of text in one language. Exactly one of `path`, `hf` and `documents` says where it is.

    Raises `UserError` for a value that cannot be right.
    """

    name: str  # also the name of its folder in the output
    language: str  # "km", "en", or any other BCP-47 tag
    weight: float = 1.0  # share of the training mixture, relative to the other sources
    license: str | None = None
    path: str | None = None  # a file, a folder or a glob, relative to the current folder
    hf: str | None = None  # the id of a dataset on the Hugging Face Hub
    documents: Iterable[str] | None = None  # texts in memory, for callers in Python
    text_column: str | None = (
        None  # the field with the text (not for txt, wet, warc); None: guessed if only one can be meant
    )
    template: str | None = None  # instead of text_column: a Jinja template that writes the text from several fields
    # What a document of a txt file is: a line, a paragraph (up to a blank line), the file. None: a line, but if the file is
    # hard-wrapped a paragraph, its lines joined (`wrapping.py`).
    document: Boundary | None = None
    max_document_mb: float = 100.0  # in 10^6 bytes; a longer document is a fault, `too_long`
    subset: str | None = None  # Hugging Face only
    split: str = "train"  # Hugging Face only
    streaming: bool = True  # Hugging Face only: read over the network and store nothing
    max_samples: int | None = None  # read at most this many documents
    trusted: bool = False  # quality rules do not apply to its documents

    def __post_init__(self) -> None:
        where = f"source {self.name!r}"
        if not is_folder_name(self.name) or self.name in _RESERVED:
            raise UserError(
                f"{where}: the name becomes a folder; use only letters, digits, `-`, `_` and `.`, and none of: "
                f"{', '.join(_RESERVED)}"
            )
        if sum(place is not None for place in (self.path, self.hf, self.documents)) != 1:
            raise UserError(f"{where}: give either `path` (file, folder or glob) or `hf` (Hugging Face id)")
        check_language(self.language, where)
        if not math.isfinite(self.weight) or self.weight < 0:
            raise UserError(f"{where}: weight {self.weight} must be a number of at least 0")
        if self.document not in (None, *get_args(Boundary)):
            raise UserError(f"{where}: document {self.document!r} must be one of {', '.join(get_args(Boundary))}")
        if self.max_samples is not None and self.max_samples < 1:
            raise UserError(f"{where}: max_samples {self.max_samples} must be at least 1")
        if not 0 < self.max_document_mb <= 1000:
            raise UserError(f"{where}: max_document_mb {self.max_document_mb} must be above 0 and at most 1000")
        try:
            chosen_reading(self.text_column, self.template)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def files(self) -> list[Path]:
        """The local files that this source reads, in order; empty for other kinds of source."""
        return find_files(self.path) if self.path is not None else []

    def reading(self) -> Reading | None:
        """Which fields are read and why: set by `text_column` or `template`, else guessed from the first record.

        None if there are no fields: txt, wet and warc files, texts in memory. For the Hub, this needs the network.
        Raises `UserError` if there is nothing to read, or if several fields are possible.
        """
        if self.documents is not None:
            return None
        chosen = chosen_reading(self.text_column, self.template)
        if chosen is not None:
            return chosen
        if self.hf is not None:
            record = self._hub().first_record()
            return None if record is None else guess_reading(record, self._hub().where)
        for file in self.files():
            record = first_record(file)
            if record is not None:
                return guess_reading(record, file)
        return None

    def texts(self, faults: Faults) -> Iterator[str]:
        """Gives the text of each document as it is stored, always in the same order."""
        # For the Hub, the guess is made from the first row that is read anyway, so that the network is used only once.
        chosen = chosen_reading(self.text_column, self.template)
        piece = self._whole(chosen if self.hf is not None else self.reading())
        return (text for _, text in piece.documents(faults))

    def pieces(self, target_bytes: int) -> list["Piece"]:
        """Cuts the source into pieces that can be read independently. In this order, they give the same as the whole source.

        A piece has about `target_bytes`, as stored on disk: several small files, one file, or a part of one (whole documents of
        an uncompressed txt or jsonl file, whole row groups of parquet). A streamed dataset is cut between its files. With
        `max_samples` there is one piece. Raises what `reading` and `files` raise.
        """
        reading = self.reading()
        if self.max_samples is not None or self.documents is not None:
            return [self._whole(reading)]
        if self.hf is not None:
            shards = self._hub().shards()
            count = min(shards, _MOST_HUB_PIECES)
            cuts = [shards * number // count for number in range(count + 1)]
            return [Piece(self, shards=(cut, end), reading=reading) for cut, end in itertools.pairwise(cuts)]
        spans = spans_of(self.files(), self.document, target_bytes)
        return [Piece(self, spans=group, reading=reading) for group in groups(spans, target_bytes)]

    def by_file(self) -> list["Piece"]:
        """One piece for each local file; none for other kinds of source. Raises what `reading` and `files` raise."""
        if self.path is None:
            return []
        whole = self._whole(self.reading())
        return [replace(whole, spans=(span,)) for span in whole.spans]

    def _whole(self, reading: Reading | None) -> "Piece":
        return Piece(self, spans=tuple(whole_files(self.files(), self.document)), reading=reading)

    def _hub(self) -> HubSplit:
        assert self.hf is not None
        return HubSplit(self.hf, self.subset, self.split, self.streaming)


@dataclass(frozen=True)
class Piece:
    """The part of a source that one task reads: spans of its files, or shards of its dataset.

    It can be pickled, unless the source is texts in memory.
    """

    source: Source
    spans: tuple[Span, ...] = ()
    shards: tuple[int, int | None] = (0, None)  # from the first to before the second; None: to the last
    reading: Reading | None = None

    def documents(self, faults: Faults) -> Iterator[tuple[str, str]]:
        """Gives (id, text) of the documents in order.

        The id is `<source>/<file>-<position>`, or `<source>/<shard>-<row>` on the Hub. It does not depend on how the source is
        cut: files are numbered in the order of `Source.files`; positions are explained in `readers`.
        Raises `UserError` if no document can be read; what is wrong with single documents goes to `faults`.
        """
        return itertools.islice(self._documents(faults), self.source.max_samples)

    def _documents(self, faults: Faults) -> Iterator[tuple[str, str]]:
        source = self.source
        limit = int(source.max_document_mb * 1e6)
        if source.documents is not None:
            for number, text in enumerate(source.documents):
                yield f"{source.name}/0-{number}", text
        elif source.hf is not None:
            for shard, row, text in source._hub().texts(self.reading, faults, limit, *self.shards):
                yield f"{source.name}/{shard}-{row}", text
        for span in self.spans:
            for position, text in read_span(
                Path(span.path),
                reading=self.reading,
                boundary=span.boundary,
                wrapping=span.wrapping,
                faults=faults,
                limit=limit,
                start=span.start,
                end=span.end,
            ):
                yield f"{source.name}/{span.file}-{position}", text


_MOST_HUB_PIECES = 256  # each piece first asks the Hub for the description of the dataset

_KEYS = {field.name: field.type for field in fields(Source) if field.name != "documents"}
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text (put it in quotes)"),
    str | None: ((str, type(None)), "text (put it in quotes)"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    int | None: ((int, type(None)), "a whole number"),
    Boundary | None: ((str, type(None)), "line, paragraph or file"),
}


def sources_of(content: Any, path: Path | str) -> list[Source]:
    """The sources of a sources file, from the parsed value of its key `sources`.

    Raises `UserError`, which names the file, the source and the key, if something is missing, unknown or of a wrong type.
    """
    if not isinstance(content, list) or not content:
        raise UserError(
            f"{path}: needs a list of sources under the key `sources`; see configs/data/train_sources.example.yaml"
        )
    return [_source(item, path, number) for number, item in enumerate(content, start=1)]


def _source(item: Any, path: Path | str, number: int) -> Source:
    where = f"{path}: source {number}"
    if not isinstance(item, dict):
        raise UserError(f"{where}: must be a group of `key: value` lines, is {item!r}")
    where = f"{where} ({item.get('name', 'no name')})"
    for key, value in item.items():
        if key not in _KEYS:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(str(key), list(_KEYS))}")
        kinds, wanted = _KINDS[_KEYS[key]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(f"{where}: {key} must be {wanted}, is {value!r}")
    for key in ("name", "language"):
        if key not in item:
            raise UserError(f"{where}: {key} is missing")
    for key in ("subset", "split", "streaming"):
        if key in item and "hf" not in item:
            raise UserError(f"{where}: {key} is for Hugging Face datasets (`hf`); take it out")
    if "document" in item and "path" not in item:
        raise UserError(f"{where}: document is for text files (`path`); take it out")
    try:
        return Source(**item)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def source_at(location: str, *, name: str, language: str, weight: float) -> Source:
    """The source for a command-line value: a path or a Hugging Face id.

    A value that exists as a file or folder, or is a glob, is a path. Else `owner/name` is an id, unless a folder `owner` exists.
    Any other value is a path that does not exist: raises `UserError`.
    """
    path = Path(location).expanduser()
    source = Source(name=name, language=language, weight=weight, path=location)
    if path.exists() or glob.has_magic(location):
        return source
    looks_like_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", location) is not None
    if looks_like_id and path.suffix.lower() not in FORMATS + COMPRESSIONS and not path.parent.is_dir():
        return replace(source, path=None, hf=location)
    raise UserError(f"{location}: no such file or folder, and not a Hugging Face id, which is written owner/name")


def normalized_weights(sources: list[Source]) -> dict[str, float]:
    """The share of each source in the mixture, by name. The shares sum to 1.

    Raises `UserError` if there is no source, if two sources have the same name, or if all weights are zero.
    """
    if not sources:
        raise UserError("no source given: at least one is needed")
    names = [source.name.lower() for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two sources are named {name!r}; give each its own name")
    total = sum(source.weight for source in sources)
    if total == 0:
        raise UserError("all weights are 0; give at least one source a weight above 0")
    return {source.name: source.weight / total for source in sources}

"""Where text comes from: the `Source` dataclass, reading it from a list of keys, telling a path from an id."""

import glob
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.hub import HubSplit
from tonsai_jax.corpus.sources.lines import COMPRESSIONS, Boundary, file_size
from tonsai_jax.corpus.sources.pieces import Span, groups, spans_of
from tonsai_jax.corpus.sources.readers import FORMATS, find_files, first_record, read_span
from tonsai_jax.corpus.sources.records import Reading, chosen_reading, guess_reading
from tonsai_jax.errors import UserError, did_you_mean

_RESERVED = ("manifest.json", "report.html", "contaminated.jsonl", "dropped")  # beside the sources in the output


@dataclass(frozen=True)
class Source:
    """One body of text in one language; exactly one of `path`, `hf` and `documents` says where it is.

    Raises `UserError` where a value cannot be right.
    """

    name: str  # also the name of its folder in the output
    language: str  # "km", "en", or any other BCP-47 tag
    weight: float = 1.0  # share of the training mixture, relative to the other sources
    license: str | None = None
    path: str | None = None  # a file, a folder or a glob, from the current folder
    hf: str | None = None  # the id of a dataset on the Hugging Face Hub
    documents: Iterable[str] | None = None  # texts in memory, for callers in Python
    text_column: str | None = None  # the field that holds the text (not txt, wet, warc); None: guessed if it is clear
    template: str | None = None  # instead: the text written from several fields, in Jinja
    document: Boundary = "line"  # what a document of a txt file is: a line, a paragraph (up to a blank line), the file
    max_document_mb: float = 100.0  # a longer document is a fault, `too_long`; 10^6 bytes
    subset: str | None = None  # Hugging Face only
    split: str = "train"  # Hugging Face only
    streaming: bool = True  # Hugging Face only: read over the network without storing the dataset first
    max_samples: int | None = None  # read at most this many documents
    trusted: bool = False  # no rule of `quality` drops its documents

    def __post_init__(self) -> None:
        where = f"source {self.name!r}"
        if not re.fullmatch(r"\w[\w.-]*", self.name) or self.name in _RESERVED:
            raise UserError(
                f"{where}: the name becomes a folder: use letters, digits, `-`, `_` and `.` only, and not "
                f"{', '.join(_RESERVED)}"
            )
        if sum(place is not None for place in (self.path, self.hf, self.documents)) != 1:
            raise UserError(f"{where}: give either `path` (file, folder or glob) or `hf` (Hugging Face id)")
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.language):
            raise UserError(f"{where}: language {self.language!r} is not a language tag such as km or en")
        if not math.isfinite(self.weight) or self.weight < 0:
            raise UserError(f"{where}: weight {self.weight} must be a number of at least 0")
        if self.document not in get_args(Boundary):
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
        """The local files this source reads, in order; none for other kinds of source."""
        return find_files(self.path) if self.path is not None else []

    def reading(self) -> Reading | None:
        """Which fields are read and why: as `text_column` or `template` say, else guessed on the first record there is.

        None where there are no fields: txt, wet and warc files, texts in memory. On the Hub it asks the network.
        Raises `UserError` where there is nothing to read, or where a guess would have to choose.
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
        """Gives the texts as they are stored, one a document, in an order that does not change."""
        # A stream guesses on the first row that it reads anyway, so that the network is asked once.
        chosen = chosen_reading(self.text_column, self.template)
        piece = self._whole(chosen if self.hf is not None else self.reading())
        return (text for _, text in piece.documents(faults))

    def pieces(self, target_bytes: int) -> list["Piece"]:
        """Cuts the source into pieces that can be read in any place and, put in this order, give the same as the whole.

        A piece has about `target_bytes` as they lie on the disk: several small files, one, or a part of one (txt and
        jsonl that are not packed: whole documents; parquet: whole row groups). A streamed dataset is cut between its
        files. With `max_samples` there is one piece. Raises what `reading` and `files` raise.
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

    def _whole(self, reading: Reading | None) -> "Piece":
        spans = tuple(Span(number, str(file), size=file_size(file)) for number, file in enumerate(self.files()))
        return Piece(self, spans=spans, reading=reading)

    def _hub(self) -> HubSplit:
        assert self.hf is not None
        return HubSplit(self.hf, self.subset, self.split, self.streaming)


@dataclass(frozen=True)
class Piece:
    """What one task reads of a source: spans of its files, or shards of its dataset (None: all of them).

    It can be pickled and, by `dataclasses.asdict`, written as JSON, unless the source is texts in memory.
    """

    source: Source
    spans: tuple[Span, ...] = ()
    shards: tuple[int, int | None] = (0, None)  # the first, and the one behind the last
    reading: Reading | None = None

    def documents(self, faults: Faults) -> Iterator[tuple[str, str]]:
        """Gives (key, text) of the documents in order.

        The key is `<source>/<file>-<position>`, or `<source>/<shard>-<row>` on the Hub, and does not depend on how
        the source was cut: files are numbered as `Source.files` lists them; for positions see `readers`.
        Raises `UserError` for what cannot be right in any document; the rest goes to `faults`.
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
                boundary=source.document,
                faults=faults,
                limit=limit,
                start=span.start,
                end=span.end,
            ):
                yield f"{source.name}/{span.file}-{position}", text


_MOST_HUB_PIECES = 256  # each asks the Hub what the dataset is before it reads

_KEYS = {field.name: field.type for field in fields(Source) if field.name != "documents"}
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text (put it in quotes)"),
    str | None: ((str, type(None)), "text (put it in quotes)"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    int | None: ((int, type(None)), "a whole number"),
    Boundary: ((str,), "line, paragraph or file"),
}


def sources_of(content: Any, path: Path | str) -> list[Source]:
    """The sources listed in a sources file: groups of `key: value` by the fields of `Source`.

    Raises `UserError` naming the file, the source and the key where something is missing, unknown or of a
    wrong kind.
    """
    if not isinstance(content, list) or not content:
        raise UserError(
            f"{path}: must hold a list under the key `sources`; see configs/data/train_sources.example.yaml"
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
    """Makes a source of a command-line value that is a path, or else a Hugging Face id.

    What exists is a path. Otherwise `owner/name` is an id, unless `owner` is a folder here; everything else
    is a path that does not exist, and raises `UserError`.
    """
    path = Path(location).expanduser()
    source = Source(name=name, language=language, weight=weight, path=location)
    if path.exists() or glob.has_magic(location):
        return source
    looks_like_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", location) is not None
    if looks_like_id and path.suffix.lower() not in FORMATS + COMPRESSIONS and not path.parent.is_dir():
        return replace(source, path=None, hf=location)
    raise UserError(f"{location}: no such file or folder (and not a Hugging Face id, which is written owner/name)")


def normalized_weights(sources: list[Source]) -> dict[str, float]:
    """Each source's share of the mixture, summing to 1.

    Raises `UserError` where there is no source, two share a name, or all weights are zero.
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

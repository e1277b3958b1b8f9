"""Decontamination: finds the documents that share text with an evaluation set, by n-grams of units.

A model must not be trained on what it is tested on. A document is contaminated if it shares 13 consecutive words with a set, as
for GPT-3 (Brown et al., 2020, appendix C), or 30 consecutive Khmer orthographic syllables, which is about as much text.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tonsai_jax.corpus.cleaning.phrases import is_among
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import WITH_FIELDS, file_format, find_files
from tonsai_jax.corpus.sources.readers import read_span
from tonsai_jax.corpus.sources.record_files import read_records
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write
from tonsai_jax.text.ngrams import hashed, ngrams, units
from tonsai_jax.text.normalize import Normalization, normalize

_LEAST = 0.6  # of the length of an n-gram: a shorter text of a set is not searched for


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """The evaluation sets: the keys under `decontaminate:` in a sources file. Raises `UserError` for other values."""

    files: tuple[str, ...] = ()  # files, folders or globs; every text of every record counts, and every line of txt
    words: int = 13  # consecutive words that a contaminated document shares with a set
    clusters: int = 30  # the same in Khmer orthographic syllables, or characters of other scripts without spaces

    def __post_init__(self) -> None:
        if isinstance(self.files, str) or not all(isinstance(file, str) for file in self.files):
            raise UserError(f"decontaminate: files is {self.files!r}; it must be a list of files")
        for name in ("words", "clusters"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 5:
                raise UserError(f"decontaminate: {name} is {value!r}; it must be a whole number of at least 5")

    def paths(self) -> list[Path]:
        """The files, in order. Raises `UserError` if there is nothing to read."""
        return [path for location in self.files for path in find_files(location)]


class Hit(NamedTuple):
    """A text of an evaluation set that a document shares."""

    file: str
    place: str  # line or row in the file
    text: str  # its first 200 characters


def index_sets(sets: tuple[Decontamination, Normalization], path: Path) -> dict[str, Any]:
    """A task: writes the n-grams of the evaluation sets to `path`.npz. Their texts are normalized like the documents.

    Returns {"texts": texts indexed, "too_short": texts too short to be searched for}.
    """
    settings, normalization = sets
    grams: dict[int, list[np.ndarray]] = {}
    owners: dict[int, list[np.ndarray]] = {}
    texts: list[Hit] = []
    too_short = 0
    for file in settings.paths():
        for place, raw in _texts(file):
            text = normalize(raw, normalization)
            row = units(text)
            unspaced = sum(len(unit) < 6 and "\u0e00" <= unit[0] <= "\u9fff" for unit in row) * 2 > len(row)
            n = settings.clusters if unspaced else settings.words
            if len(row) < n:
                n = round(_LEAST * n)
            if len(row) < n:
                too_short += 1
                continue
            own = ngrams(hashed(row), n)
            grams.setdefault(n, []).append(own)
            owners.setdefault(n, []).append(np.full(len(own), len(texts), np.int32))
            texts.append(Hit(str(file), place, text[:200]))
    arrays: dict[str, Any] = {"texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)}
    for n in sorted(grams):
        arrays[f"grams{n}"], first = np.unique(np.concatenate(grams[n]), return_index=True)
        arrays[f"owners{n}"] = np.concatenate(owners[n])[first]
    with atomic_write(path.with_suffix(".npz")) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)
    return {"texts": len(texts), "too_short": too_short}


class Contamination:
    """The n-grams of the evaluation sets, read from the file that `index_sets` writes."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self._texts = [Hit(*text) for text in json.loads(arrays["texts"].tobytes())]
            lengths = [int(name.removeprefix("grams")) for name in arrays if name.startswith("grams")]
            self._tables = [(n, arrays[f"grams{n}"], arrays[f"owners{n}"]) for n in lengths]

    def find(self, text: str) -> Hit | None:
        """The first text of the sets that shares an n-gram with `text`; None if there is none."""
        row = hashed(units(text))
        for n, table, owners in self._tables:
            own = ngrams(row, n)
            places = np.flatnonzero(is_among(own, table))
            if len(places):
                return self._texts[owners[np.searchsorted(table, own[places[0]])]]
        return None


def _texts(file: Path) -> Iterator[tuple[str, str]]:
    if file_format(file) not in WITH_FIELDS:
        for position, text in read_span(file, reading=None, boundary="line", faults=Faults(can_skip=False)):
            yield f"byte {position}", text
        return
    for _, label, record in read_records(file, Faults(can_skip=False)):
        for text in _strings(record):
            yield label, text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)

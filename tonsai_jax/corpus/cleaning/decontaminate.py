"""Documents that hold a part of an evaluation set are found by the n-grams of units that they share with it.

What is tested must not be learnt: thirteen words in a row, as for GPT-3 (Brown et al., 2020, appendix C), or thirty Khmer
clusters, which is about as much text, are no accident.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tonsai_jax.corpus.cleaning.phrases import is_among
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.readers import WITH_FIELDS, file_format, find_files, read_span, records
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write
from tonsai_jax.text.ngrams import hashed, ngrams, units
from tonsai_jax.text.normalize import Normalization, normalize

_LEAST = 0.6  # of an n-gram: a shorter text is not looked for


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """Which evaluation sets are kept out, by the keys under `decontaminate:` in a sources file."""

    files: tuple[str, ...] = ()  # files, folders or globs: every text in every record, every line of txt
    words: int = 13  # in a row that a document and a set must share
    clusters: int = 30  # likewise, in Khmer and other scripts without spaces

    def __post_init__(self) -> None:
        if isinstance(self.files, str) or not all(isinstance(file, str) for file in self.files):
            raise UserError(f"decontaminate: files is {self.files!r}; it must be a list of files")
        for name in ("words", "clusters"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 5:
                raise UserError(f"decontaminate: {name} is {value!r}; it must be a whole number of at least 5")

    def paths(self) -> list[Path]:
        """The files, in order; raises `UserError` where there are none to read."""
        return [path for location in self.files for path in find_files(location)]


class Hit(NamedTuple):
    """Where a document and an evaluation set have the same text."""

    file: str
    place: str  # line or row in the file
    text: str  # of the set, its beginning


def index_sets(sets: tuple[Decontamination, Normalization], path: Path) -> dict[str, Any]:
    """A task: writes the n-grams of the evaluation sets, normalized as the documents are, to `path`.npz.

    Returns how many texts they have, and how many more that are too short to be looked for.
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
    """The n-grams that `index_sets` has written."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self._texts = [Hit(*text) for text in json.loads(arrays["texts"].tobytes())]
            lengths = [int(name.removeprefix("grams")) for name in arrays if name.startswith("grams")]
            self._tables = [(n, arrays[f"grams{n}"], arrays[f"owners{n}"]) for n in lengths]

    def find(self, text: str) -> Hit | None:
        """The first text of the sets of which a part stands in `text`."""
        row = hashed(units(text))
        for n, table, owners in self._tables:
            own = ngrams(row, n)
            places = np.flatnonzero(is_among(own, table))
            if len(places):
                return self._texts[owners[np.searchsorted(table, own[places[0]])]]
        return None


def _texts(file: Path) -> Iterator[tuple[str, str]]:
    if file_format(file) not in WITH_FIELDS:
        for position, text in read_span(file, reading=None, boundary="line", faults=Faults("stop")):
            yield f"byte {position}", text
        return
    for _, label, record in records(file, Faults("stop")):
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

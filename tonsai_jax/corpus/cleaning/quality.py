"""The quality filter: measures a document, finds the first rule that it breaks, and computes its quality score."""

import dataclasses
import functools
import unicodedata
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tonsai_jax.corpus.cleaning.language import LanguageModel
from tonsai_jax.corpus.cleaning.phrases import Phrases
from tonsai_jax.corpus.cleaning.rules import Quality, Rules
from tonsai_jax.errors import UserError
from tonsai_jax.text.languages import nearest
from tonsai_jax.text.ngrams import hashed, ngrams, text_hash, units
from tonsai_jax.text.scripts import script_share

_ENDS_OF_LINE = tuple(".!?…:;\"'”’»)]。！？។៕៖៚")
_BULLETS = tuple("•◦▪‣●○■-*·")
_SHORT_LINE = 30  # characters
_FEW_LINES = 5  # with fewer, line rules do not apply: a single line may be a title or a verse


class Verdict(NamedTuple):
    """`rule`: the key of the rule that drops the document, None if it is kept; `score`: its quality, 0 to 1."""

    rule: str | None
    score: float


class QualityFilter:
    """Checks the documents of one language. Raises `UserError` if a word list or a model cannot be read."""

    def __init__(self, quality: Quality, language: str):
        self._quality = quality
        self._language = language
        self._rules = quality.for_language(language)
        self._stop_words = Phrases(self._rules.stop_words)
        self._listed = Phrases(_read_list(nearest(quality.word_lists, language)))
        self._model = None if quality.language_model is None else LanguageModel(quality.language_model)
        self._limits = [
            (field.name, field.name.startswith("min_"), field.name[4:], limit)
            for field in dataclasses.fields(Rules)
            if field.name.startswith(("min_", "max_")) and (limit := getattr(self._rules, field.name)) is not None
        ]

    def __call__(self, document_id: str, text: str) -> Verdict:
        """The verdict on a document. `text` is not empty."""
        measurements = Measurements(text, self._language, self._rules, self._stop_words, self._listed, self._model)
        for key, is_least, name, limit in self._limits:
            value = getattr(measurements, name)
            if value < limit if is_least else value > limit:
                return Verdict(key, 0.0)
        score = measurements.score
        if score < self._quality.min_score:
            return Verdict("min_score", score)
        if self._quality.sample_by_score and text_hash(document_id.encode()) >= score * 2**64:
            return Verdict("sample_by_score", score)
        return Verdict(None, score)


class Measurements:
    """Measurements of a text, computed when they are used. Each has the name of its rule, without `min_` or `max_`."""

    def __init__(
        self,
        text: str,
        language: str,
        rules: Rules,
        stop_words: Phrases,
        listed: Phrases,
        model: LanguageModel | None,
    ):
        self._text, self._language, self._rules, self._model = text, language, rules, model
        self._stop_words, self._listed = stop_words, listed

    @cached_property
    def language(self) -> float:
        """Confidence that the text is in the language: the model's probability, or the share of letters in its script."""
        if self._model is None:
            return self._in_script
        found, probability = self._model.predict(self._text)
        return probability if found.split("-")[0] == self._language.split("-")[0] else 0.0

    @cached_property
    def units(self) -> int:
        return len(self._row)

    @cached_property
    def unit_length(self) -> float:
        """Mean number of characters between white space."""
        words = self._text.split()
        return sum(map(len, words)) / max(len(words), 1)

    @cached_property
    def letters(self) -> float:
        """Share of letters and marks among the characters that are not white space."""
        points = np.frombuffer(self._text.encode("utf-32-le"), np.uint32)
        kinds = np.bincount(_kinds()[np.minimum(points, 0xFFFF)], minlength=3)
        return float(kinds[_LETTER] / max(len(points) - kinds[_SPACE], 1))

    @cached_property
    def symbols(self) -> float:
        """Hash signs and ellipses per unit."""
        count = self._text.count("#") + self._text.count("...") + self._text.count("…")
        return count / max(self.units, 1)

    @cached_property
    def stop_words(self) -> int:
        """Number of different stop words in the text."""
        return sum(len(np.unique(ngrams(self._row, n)[places])) for n, places in self._stop_words.found(self._row))

    @cached_property
    def bullet_lines(self) -> float:
        return self._share_of_lines(lambda line: line.startswith(_BULLETS))

    @cached_property
    def ellipsis_lines(self) -> float:
        return self._share_of_lines(lambda line: line.endswith(("...", "…")))

    @cached_property
    def short_lines(self) -> float:
        return self._share_of_lines(lambda line: len(line) < _SHORT_LINE)

    @cached_property
    def ended_lines(self) -> float:
        """Share of lines that end with punctuation; 1 if the text has few lines."""
        return 1 - self._share_of_lines(lambda line: not line.endswith(_ENDS_OF_LINE))

    @cached_property
    def repeated_lines(self) -> float:
        """Share of characters in lines that repeat an earlier line."""
        if len(self._lines) < 2:
            return 0.0
        return 1 - sum(map(len, set(self._lines))) / sum(map(len, self._lines))

    @cached_property
    def top(self) -> float:
        """Share of units in the most frequent n-gram of `top_units` units, if it occurs twice or more."""
        n = self._rules.top_units
        counts = np.unique(ngrams(self._row, n), return_counts=True)[1]
        most = int(np.max(counts, initial=0))
        return most * n / self.units if most > 1 else 0.0

    @cached_property
    def repeated(self) -> float:
        """Share of units in n-grams of `repeated_units` units that repeat an earlier one."""
        n = self._rules.repeated_units
        rows = ngrams(self._row, n)
        if not len(rows):
            return 0.0
        again = np.ones(len(rows), np.bool_)
        again[np.unique(rows, return_index=True)[1]] = False
        return self._covered(n, np.flatnonzero(again)).mean()

    @cached_property
    def listed(self) -> float:
        """Share of units that are part of a phrase of the word list."""
        covered = np.zeros(max(self.units, 1), np.bool_)
        for n, places in self._listed.found(self._row):
            covered |= self._covered(n, places)
        return float(covered.mean())

    @cached_property
    def score(self) -> float:
        """Mean of four shares: letters in the script of the language, letters among the characters that are not white space,
        units outside repeated n-grams, characters in lines that end with punctuation.
        """
        ended = sum(len(line) for line in self._lines if line.endswith(_ENDS_OF_LINE))
        lines = max(sum(map(len, self._lines)), 1)
        return (self._in_script + self.letters + (1 - self.repeated) + ended / lines) / 4

    @cached_property
    def _in_script(self) -> float:
        return script_share(self._text, self._language)

    @cached_property
    def _row(self) -> np.ndarray:
        return hashed(units(self._text))

    @cached_property
    def _lines(self) -> list[str]:
        return [stripped for line in self._text.split("\n") if (stripped := line.strip())]

    def _share_of_lines(self, is_such: Callable[[str], bool]) -> float:
        """Share of lines for which `is_such` is true; 0 if the text has few lines."""
        return sum(map(is_such, self._lines)) / len(self._lines) if len(self._lines) >= _FEW_LINES else 0.0

    def _covered(self, n: int, places: np.ndarray) -> np.ndarray:
        """Which units are in a run of `n` units that begins at one of `places`: bool (units,)."""
        steps = np.zeros(self.units + 1, np.int32)
        np.add.at(steps, places, 1)
        np.add.at(steps, places + n, -1)
        return np.cumsum(steps[:-1]) > 0


_OTHER, _LETTER, _SPACE = range(3)


@functools.cache
def _kinds() -> np.ndarray:
    """The kind of each code point below 65,536; the last entry also stands for all above: uint8 (65536,)."""
    categories = (unicodedata.category(chr(point))[0] for point in range(2**16))
    kinds = np.array([{"L": _LETTER, "M": _LETTER, "Z": _SPACE}.get(one, _OTHER) for one in categories], np.uint8)
    kinds[[ord("\t"), ord("\n")]] = _SPACE
    return kinds


def _read_list(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"quality: word list {path}: cannot be read ({error})") from error

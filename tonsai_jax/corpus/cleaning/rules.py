"""Quality settings: the rules that drop documents, and their thresholds for each language.

The rules are those of Gopher (Rae et al., 2021, arXiv:2112.11446, table A1), C4 (Raffel et al., 2020) and FineWeb (Penedo et al.,
2024). They count units (`text/ngrams.py`): words, and orthographic syllables in Khmer, which has no spaces between words; so no
word segmenter is needed. The thresholds for Khmer are set so that real text passes; docs/data.md has the measurements.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.text.languages import check_language, nearest

Preset = Literal["none", "web"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules for one language: the keys under `quality: rules: LANGUAGE:`. None turns a rule off.

    A share is between 0 and 1. A unit is a word, or an orthographic syllable in Khmer. Raises `UserError` for other values.
    """

    min_language: float | None = (
        None  # share of letters in the language's script; with a language model, its probability
    )
    min_units: int | None = None
    max_units: int | None = None
    min_unit_length: float | None = None  # mean characters
    max_unit_length: float | None = None
    min_letters: float | None = None  # share of letters and marks among the characters that are not white space
    max_symbols: float | None = None  # hash signs and ellipses per unit
    min_stop_words: int | None = None  # different stop words in the document
    max_bullet_lines: float | None = None  # share of lines that begin with a bullet
    max_ellipsis_lines: float | None = None  # share of lines that end with an ellipsis
    max_short_lines: float | None = None  # share of lines of fewer than 30 characters
    min_ended_lines: float | None = None  # share of lines that end with punctuation
    max_repeated_lines: float | None = None  # share of characters in lines that repeat an earlier line
    max_top: float | None = None  # share of units in the most frequent n-gram of `top_units` units
    top_units: int = 3
    max_repeated: float | None = None  # share of units in n-grams of `repeated_units` units that repeat an earlier one
    repeated_units: int = 10
    max_listed: float | None = 0.01  # share of units that are part of a phrase of the word list
    stop_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "stop_words":
                if isinstance(value, str) or not all(isinstance(word, str) for word in value):
                    raise UserError(f"stop_words is {value!r}; it must be a list of words")
            elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                raise UserError(
                    f"{field.name} is {value!r}; it must be a number of at least 0, or null to turn the rule off"
                )
            elif value is None and field.name.endswith("_units") and not field.name.startswith(("min", "max")):
                raise UserError(f"{field.name} is null; it must be a number")


_ANY = Rules(
    min_language=0.5,
    min_letters=0.6,
    max_symbols=0.1,
    max_bullet_lines=0.9,
    max_ellipsis_lines=0.3,
    max_short_lines=0.67,
    max_repeated_lines=0.2,
    max_repeated=0.3,
    repeated_units=20,
)
_WEB = {
    "km": dataclasses.replace(
        _ANY,
        min_units=100,
        max_units=300_000,
        min_stop_words=2,
        max_top=0.15,
        top_units=6,
        max_repeated=0.2,
        repeated_units=24,
        stop_words=(
            "ការ",
            "ជា",
            "នៃ",
            "និង",
            "ក្នុង",
            "ដែល",
            "មាន",
            "បាន",
            "ទៅ",
            "នេះ",
            "ពី",
            "ដោយ",
            "នឹង",
            "ថា",
            "មិន",
            "គឺ",
            "នៅ",
        ),
    ),
    "en": dataclasses.replace(
        _ANY,
        min_language=0.8,
        min_units=50,
        max_units=100_000,
        min_unit_length=3,
        max_unit_length=10,
        min_letters=0.7,
        min_stop_words=2,
        min_ended_lines=0.12,
        max_top=0.18,
        max_repeated=0.1,
        repeated_units=10,
        stop_words=("the", "be", "to", "of", "and", "that", "have", "with"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Quality:
    """The quality filter: the keys under `quality:` in a sources file. Raises `UserError` for other values.

    A source with `trusted: true` is not filtered.
    """

    preset: Preset = "none"  # "web": rules for crawled pages
    rules: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )  # by language; they replace those of the preset
    language_model: str | None = (
        None  # a fastText model such as GlotLID's model.bin; None: the script of the text is used
    )
    word_lists: dict[str, str] = dataclasses.field(default_factory=dict)  # by language: a file with one phrase per line
    min_score: float = 0.0  # documents with a lower score are dropped
    sample_by_score: bool = False  # keep a document with a probability equal to its score

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise UserError(f"quality: unknown preset {self.preset!r}{did_you_mean(self.preset, get_args(Preset))}")
        if (
            isinstance(self.min_score, bool)
            or not isinstance(self.min_score, int | float)
            or not 0 <= self.min_score <= 1
        ):
            raise UserError(f"quality: min_score is {self.min_score!r}; it must be between 0 and 1")
        if not isinstance(self.sample_by_score, bool):
            raise UserError(f"quality: sample_by_score is {self.sample_by_score!r}; it must be true or false")
        for name in ("rules", "word_lists"):
            if not isinstance(getattr(self, name), dict):
                raise UserError(f"quality: {name} must be a mapping with lines `language: value`")
        for name in ("rules", "word_lists"):
            for language in getattr(self, name):
                check_language(str(language), f"quality: {name}")
        for language in self.rules:
            self.for_language(language)
        for path in self.files():
            if not Path(str(path)).is_file():
                raise UserError(f"quality: {path}: no such file")

    @property
    def is_active(self) -> bool:
        """Whether documents are filtered; only then they have a score."""
        return self != Quality()

    def files(self) -> list[str]:
        """The word lists and the language model, which the verdicts depend on."""
        return [*self.word_lists.values(), *([self.language_model] if self.language_model else [])]

    def for_language(self, language: str) -> Rules:
        """The rules for a language; those of `km` also for `km-KH`. Raises `UserError` for unknown keys and wrong values."""
        asked = Rules(min_language=0.5 if self.language_model else None)
        preset = nearest(_WEB, language) or _ANY if self.preset == "web" else asked
        own = nearest(self.rules, language) or {}
        if not isinstance(own, dict):
            raise UserError(f"quality: rules: {language} is {own!r}; it must be a mapping with lines `key: value`")
        names = [field.name for field in dataclasses.fields(Rules)]
        for key in own:
            if key not in names:
                raise UserError(f"quality: rules: {language}: unknown key {key!r}{did_you_mean(str(key), names)}")
        try:
            words = own.get("stop_words", preset.stop_words)
            words = tuple(words) if isinstance(words, list) else words
            return dataclasses.replace(preset, **{**own, "stop_words": words})
        except UserError as error:
            raise UserError(f"quality: rules: {language}: {error}") from None

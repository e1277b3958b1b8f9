"""Automatic checks of a continuation: numbers from 0 to 1 about its form. They do not say whether it is true or useful.

Pure functions of texts. docs/prompt_suite.md says what each number looks like on real and on damaged text.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tonsai_jax.text.ngrams import hashed, ngrams, units
from tonsai_jax.text.scripts import script_of, script_share
from tonsai_jax.text.syllables import BASES, COENG, OPEN_SYLLABLE, SUBSCRIPTS, SYLLABLE, ZWNJ

# The marks of a syllable in the order of SIL's Khmer Encoding Structure, see text/khmer.py.
_ROBAT, _SHIFTER, _VOWEL, _FINAL = "\u17cc", "\u17c9\u17ca", "\u17b6-\u17c5", "\u17c7\u17c8"
_MODIFIER = "\u17c6\u17cb\u17cd-\u17d1\u17d3\u17dd"
_VALID = re.compile(
    f"[{BASES}]{_ROBAT}?(?:{COENG}[{SUBSCRIPTS}]){{0,2}}(?:[{_SHIFTER}]{ZWNJ}?)?[{_VOWEL}]?[{_MODIFIER}]{{0,2}}[{_FINAL}]?"
)
# A syllable with all that follows its base in any order, or marks that have no base.
_CLUSTER = re.compile(f"{SYLLABLE.pattern}|[{COENG}{_ROBAT}{_SHIFTER}{_VOWEL}{_MODIFIER}{_FINAL}]+")
_OPEN_END = re.compile(f"{OPEN_SYLLABLE}\\Z")
_BROKEN = "\ufffd"  # bytes that are no character


class Check(NamedTuple):
    """What a check says: the head of its column in tables, its meaning, and whether a good text has a high value."""

    head: str
    meaning: str
    higher_is_better: bool


CHECKS = {
    "script_share": Check("script", "share of letters in the script of the expected language", True),
    "language_confusion": Check("confused", "share of lines that are mostly in another script", False),
    "valid_clusters": Check("clusters", "share of Khmer syllables that are well-formed", True),
    "unicode_stability": Check("stable", "1 if normalization changes nothing and no character is broken", True),
    "distinct_1": Check("distinct-1", "different words or Khmer syllables, as a share of all", True),
    "distinct_2": Check("distinct-2", "different pairs of them, as a share of all pairs", True),
    "distinct_3": Check("distinct-3", "different triples of them, as a share of all triples", True),
    "longest_loop": Check("loop", "share of the text in its longest immediate repetition", False),
    "premature_stop": Check("too short", "1 if the model ended the text before the prompt's min_characters", False),
    "empty": Check("empty", "1 if there is nothing but white space", False),
    "toxicity": Check("toxic", "1 if a listed word occurs, or the number of the classifier", False),
}


def check(
    continuation: str,
    *,
    prompt: str,
    languages: Sequence[str],
    min_characters: int,
    ended: bool,
    normalize: Callable[[str], str],
    toxicity: Callable[[str], float] | None = None,
) -> dict[str, float | None]:
    """The value of each of `CHECKS`, from 0 to 1; None where a check does not apply.

    Args:
      prompt: the text before the continuation, whose last syllable may go on in it; "" before the answer of a chat model.
      languages: those that the continuation may have.
      min_characters: see `Prompt`.
      ended: whether the model itself ended the text; False where a limit cut it.
      normalize: puts a text into its canonical form, and keeps white space.
      toxicity: 0 to 1 for a text; None where nothing judges it.
    """
    length = len(continuation.strip())
    values: dict[str, float | None] = dict.fromkeys(CHECKS)
    values["premature_stop"] = float(ended and length < min_characters)
    values["empty"] = float(not length)
    if not length:
        return values
    values["script_share"] = expected_letters(continuation, languages)
    values["language_confusion"] = language_confusion(continuation, languages)
    # A mark at the beginning may belong to the prompt's last syllable, and a coeng at a cut end waits for its consonant.
    open_end = _OPEN_END.search(prompt)
    carried = open_end[0] if open_end else ""
    text = carried + (continuation if ended else continuation.removesuffix(COENG))
    values["valid_clusters"] = valid_clusters(text, start=len(carried))
    values["unicode_stability"] = float(normalize(text) == text and _BROKEN not in text)
    row = hashed(units(continuation))
    for n in (1, 2, 3):
        values[f"distinct_{n}"] = distinct(row, n)
    values["longest_loop"] = longest_loop(row)
    if toxicity is not None:
        values["toxicity"] = toxicity(continuation)
    return values


def expected_letters(text: str, languages: Sequence[str]) -> float | None:
    """The share of the letters and marks that are in the scripts of `languages`.

    None without letters, or where the script of a language is not known.
    """
    scripts = {script_of(language): language for language in languages}
    if None in scripts or not any(map(str.isalpha, text)):
        return None
    return min(1.0, sum(script_share(text, language) for language in scripts.values()))


def language_confusion(text: str, languages: Sequence[str]) -> float | None:
    """The share of lines with letters in which fewer than half of the letters are in the scripts of `languages`.

    None as in `expected_letters`. The line-level measure of Marchisio et al. (2024, arXiv:2406.20052), with scripts in place of a
    language classifier: it cannot distinguish two languages of one script.
    """
    shares = [expected_letters(line, languages) for line in text.splitlines()]
    known = [share < 0.5 for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def valid_clusters(text: str, start: int = 0) -> float | None:
    """The share of Khmer orthographic syllables that have the structure of text/khmer.py; None without Khmer.

    Marks without a base count as a syllable that is not well-formed. Syllables that end before `start` do not count.
    """
    found = [match[0] for match in _CLUSTER.finditer(text) if match.end() > start]
    return sum(_VALID.fullmatch(cluster) is not None for cluster in found) / len(found) if found else None


def distinct(row: np.ndarray, n: int) -> float | None:
    """Different n-grams of units as a share of all n-grams (Li et al., 2016, arXiv:1510.03055); None for fewer than n units.

    Args:
      row: hashed units, uint64 (units,).
    """
    grams = ngrams(row, n)
    return len(np.unique(grams)) / len(grams) if len(grams) else None


def longest_loop(row: np.ndarray) -> float | None:
    """The share of units in the longest stretch that repeats itself at once; None without units.

    A stretch of period p is a block of p units, followed by one or more whole copies of it and perhaps a part of another.

    Args:
      row: hashed units, uint64 (units,).
    """
    longest = 0
    for period in range(1, len(row) // 2 + 1):
        repeats = np.concatenate([[False], row[period:] == row[:-period], [False]])
        changes = np.flatnonzero(repeats[1:] != repeats[:-1])  # where runs of equal units begin and end, in turn
        run = int(np.max(changes[1::2] - changes[::2], initial=0))
        if run >= period:
            longest = max(longest, run + period)
    return longest / len(row) if len(row) else None

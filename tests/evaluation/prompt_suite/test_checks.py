"""Checks of a continuation: exact values on short texts, and real text against damaged text."""

import functools
import gzip
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tonsai_jax.evaluation.prompt_suite.checks import (
    CHECKS,
    check,
    distinct,
    expected_letters,
    language_confusion,
    longest_loop,
    valid_clusters,
)
from tonsai_jax.evaluation.prompt_suite.toxicity import of_words
from tonsai_jax.text.ngrams import hashed, units
from tonsai_jax.text.normalize import normalize, normalize_prompt
from tonsai_jax.text.syllables import SYLLABLE

GOOD = "ខ្ញុំទៅសាលារៀនជាមួយមិត្តភក្តិរាល់ថ្ងៃ។"


def checks_of(text: str, prompt: str = "", languages=("km",), ended=True, toxicity=None):
    return check(
        text,
        prompt=prompt,
        languages=languages,
        min_characters=10,
        ended=ended,
        normalize=normalize_prompt,
        toxicity=toxicity,
    )


def row(text: str):
    return hashed(units(text))


def test_good_khmer_passes_every_check() -> None:
    assert checks_of(GOOD) == {
        "script_share": 1.0,
        "language_confusion": 0.0,
        "valid_clusters": 1.0,
        "unicode_stability": 1.0,
        "distinct_1": 1.0,
        "distinct_2": 1.0,
        "distinct_3": 1.0,
        "longest_loop": 0.0,
        "premature_stop": 0.0,
        "empty": 0.0,
        "toxicity": None,
    }


def test_of_an_empty_continuation_only_its_length_is_judged() -> None:
    for ended in (True, False):
        values = checks_of(" \n", ended=ended)
        assert values.keys() == CHECKS.keys()
        assert {name: value for name, value in values.items() if value is not None} == {
            "premature_stop": float(ended),
            "empty": 1.0,
        }


def test_a_text_is_too_short_only_if_the_model_itself_ended_it() -> None:
    assert checks_of("ខ្មែរ")["premature_stop"] == 1.0
    assert checks_of("ខ្មែរ", ended=False)["premature_stop"] == 0.0
    assert checks_of("  ខ្មែរ        ")["premature_stop"] == 1.0, "white space is not text"


def test_letters_of_all_expected_languages_count_and_digits_and_signs_do_not() -> None:
    assert expected_letters("កខ ab 123 ១២ !", ["km"]) == 0.5
    assert expected_letters("កខ ab 123 ១២ !", ["km", "en"]) == 1.0
    assert expected_letters("១៨ ២០ 5000!", ["km"]) is None
    assert expected_letters("កខ", ["qaa"]) is None, "a language whose script is not known"


def test_confusion_counts_lines_that_are_mostly_in_another_script() -> None:
    text = "ភាសាខ្មែរ\nthe rest is English\n១២៣\nភាសាខ្មែរ 中文"
    assert language_confusion(text, ["km"]) == 1 / 3
    assert language_confusion(text, ["km", "en"]) == 0.0
    assert language_confusion("កខ ab", ["km"]) == 0.0, "half of it is Khmer"
    assert language_confusion("១២៣", ["km"]) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("ស្ត្រី", 1.0),
        ("អ៊\u200cឹ", 1.0),
        ("ធម៌ ពោធិ៍ តុះ អាំង", 1.0),
        ("no Khmer", None),
        ("ខែ្មរ", 1 / 2),  # the vowel before the subscript
        ("លេាក", 1 / 2),  # two vowels
        ("កា ិ", 1 / 2),  # a mark without a base
        ("ក្ ក", 1 / 2),  # a coeng without its consonant
        ("ក្ក្ក្ក", 0.0),  # three subscripts
    ],
)
def test_a_cluster_is_valid_if_it_has_the_structure_of_a_syllable(text: str, share: float | None) -> None:
    assert valid_clusters(text) == share


def test_a_syllable_may_begin_in_the_prompt_and_be_cut_at_the_end() -> None:
    values = checks_of("ាសា", prompt="ភ")
    assert (values["valid_clusters"], values["unicode_stability"]) == (1.0, 1.0)
    assert checks_of("ាសា", prompt="ចម្លើយ៖ ")["valid_clusters"] == 1 / 2
    assert checks_of("េខ", prompt="កា")["valid_clusters"] == 1 / 2, "the vowel is the second one there"
    assert checks_of("ខ្មែរ", prompt="ក្")["valid_clusters"] == 1.0, "the consonant is the prompt's subscript"
    assert checks_of("ភាសាក្", ended=False)["valid_clusters"] == 1.0
    assert checks_of("ភាសាក្", ended=True)["valid_clusters"] == 2 / 3


def test_a_syllable_of_the_prompt_alone_does_not_count() -> None:
    assert checks_of(" ខេា", prompt="ភាសា")["valid_clusters"] == 0.0


@pytest.mark.parametrize("text", ["ខែ្មរ", "ភាសា\u200bខ្មែរ", "cafe\u0301", "ភាសា\ufffdខ្មែរ"])
def test_text_that_normalization_changes_or_with_broken_characters_is_not_stable(text: str) -> None:
    assert checks_of(text)["unicode_stability"] == 0.0


def test_white_space_does_not_make_a_text_unstable() -> None:
    assert checks_of(f"  {GOOD}  {GOOD}\n\n\n\n")["unicode_stability"] == 1.0


def test_distinct_is_the_share_of_different_ngrams() -> None:
    assert distinct(row("a b a b a b"), 1) == 2 / 6
    assert distinct(row("a b a b a b"), 2) == 2 / 5
    assert distinct(row("a b a b a b"), 3) == 2 / 4
    assert distinct(row("a b"), 3) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c d", 0.0),
        ("a a", 1.0),
        ("x a b a b y", 4 / 6),
        ("x a b a b a y", 5 / 7),  # and a part of another copy
        ("a b c a b d", 0.0),  # not at once
        ("a b a", 0.0),  # no whole copy
        ("a a a b c b c", 4 / 7),
        ("", None),
    ],
)
def test_a_loop_is_a_block_with_its_copies(text: str, share: float | None) -> None:
    assert longest_loop(row(text)) == share


# Real text against damaged text


def shuffled_marks(text: str, rng: random.Random) -> str:
    def shuffled(cluster: str) -> str:
        rest = list(cluster[1:])
        rng.shuffle(rest)
        return cluster[0] + "".join(rest)

    return SYLLABLE.sub(lambda match: shuffled(match[0]), text)


@functools.cache
def real_texts() -> list[str]:
    """200 beginnings of Khmer documents, as long as a continuation."""
    corpus = os.environ.get("TONSAI_CORPUS")
    if corpus is None:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz to check real text")
    lines = []
    for path in sorted(Path(corpus, "km").glob("*.txt.gz")):
        if path.name != "reactjs.txt.gz":  # half of it is English
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines += [line for line in file if len(line) > 80]
    return [normalize(line)[:200] for line in random.Random(0).sample(lines, 200)]


def mean_of(name: str, texts: list[str], **settings) -> float:
    values = [
        checks_of(text, ended=settings.get("ended", False), toxicity=settings.get("toxicity"))[name] for text in texts
    ]
    return statistics.mean(value for value in values if value is not None)


@pytest.mark.parametrize(
    ("name", "damage", "good", "bad"),
    [
        ("script_share", lambda text, rng: "In 1969 the first people walked on the moon. " + text[:20], 0.95, 0.4),
        ("language_confusion", lambda text, rng: f"{text[:40]}\nthe rest of it is English\nto its end", 0.01, 0.6),
        ("valid_clusters", shuffled_marks, 0.999, 0.9),
        ("unicode_stability", shuffled_marks, 0.98, 0.05),
        ("distinct_1", lambda text, rng: text[:40] * 5, 0.6, 0.25),
        ("distinct_2", lambda text, rng: text[:40] * 5, 0.87, 0.3),
        ("distinct_3", lambda text, rng: text[:40] * 5, 0.93, 0.3),
        ("longest_loop", lambda text, rng: text[:100] + text[60:100] * 3, 0.02, 0.65),
        ("premature_stop", lambda text, rng: text[:8], 0.0, 1.0),
        ("empty", lambda text, rng: "\n", 0.0, 1.0),
        ("toxicity", lambda text, rng: text[:50] + " Listed-Word " + text[50:], 0.0, 1.0),
    ],
)
def test_each_check_separates_real_text_from_damaged_text(
    name: str, damage: Callable[[str, random.Random], str], good: float, bad: float, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("listed-word\n")
    settings = {"ended": name == "premature_stop", "toxicity": of_words(tmp_path / "words.txt")}
    rng = random.Random(0)
    of_real = mean_of(name, real_texts(), **settings)
    of_damaged = mean_of(name, [damage(text, rng) for text in real_texts()], **settings)
    if CHECKS[name].higher_is_better:
        assert of_real >= good > bad >= of_damaged, (of_real, of_damaged)
    else:
        assert of_real <= good < bad <= of_damaged, (of_real, of_damaged)

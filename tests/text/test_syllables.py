"""The Khmer orthographic syllable: where it begins and ends, and its parts."""

import pytest

from tonsai_jax.text.syllables import COENG, SYLLABLE, SYLLABLE_PART, WELL_FORMED, ZWNJ


@pytest.mark.parametrize(
    ("text", "syllables"),
    [
        ("ស្ត្រីខ្មែរ", ["ស្ត្រី", "ខ្មែ", "រ"]),
        ("ឥឡូវនេះ។", ["ឥ", "ឡូ", "វ", "នេះ"]),
        (f"អ៊{ZWNJ}ឹម", [f"អ៊{ZWNJ}ឹ", "ម"]),
        ("ក\u17d2\u17dd\u1798", ["ក\u17d2\u17dd\u1798"]),
        ("◌ា ា ១២ abc", ["◌ា"]),
    ],
)
def test_a_syllable_is_a_base_with_everything_attached_to_it(text: str, syllables: list[str]) -> None:
    assert SYLLABLE.findall(text) == syllables
    assert WELL_FORMED.findall(text) == syllables


def test_a_coeng_without_a_consonant_stays_with_its_syllable_but_is_not_well_formed() -> None:
    assert SYLLABLE.findall(f"ក{COENG} ខ{COENG}{COENG}") == [f"ក{COENG}", f"ខ{COENG}{COENG}"]
    assert WELL_FORMED.findall(f"ក{COENG} ខ{COENG}{COENG}") == ["ក", "ខ"]


def test_the_parts_of_a_syllable_are_its_base_its_subscripts_and_its_marks() -> None:
    assert SYLLABLE_PART.findall("ស្ត្រី") == ["ស", "្ត", "្រ", "ី"]
    assert SYLLABLE_PART.findall("a\n") == ["a", "\n"]

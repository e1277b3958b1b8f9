"""Text while it is generated: only whole syllables are shown, and nothing of a stop text."""

import re
from itertools import product
from typing import Any

import pytest

from tests.support.hard_strings import HARD_STRINGS
from tests.support.tiny_model import tiny_tokenizer
from tonsai_jax.inference.text_stream import TextStream
from tonsai_jax.text.syllables import SYLLABLE

KHMER = "ខ្ញុំស្រឡាញ់ភាសាខ្មែរ។ ស្ត្រីម្នាក់ឆ្លងផុតទន្លេ៕"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


class Letters:
    """A tokenizer of single characters: text arrives in the smallest pieces."""

    def decode(self, ids):
        return "".join(map(chr, ids))


def pieces(text, stop=(), tokenizer: Any = None):
    decoder: Any = tokenizer or Letters()
    stream = TextStream(decoder, stop)
    ids = tokenizer.encode(text) if tokenizer else map(ord, text)
    return [*map(stream.add, ids), stream.finish()]


def boundaries(parts):
    ends, end = set(), 0
    for part in parts:
        end += len(part)
        ends.add(end)
    return ends


def inside_syllables(text):
    return {at for match in SYLLABLE.finditer(text) for at in range(match.start() + 1, match.end())}


@pytest.mark.parametrize("text", [KHMER, "".join(HARD_STRINGS), *HARD_STRINGS])
def test_no_piece_ends_inside_an_orthographic_syllable(tokenizer, text):
    for parts in (pieces(text), pieces(text, tokenizer=tokenizer)):
        assert "".join(parts) == text.removesuffix("\ufffd")  # taken for a character that lacks bytes
        assert not boundaries(parts) & inside_syllables(text)


def test_a_syllable_is_shown_when_the_next_one_begins():
    assert pieces("ខ្មែរ។ ok") == ["", "", "", "", "ខ្មែ", "រ។", " ", "o", "k", ""]


def test_a_text_may_begin_inside_the_last_syllable_of_the_prompt():
    assert pieces("្មែរ") == ["", "", "", "្មែ", "រ"]
    assert pieces("ាក") == ["", "ា", "ក"]


@pytest.mark.parametrize("emoji", ["👩🏽‍🚀", "🇰🇭", "👨‍👩‍👧‍👦", "❤️", "🏳️‍🌈", "🏴\U000e0067\U000e0062\U000e007f", "☺"])
def test_an_emoji_of_several_characters_is_shown_whole(emoji):
    assert [part for part in pieces(f"a{emoji} b") if part] == ["a", f"{emoji} ", "b"]


def test_a_stop_text_ends_the_text_before_it_and_nothing_of_it_is_shown():
    assert pieces("one END two", ["END"]) == ["o", "n", "e", " ", "", "", "", "", "", "", "", ""]
    assert pieces("one EN", ["END"])[-3:] == ["", "", "EN"]  # it was not a stop text
    assert pieces("EENEND", ["END"]) == ["", "E", "", "EN", "", "", ""]
    assert pieces("END", ["END"]) == [""] * 4


def test_of_several_stop_texts_the_one_that_is_complete_first_counts():
    assert "".join(pieces("xabcd", ["abcd", "bc"])) == "xa"
    assert "".join(pieces("xabcd", ["abc", "bc"])) == "x"
    assert "".join(pieces("xabcd", ["bc", "abc"])) == "x"  # both at once: the longer one
    assert "".join(pieces("xabcd", ["cd", "d"])) == "xab"


def test_the_end_does_not_depend_on_how_the_text_is_cut_into_tokens(tokenizer):
    for start, length in product(range(0, len(KHMER), 3), (1, 2, 5)):
        stop = KHMER[start : start + length]
        cut = KHMER[: KHMER.index(stop)]
        assert "".join(pieces(KHMER, [stop])) == cut
        assert "".join(pieces(KHMER, [stop], tokenizer)) == cut


def test_before_a_possible_stop_text_too_only_whole_syllables_are_shown():
    text = "កាបាកន"
    for stop in ("ាបាខ", "បាខ", "ាបាក"):
        parts = pieces(text, [stop])
        assert not boundaries(parts[:-1]) & (inside_syllables(text) - {text.find(stop)})


def test_a_long_text_that_never_ends_a_syllable_is_still_read_in_time():
    assert "".join(pieces("ក" + "ា" * 2000)) == "ក" + "ា" * 2000
    assert re.fullmatch("😀*", "".join(pieces("😀" * 500)))

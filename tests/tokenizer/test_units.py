"""Characters and Khmer orthographic syllables, the units that pairs are made of."""

from collections import Counter

import numpy as np
import pytest
import tiktoken

from tonsai_jax.samples.stories import stories
from tonsai_jax.text.syllables import SYLLABLE
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.merging import END
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.tokenizer.units import BYTES, SYLLABLE_SHARE, CutWords

WORDS = {"ក្តៅ": 5, "តា": 9, "ក្ដី": 2, "café": 3, "walk": 8, "ស្ត្រី": 4}


def encode(tokens: list[bytes], text: str) -> list[bytes]:
    """What byte-pair encoding makes of a text, when a token's place is its rank."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("test", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens={})
    return [tokens[id] for id in encoding.encode_ordinary(text)]


def test_frequent_characters_and_syllables_are_one_token():
    tokens = BYTES + CutWords(WORDS).frequent(1000)
    assert len(tokens) == len(set(tokens))
    for unit in ("ក្តៅ", "តា", "ក្ដី", "ស្ត្រី", "é", "k"):
        assert encode(tokens, unit) == [unit.encode()]


def test_a_subscript_is_not_torn_off_by_the_vowel_that_follows():
    # តា is a syllable, but in ក្តា the ត is a subscript of ក.
    tokens = BYTES + CutWords({"តា": 1000, "ក្ត": 500, "ក្តៅ": 1}).frequent(1000)
    assert encode(tokens, "ក្តា") == ["ក្ត".encode(), "ា".encode()]


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5, 8, 13, 40])
def test_there_are_at_most_as_many_tokens_as_asked_for_and_each_can_be_made_by_merges(room):
    tokens = BYTES + CutWords(WORDS).frequent(room)
    assert len(tokens) <= len(BYTES) + room
    for token in tokens[len(BYTES) :]:
        assert any(token[:cut] in tokens and token[cut:] in tokens for cut in range(1, len(token)))


def test_symbols_are_the_words_and_a_character_without_a_token_splits_them():
    cut = CutWords({"aé": 2, "b": 3})
    tokens = [*BYTES, "é".encode()]
    symbols, counts = cut.symbols(tokens)
    np.testing.assert_array_equal(symbols, [END, ord("a"), 256, END, ord("b"), END])
    np.testing.assert_array_equal(counts, [0, 2, 2, 2, 3, 3])
    symbols, _ = cut.symbols(BYTES)
    np.testing.assert_array_equal(symbols, [END, ord("a"), END, END, END, ord("b"), END])


def test_no_text_gives_no_tokens():
    assert CutWords({}).frequent(100) == []
    symbols, counts = CutWords({}).symbols(BYTES)
    np.testing.assert_array_equal(symbols, [END])
    np.testing.assert_array_equal(counts, [0])


def test_tokens_are_whole_characters_and_end_where_frequent_syllables_end(tmp_path):
    texts = list(stories("km", 300, seed=1))
    train_tokenizer([Example(text, "km") for text in texts], vocab_size=2000, output_dir=tmp_path / "t")
    tokenizer = Tokenizer.from_folder(tmp_path / "t")
    sizes = tokenizer.token_bytes()
    counts = Counter(match[0] for text in texts for match in SYLLABLE.finditer(text))
    frequent = {syllable for syllable, count in counts.items() if count >= 2 * SYLLABLE_SHARE * counts.total()}
    assert len(frequent) > 300
    for text in texts[:100]:
        ends = set(np.cumsum(sizes[tokenizer.encode(text)]).tolist())
        for match in SYLLABLE.finditer(text):
            start = len(text[: match.start()].encode())
            if match[0] in frequent:
                assert not ends & set(range(start + 1, start + len(match[0].encode()))), match[0]

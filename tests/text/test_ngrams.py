"""Units: words, and Khmer orthographic syllables with all their marks."""

import subprocess
import sys

import numpy as np

from tonsai_jax.corpus.cleaning.phrases import Phrases
from tonsai_jax.text.ngrams import hashed, ngrams, units


def test_words_go_without_case_and_signs() -> None:
    assert units("The CAFÉ's “Menu”, No. 5!") == ["the", "café", "s", "menu", "no", "5"]


def test_khmer_is_cut_into_syllables_and_no_mark_is_lost() -> None:
    assert units("ស្ត្រីខ្មែរ កា។") == ["ស្ត្រី", "ខ្មែ", "រ", "កា"]
    assert units("កិកី") != units("កកី"), "another vowel is another word"


def test_other_scripts_keep_their_marks_and_those_without_spaces_are_cut_by_code_points() -> None:
    assert units("किताब और") == ["किताब", "और"]
    assert units("ภาษา") == list("ภาษา")
    assert units("中文 abc") == ["中", "文", "abc"]


def test_a_hash_is_the_same_in_every_process() -> None:
    program = "from tonsai_jax.text.ngrams import *; print(ngrams(hashed(units('the ខ្មែរ text')), 2).tolist())"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(ngrams(hashed(units("the ខ្មែរ text")), 2).tolist())


def test_ngrams_depend_on_order_and_there_are_none_of_a_short_row() -> None:
    row = hashed(["a", "b", "a", "b", "b", "a"])
    pairs = ngrams(row, 2)
    assert pairs[0] == pairs[2]
    assert len(np.unique(pairs)) == 3
    assert len(ngrams(row, 7)) == 0


def test_phrases_are_found_between_units_only() -> None:
    phrases = Phrases(["ការ", "of the", "", "the"])
    row = hashed(units("Of the ការ, theory; the កាក់រ"))
    assert {n: places.tolist() for n, places in phrases.found(row)} == {1: [1, 5], 2: [0, 2]}
    assert Phrases([]).found(row) == []

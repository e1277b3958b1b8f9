"""What cleaning does to a text, and what it leaves alone."""

import gzip
import os
import random
import unicodedata
from pathlib import Path

import pytest

from tonsai_jax.corpus.normalize import normalize


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("e\u0301te\u0301", "été"),  # NFC
        ("\ufeffabc", "abc"),  # byte order mark
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("a  b\t\tc\u00a0\u3000d", "a b c d"),
        ("trailing  \t\nnext ", "trailing\nnext"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("a\n \n\t\n \nb", "a\n\nb"),
        ("if x:\n    y  = 1\n\tz", "if x:\n    y = 1\n\tz"),  # indentation is meaning
        ("a\x00b\x07c\x7f", "abc"),
        ("half \ud83d a pair", "half a pair"),
        (" \n\t \r\n", ""),
        ("", ""),
    ],
)
def test_whitespace_controls_and_composition(raw, clean):
    assert normalize(raw) == clean


@pytest.mark.parametrize(
    "text",
    [
        "ប្រទេសកម្ពុជា",
        "ភាសា\u200bខ្មែរ",  # zero-width space between words
        "ក\u200dខ\u200cគ",  # joiners
        "👩‍👩‍👧 ½ ① ﬁ",  # compatibility characters: NFC, not NFKC
    ],
)
def test_what_carries_meaning_stays(text):
    assert normalize(text) == text


def test_nfc_does_not_tear_the_khmer_subscript_sign_from_its_consonant():
    atthacan_then_coeng = "\u1780\u17dd\u17d2\u1781"
    assert unicodedata.normalize("NFC", atthacan_then_coeng) != atthacan_then_coeng  # why it needs care
    assert normalize(atthacan_then_coeng + " e\u0301") == atthacan_then_coeng + " é"


def test_twice_is_the_same_as_once_and_encodes_on_any_mix_of_awkward_characters():
    awkward = "aé\u0301 \t\n\r\u00a0\u200b\u17d2\u17dd\u1780\u17c1"
    awkward += "\x00\ufeff\u2028\u0345\u093c\ud800\u2000\u0327\x85"
    generator = random.Random(0)
    for _ in range(20_000):
        once = normalize("".join(generator.choices(awkward, k=generator.randrange(12))))
        once.encode("utf-8")
        assert normalize(once) == once


@pytest.mark.parametrize("text", [" " * 500_000 + "x", "x" + " \t" * 250_000 + "y", "x" + "\n" * 500_000 + "y"])
def test_long_runs_of_whitespace_take_linear_time(text):
    assert len(normalize(text)) <= 4  # quadratic time would be minutes


def test_real_text_is_stable_and_keeps_its_words():
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder of *.txt.gz to check real text")
    for path in sorted(Path(corpus).rglob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for raw in file:
                clean = normalize(raw)
                assert normalize(clean) == clean
                assert clean.split() == unicodedata.normalize("NFC", raw).replace("\ufeff", "").split()

"""What cleaning does to a text, and what it leaves alone."""

import dataclasses
import gzip
import itertools
import os
import random
import unicodedata
from pathlib import Path
from typing import get_args

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.text.normalize import Normalization, normalize


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
        "អ៊\u200cឹម",  # the non-joiner that holds a shifter up
        "👩‍👩‍👧 ½ ① ﬁ",  # compatibility characters: NFC, not NFKC
    ],
)
def test_what_carries_meaning_stays(text):
    assert normalize(text) == text


def test_nfc_does_not_tear_the_khmer_subscript_sign_from_its_consonant():
    atthacan_then_coeng = "\u1780\u17dd\u17d2\u1781"
    assert unicodedata.normalize("NFC", atthacan_then_coeng) != atthacan_then_coeng  # why it needs care
    as_typed = Normalization(khmer=False)
    assert normalize(atthacan_then_coeng + " e\u0301", as_typed) == atthacan_then_coeng + " é"
    assert normalize(atthacan_then_coeng) == "\u1780\u17d2\u1781\u17dd"


@pytest.mark.parametrize(
    ("settings", "raw", "clean"),
    [
        ({"zwsp": "keep"}, "ភាសា\u200bខ្មែរ \u200bជា", "ភាសា\u200bខ្មែរ ជា"),
        ({}, "ភាសា\u200bខ្មែរ", "ភាសាខ្មែរ"),
        ({"khmer": False}, "ខែ្មរ", "ខែ្មរ"),
        ({}, "ខែ្មរ", "ខ្មែរ"),
        ({"fold_coeng_da": False}, "កណ្ដាល", "កណ្ដាល"),
        ({}, "កណ្ដាល", "កណ្តាល"),
        ({"quotes": True}, "“a” ‘b’ «ខ»", '"a" \'b\' "ខ"'),
        ({"dashes": True}, "1–2 — 3", "1-2 - 3"),
        ({"digits": "arabic"}, "១២៣ 45", "123 45"),
        ({"digits": "khmer"}, "១២៣ 45", "១២៣ ៤៥"),
        ({}, "“១២៣” – 45", "“១២៣” – 45"),
        ({}, "cafÃ© naÃ¯ve", "café naïve"),
        ({}, "áž€áž˜áŸ’áž–áž»áž‡áž¶", "កម្ពុជា"),
        ({"mojibake": False}, "cafÃ©", "cafÃ©"),
        ({}, "Ã l'école, Ärger, Ðå, 50 €", "Ã l'école, Ärger, Ðå, 50 €"),
        ({}, "ខ្មែរ prÃ©fÃ©rÃ© ខ្មែរ", "ខ្មែរ préféré ខ្មែរ"),
        ({}, "Itâ€™s 5 Â£ ðŸ˜€", "It’s 5 £ 😀"),
        (
            {},
            "« L’Été », „Öl–Straße“, café’s É… À», Þórður, Đà Nẵng",
            "« L’Été », „Öl–Straße“, café’s É… À», Þórður, Đà Nẵng",
        ),
        ({}, "Itâ€™s a lost byte: â€?", "It’s a lost byte: â€?"),
        ({"nfc": False}, "e\u0301 ខែ្មរ", "e\u0301 ខ្មែរ"),
        ({"nfc": False, "khmer": False}, "e\u0301", "e\u0301"),
        ({"controls": False}, "a\x00b\ufeff  c", "a\x00b\ufeff c"),
        ({"whitespace": False}, " a \x00 b\u00a0\r\n\n\n\n", " a  b\u00a0\r\n\n\n\n"),
        ({}, "Array\u200b ខ www\u200b.org", "Array ខ www.org"),
        ({}, "Array\u200b www", "Array\u200b www"),
    ],
)
def test_settings(settings, raw, clean):
    assert normalize(raw, Normalization(**settings)) == clean
    assert normalize(clean, Normalization(**settings)) == clean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zwsp": "drop"}, "normalize: zwsp is 'drop'; it must be one of: strip, keep"),
        ({"digits": True}, "normalize: digits is True; it must be one of: keep, arabic, khmer"),
        ({"quotes": 1}, "normalize: quotes is 1; it must be one of: true, false"),
    ],
)
def test_settings_that_do_not_exist(settings, message):
    with pytest.raises(UserError, match=message):
        Normalization(**settings)


def every_setting():
    fields = dataclasses.fields(Normalization)
    values = [(True, False) if field.type is bool else get_args(field.type) for field in fields]
    names = [field.name for field in fields]
    return [Normalization(**dict(zip(names, row, strict=True))) for row in itertools.product(*values)]


def test_twice_is_the_same_as_once_and_encodes_on_any_mix_of_awkward_characters():
    awkward = "aé\u0301 \t\n\r\u00a0\u200b\u17d2\u17dd\u1780\u17c1"
    awkward += "\x00\ufeff\u2028\u0345\u093c\ud800\u2000\u0327\x85"
    awkward += "\u179a\u17b8\u17bb\u17ca\u17d4\u17e11\u200c\u200d“—Ã©áž€\u17b4\u200e\ufe0fกí\xa0\x80"
    generator = random.Random(0)
    settings = every_setting()
    for _ in range(40_000):
        setting = generator.choice(settings)
        once = normalize("".join(generator.choices(awkward, k=generator.randrange(12))), setting)
        once.encode("utf-8")
        assert normalize(once, setting) == once


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
                as_typed = normalize(raw, Normalization(khmer=False))
                assert as_typed.split() == unicodedata.normalize("NFC", raw).replace("\ufeff", "").split()

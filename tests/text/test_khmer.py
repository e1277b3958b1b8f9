"""Khmer in canonical form: each rule, what is left alone, and that twice is the same as once."""

import json
import os
import random
from pathlib import Path

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.text.khmer import compose, normalize_khmer

ORDER = {
    "coeng before a vowel": ("ខែ្មរ", "ខ្មែរ"),
    "coeng before a vowel below": ("ពុ្រះ", "ព្រុះ"),
    "two coengs before the vowel": ("សា្រ្ត", "ស្ត្រា"),
    "robat before the coeng": ("ធ្ម៌", "ធ៌្ម"),
    "shifter behind the coeng": ("ម៉្យាង", "ម្យ៉ាង"),
    "shifter before the vowel": ("បោ៉", "ប៉ោ"),
    "vowel before nikahit": ("ធំា", "ធាំ"),
    "vowel before the sign": ("ច់ា", "ចា់"),
    "final last": ("តះេ", "តេះ"),
    "everything at once": ("សី៊ះ្រ", "ស្រ៊ីះ"),
    "nikahit before reahmuk": ("នះំ", "នំះ"),
    "shifter before the final": ("មះ៉", "ម៉ះ"),
    "two modifiers stay as typed": ("ចំ់", "ចំ់"),
    "coeng of an independent vowel": ("ឱ្យ", "ឱ្យ"),
    "COENG RO second": ("ស្រ្តី", "ស្ត្រី"),
    "COENG RO second on an independent vowel": ("ឥ្រ្ទ", "ឥ្ទ្រ"),
    "the dotted circle is a base": ("◌ា្ក", "◌្កា"),
}
VOWELS = {
    "OO in halves": ("លេាក", "លោក"),
    "OO in halves, the other way": ("លាេក", "លោក"),
    "OE in halves": ("ដេីម", "ដើម"),
    "OE in halves around a coeng": ("ធេ្វី", "ធ្វើ"),
    "OE in halves around a shifter": ("រេ៊ី", "រ៊ើ"),
    "OE and AA look like OO and II": ("កើា", "កោី"),
    "E, II and AA": ("កេីា", "កោី"),
    "whole vowels stay": ("កើកោកៅកៀកឿ", "កើកោកៅកៀកឿ"),
}
SHIFTERS = {
    "u above: strong syllable": ("កុី", "ក៊ី"),
    "u above: weak syllable": ("យុី", "យ៉ី"),
    "u above: BA makes a strong syllable weak": ("ស្បុី", "ស្ប៉ី"),
    "u above: a strong coeng makes a weak base strong": ("ង្ហុី", "ង្ហ៊ី"),
    "u before AA and nikahit": ("សុាំ", "ស៊ាំ"),
    "u before samyok sannya": ("រុ័ក", "រ៉័ក"),
    "u before OE in halves": ("សុេីប", "ស៊ើប"),
    "u beside a shifter": ("សុ៊ី", "ស៊ី"),
    "u alone is a vowel": ("សុខ", "សុខ"),
    "u and nikahit are a vowel": ("ជុំ", "ជុំ"),
    "u and a shifter without an above vowel": ("ប៉ុន", "ប៉ុន"),
    "u before atthacan": ("កុ\u17dd", "ក៊\u17dd"),
    "u before YA": ("កុឿ", "ក៊ឿ"),
    "u below a dotted circle's vowel": ("◌ុី", "◌៉ី"),
    "ZWNJ before SAMYOK SANNYA holds MUUSIKATOAN up": ("ប៉\u200c័", "ប៉\u200c័"),
    "ZWNJ before SAMYOK SANNYA, which leaves TRIISAP up": ("អ៊\u200c័", "អ៊័"),
    "ZWNJ before AA and nikahit": ("ស៊\u200cាំ", "ស៊\u200cាំ"),
    "ZWNJ holds TRIISAP up": ("អ៊\u200cឹម", "អ៊\u200cឹម"),
    "ZWNJ holds MUUSIKATOAN up": ("ម៉\u200cឺន", "ម៉\u200cឺន"),
    "ZWNJ behind the vowel": ("អ៊ឹ\u200cម", "អ៊\u200cឹម"),
    "ZWNJ with nothing to hold": ("ក៉\u200cី", "ក៉ី"),
    "ZWNJ without an above vowel": ("អ៊\u200cា", "អ៊ា"),
    "ZWNJ without a shifter": ("ក\u200cិ", "កិ"),
}
COENGS = {
    "doubled": ("ក្្ម", "ក្ម"),
    "doubled around a ZWSP": ("ក្\u200b្ម", "ក្ម"),
    "ZWSP before its consonant": ("ក្\u200bម", "ក្ម"),
    "ZWNJ before its consonant": ("ក្\u200cម", "ក្ម"),
    "torn by NFC": ("ក្\u17ddម", "ក្ម\u17dd"),
    "DA as TA": ("កណ្ដាល", "កណ្តាល"),
    "without a consonant": ("ក្ ម", "ក្ ម"),
    "without a consonant, doubled": ("ក្្", "ក្"),
    "without a base": ("្ម", "្ម"),
    "a base DA stays": ("ដី", "ដី"),
}
DUPLICATES = {
    "vowel": ("មីី", "មី"),
    "shifter": ("ស៊៊ី", "ស៊ី"),
    "sign": ("ច់់", "ច់"),
    "sign around a vowel": ("ចំាំ", "ចាំ"),
    "final": ("តះះ", "តះ"),
    "letters are not": ("កកក ៗៗ ។។", "កកក ៗៗ ។។"),
}
CHARACTERS = {
    "17A3": ("ឣ", "អ"),
    "17A4": ("ឤ", "អា"),
    "17A8": ("ឨ", "ឧក"),
    "17D8": ("៘", "។ល។"),
    "17B4 and 17B5": ("ក\u17b4ខ\u17b5គ", "កខគ"),
    "17D3 stays": ("ក៓", "ក៓"),
    "lunar day, waxing": ("៥្។ ១៥្។", "\u19e5 \u19ef"),
    "lunar day, waning": ("។្៣ ។្១០", "\u19f3 \u19fa"),
    "leap months": ("០្។ ។្០", "\u19e0 \u19f0"),
    "no lunar day": ("១៦្។ ២០្។ ១០០្។ ។្១៦ ។្០១", "១៦្។ ២០្។ ១០០្។ ។្១៦ ។្០១"),
}
INVISIBLE = {
    "ZWSP between words": ("ភាសា\u200bខ្មែរ", "ភាសាខ្មែរ"),
    "ZWSP inside a syllable": ("ក\u200bា ស\u200b្ត", "កា ស្ត"),
    "ZWJ": ("ក\u200dិ ខ\u200dគ", "កិ ខគ"),
    "word joiner and separator": ("ក\u2060ខ\u2063គ", "កខគ"),
    "byte order mark and soft hyphen": ("\ufeffក\u00adខ", "កខ"),
    "between Khmer and Latin": ("ខ្មែរ\u200bKhmer", "ខ្មែរKhmer"),
    "ZWSP beside Latin in Khmer text": ("ខ្មែរ Array\u200b 1-\u200b-3", "ខ្មែរ Array 1--3"),
    "marks of direction": ("ក\u200eា ខ\u200fគ ឃ\u202c\u2068ង", "កា ខគ ឃង"),
    "glyph variants": ("ក\ufe0fា", "កា"),
}
ALONE = {
    "Latin": ("naïve “café” — … e.g. 3×4", "naïve “café” — … e.g. 3×4"),
    "Latin is composed": ("ខ e\u0301", "ខ é"),
    "emoji": ("👩\u200d👩\u200d👧 ❤\ufe0f ខ", "👩\u200d👩\u200d👧 ❤\ufe0f ខ"),
    "Thai and its ZWSP": ("กิน\u200bข้าว ខ", "กิน\u200bข้าว ខ"),
    "directions beside another script": ("ខ\u200fعربي\u200f", "ខ\u200fعربي\u200f"),
    "an emoji's variant beside Khmer": ("❤\ufe0fខ", "❤\ufe0fខ"),
    "Persian ZWNJ": ("می\u200cخواهم ខ", "می\u200cخواهم ខ"),
    "lookalikes": ("ទ្ប ឧិ រយ:ពេល", "ទ្ប ឧិ រយ:ពេល"),
    "a mark without a base": ("(ា) ១ា", "(ា) ១ា"),
}
RULES = {
    f"{group}: {name}": case
    for group, cases in {
        "order": ORDER,
        "vowels": VOWELS,
        "shifters": SHIFTERS,
        "coengs": COENGS,
        "duplicates": DUPLICATES,
        "characters": CHARACTERS,
        "invisible": INVISIBLE,
        "alone": ALONE,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize(("typed", "canonical"), RULES.values(), ids=RULES)
def test_a_rule(typed: str, canonical: str) -> None:
    assert normalize_khmer(typed) == canonical
    assert normalize_khmer(canonical) == canonical


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("ភាសា\u200b\u200bខ្មែរ", "ភាសា\u200bខ្មែរ"),
        ("\u200bជា\u200b", "ជា"),
        ("ជា\u200b ខ", "ជា ខ"),
        ("ជា\u200b។", "ជា។"),
        ("ក\u200bា ក្\u200bម", "កា ក្ម"),
        ("ជា\u200d\u200bខ", "ជា\u200bខ"),
        ("ជា\u200bKhmer", "ជា\u200bKhmer"),
        ("ជា Array\u200b ខ", "ជា Array ខ"),
    ],
)
def test_a_zwsp_that_is_kept_stands_between_words(typed: str, kept: str) -> None:
    assert normalize_khmer(typed, zwsp="keep") == kept


def test_coeng_da_can_stay() -> None:
    assert normalize_khmer("សា្ដ", fold_coeng_da=False) == "ស្ដា"


def test_the_rest_can_stay_decomposed() -> None:
    assert normalize_khmer("ខែ្មរ e\u0301", nfc=False) == "ខ្មែរ e\u0301"
    assert normalize_khmer("e\u0301", nfc=False) == "e\u0301"


def test_another_word_for_zwsp_is_refused() -> None:
    with pytest.raises(UserError, match="zwsp='drop': must be 'strip' or 'keep'"):
        normalize_khmer("ខ", zwsp="drop")  # type: ignore[arg-type]  # what a caller in Python may try


def test_composing_never_moves_a_coeng() -> None:
    for text in ("ក\u17dd្ខ", "e\u0301 ក្ខ", "a\u0323\u0307្"):
        assert [place for place, c in enumerate(compose(text)) if c == "្"], text
        assert compose(compose(text)) == compose(text)
    assert compose("ក\u17dd្ខ") == "ក\u17dd្ខ"


def test_twice_is_the_same_as_once_on_any_mix() -> None:
    generator = random.Random(0)
    alphabet = [chr(point) for point in range(0x1780, 0x17EA)] * 2
    alphabet += list("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\ufe0f្្្្រុុីេ៉៊\u17dd  ae\u0301\u0327👩🏽กิ◌")
    for _ in range(40_000):
        text = "".join(generator.choices(alphabet, k=generator.randint(1, 9)))
        for options in ({}, {"zwsp": "keep"}, {"fold_coeng_da": False}, {"nfc": False}):
            once = normalize_khmer(text, **options)
            assert normalize_khmer(once, **options) == once, ascii(text)


def test_the_cases_that_come_with_the_real_text() -> None:
    corpus = os.environ.get("TONSAI_CORPUS")
    cases = Path(corpus or ".").parent / "khmer" / "normalisation_cases.jsonl"
    if not corpus or not cases.exists():
        pytest.skip("set TONSAI_CORPUS to a folder beside khmer/normalisation_cases.jsonl to check its cases")
    for line in cases.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        assert normalize_khmer(case["raw"], **case["policy"]) == case["expected"], case["rule"]

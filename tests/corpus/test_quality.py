"""Quality: each rule drops what it is meant for and lets real text pass; scores cut and weigh."""

import gzip
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.language_model import MODEL_WORDS, write_model
from tonsai_jax.corpus.cleaning.quality import QualityFilter
from tonsai_jax.corpus.cleaning.rules import Quality
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.sources.source import Source

WEB = Quality(preset="web")
ENGLISH = [
    "The river rises in the mountains of the north and flows for many days through forests and fields.",
    "Along its banks people have built houses that stand on wooden posts above the water.",
    "They fish with nets of their own making, and sell what they do not eat to the market towns.",
    "When the rains come, boats take the place of carts, and children row to school.",
    "Old men say that the floods were higher once, but nobody wrote down how high they had been.",
]
KHMER = [
    "ទន្លេនេះហូរចេញពីភ្នំនៅភាគខាងជើង ហើយហូរកាត់ព្រៃនិងវាលស្រែជាច្រើនថ្ងៃ។",
    "ប្រជាជនដែលរស់នៅតាមមាត់ទន្លេបានសង់ផ្ទះខ្ពស់ៗលើសសរឈើ ដើម្បីការពារខ្លួនពីទឹកជំនន់។",
    "ពួកគេនេសាទត្រីដោយប្រើសំណាញ់ដែលធ្វើដោយដៃ ហើយលក់ត្រីដែលនៅសល់ទៅទីផ្សារក្នុងក្រុង។",
    "នៅរដូវវស្សា ទូកគឺជាមធ្យោបាយធ្វើដំណើរតែមួយគត់ ហើយកុមារអុំទូកទៅរៀនរាល់ព្រឹក។",
    "ចាស់ៗនិយាយថា ទឹកជំនន់កាលពីដើមខ្ពស់ជាងសព្វថ្ងៃ ប៉ុន្តែមិនមាននរណាបានកត់ត្រាទុកទេ។",
]


def rule(text: str, language: str = "en", quality: Quality = WEB) -> str | None:
    return QualityFilter(quality, language)("id", text).rule


def only(language: str = "en", **rules: object) -> Quality:
    return Quality(rules={language: rules})


@pytest.mark.parametrize(("lines", "language"), [(ENGLISH, "en"), (KHMER, "km")])
def test_good_text_passes_as_lines_and_as_a_paragraph(lines: list[str], language: str) -> None:
    assert rule("\n".join(lines), language) is None
    assert rule(" ".join(lines), language) is None


DROPPED = {
    "min_language": ("\n".join(KHMER), "en"),
    "min_units": ("The end of the story.", "en"),
    "min_unit_length": ("a b c d of the be to " * 20, "en"),
    "max_unit_length": ("of the " + "internationalization " * 60, "en"),
    "min_letters": ("of the 12345 67890 - 112233 44556677 " * 20, "en"),
    "max_symbols": ("the tag of #many #things with that # # # and " * 10, "en"),
    "min_stop_words": ("cheap shoes buy online free shipping best price " * 9, "en"),
    "max_bullet_lines": ("\n".join(f"• {line}" for line in ENGLISH), "en"),
    "max_ellipsis_lines": ("\n".join(line[:-1] + "..." for line in ENGLISH), "en"),
    "max_short_lines": (
        "\n".join(" ".join(ENGLISH).split(". ")).replace(" the ", "\nthe\n").replace(" and ", "\n"),
        "en",
    ),
    "min_ended_lines": ("\n".join(line[:-1] for line in ENGLISH), "en"),
    "max_repeated_lines": ("\n".join(ENGLISH + ENGLISH[:3]), "en"),
    "max_top": (" ".join(word for line in ENGLISH for word in [*line.split()[:9], "buy it now"]), "en"),
    "max_repeated": (" ".join([*ENGLISH, *ENGLISH]), "en"),
}


@pytest.mark.parametrize(("key", "text", "language"), [(key, *case) for key, case in DROPPED.items()], ids=DROPPED)
def test_a_rule_drops_what_it_is_meant_for(key: str, text: str, language: str) -> None:
    assert rule(text, language) == key
    switched_off = Quality("web", rules={language: {key: None}})
    assert rule(text, language, switched_off) != key


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("min_language", "\n".join(ENGLISH)),
        ("min_units", KHMER[0]),
        ("min_stop_words", "ភ្នំពេញ កណ្តាល តាកែវ កំពត កែប " * 12),
        ("max_repeated", "".join([*KHMER, *KHMER])),
    ],
)
def test_khmer_has_rules_that_need_no_words(key: str, text: str) -> None:
    assert rule(text, "km") == key


def test_other_languages_have_rules_that_need_no_list_of_words() -> None:
    french = "\n".join(["Le fleuve naît dans les montagnes et coule pendant des jours entre les forêts."] * 1)
    assert rule(french, "fr") is None
    assert rule("§§ 12 % == 34 && " * 9, "fr") == "min_letters"


def test_without_a_preset_only_the_rules_that_are_given_count() -> None:
    assert rule("short", quality=only(max_units=2)) is None
    assert rule("no longer short", quality=only(max_units=2)) == "max_units"


def test_the_rules_of_a_language_are_also_for_its_regions() -> None:
    quality = Quality(preset="web", rules={"km": {"min_units": 7}, "sr": {"min_units": 8}, "sr-Latn": {"min_units": 9}})
    assert quality.for_language("km-KH") == quality.for_language("km")
    assert quality.for_language("sr-Latn-RS").min_units == 9
    assert quality.for_language("sr-Cyrl").min_units == 8
    assert quality.for_language("kmb").min_units != 7, "another language whose code begins with the same letters"


def test_word_lists_count_phrases_of_whole_units(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("bad word\nworse\n\n", encoding="utf-8")
    (tmp_path / "km.txt").write_text("អាក្រក់\n", encoding="utf-8")
    quality = Quality(word_lists={name: str(tmp_path / f"{name}.txt") for name in ("en", "km")})
    text = " ".join(ENGLISH)
    assert rule(f"{text} Bad; word", quality=quality) == "max_listed", "2 of 80 words are listed"
    assert rule(f"{text} badword, worsen, bad. Good word", quality=quality) is None
    assert rule(f"{KHMER[0]}អាក្រក់", "km", quality) == "max_listed"
    assert rule(KHMER[0], "km", quality) is None


def test_a_language_model_tells_what_the_script_cannot(tmp_path: Path) -> None:
    pytest.importorskip("fasttext", reason="needs fastText: uv sync --extra langid")
    quality = Quality(language_model=str(write_model(tmp_path / "m.bin", MODEL_WORDS)))
    assert rule("hello there", "en", quality) is None
    assert rule("moin moin", "en", quality) == "min_language", "Low German, in Latin letters too"


def test_a_score_is_low_for_what_is_broken_and_can_cut() -> None:
    quality_filter = QualityFilter(Quality(min_score=0.7), "en")
    good, bad = quality_filter("a", "\n".join(ENGLISH)), quality_filter("b", "12 34 56 | 78 90\n" * 9 + "ok\n" * 9)
    assert (good.rule, bad.rule) == (None, "min_score")
    assert good.score > 0.95 > 0.5 > bad.score


def test_documents_stay_with_the_probability_of_their_score() -> None:
    quality_filter = QualityFilter(Quality(sample_by_score=True), "en")
    half = "word 12 ។៕៖។៕៖"
    score = quality_filter("a", half).score
    kept = sum(quality_filter(f"source/{number}", half).rule is None for number in range(2000)) / 2000
    assert 0.3 < score < 0.9
    assert abs(kept - score) < 0.04


def test_rules_trust_and_dropped_documents_in_a_whole_run(tmp_path: Path) -> None:
    texts = ["\n".join(ENGLISH), "too short", "cheap shoes " * 40]
    sources = [
        Source("web", "en", documents=texts),
        Source("mine", "en", documents=["too short, trusted"], trusted=True),
    ]
    manifest = prepare(sources, tmp_path / "out", Settings(quality=WEB, keep_dropped=True), progress=False)
    assert manifest["sources"]["web"]["filters"] == {"min_stop_words": 1, "min_units": 1}
    assert manifest["sources"]["mine"]["filters"] == {}
    assert [list(read_documents(tmp_path / "out", name)) for name in ("web", "mine")] == [
        [texts[:1]],
        [["too short, trusted"]],
    ]
    dropped = pq.ParquetFile(tmp_path / "out/dropped/web/part-00000.parquet").read().to_pylist()
    assert [(row["text"], row["rule"]) for row in dropped] == [
        ("too short", "min_units"),
        (texts[2].strip(), "min_stop_words"),
    ]
    assert pq.ParquetFile(tmp_path / "out/web/part-00000.parquet").read()["score"].to_pylist()[0] > 0.9
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "cheap shoes" in page
    assert "min_stop_words" in page
    prepare(sources[1:], tmp_path / "out", progress=False)
    assert list(read_documents_manifest(tmp_path / "out")["sources"]) == ["mine"]
    assert not (tmp_path / "out/dropped").exists()


@pytest.mark.parametrize("language", ["km", "en"])
def test_real_text_passes(language: str) -> None:
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz to check real text")
    quality_filter = QualityFilter(WEB, language)
    for path in sorted(Path(corpus, language).glob("*.txt.gz")):
        documents, lines = [], []
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n"):
            lines.append(line)
            if sum(map(len, lines)) > 2000:
                documents.append("\n".join(lines))
                lines = []
        rules = [quality_filter("id", document).rule for document in documents]
        enough = 0.6 if path.name.startswith("hf_course") else 0.9  # half of it is code, which repeats
        assert sum(rule is None for rule in rules) >= enough * len(rules), (path.name, rules)

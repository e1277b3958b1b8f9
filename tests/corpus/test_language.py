"""Is a text in its language: by the share of its script, and by a fastText model."""

import pickle
import sys
from pathlib import Path

import pytest

from tests.support.language_model import MODEL_WORDS, write_model
from tonsai_jax.corpus.cleaning.language import LanguageModel
from tonsai_jax.errors import UserError
from tonsai_jax.text.scripts import CHUNK, SCRIPT_RANGES, script_of, script_share

WORDS = {
    "am": "ሰላም", "ar": "مرحبًا", "bn": "নমস্কার", "bo": "བཀྲ་ཤིས་", "el": "γειά", "en": "hello", "fr": "forêt", "gu": "નમસ્તે",
    "he": "שָׁלוֹם", "hi": "नमस्ते", "hy": "բարեւ", "ja": "こんにちは世界", "ka": "გამარჯობა", "km": "សួស្តីពិភពលោក", "kn": "ನಮಸ್ಕಾರ",
    "ko": "안녕하세요", "lo": "ສະບາຍດີ", "ml": "നമസ്കാരം", "my": "မင်္ဂလာပါ", "or": "ନମସ୍କାର", "pa": "ਸਤ ਸ੍ਰੀ", "ru": "привет",
    "si": "ආයුබෝවන්", "ta": "வணக்கம்", "te": "నమస్తే", "th": "สวัสดี", "vi": "nghĩa vụ", "zh": "你好𠀀",
}  # fmt: skip


@pytest.mark.parametrize("language", WORDS)
def test_a_word_is_all_in_the_script_of_its_language_and_not_in_another(language: str) -> None:
    assert script_share(WORDS[language], language) == 1.0
    others = {script for script in SCRIPT_RANGES if not set(SCRIPT_RANGES[script]) & set(own_ranges(language))}
    assert len(others) > 20
    assert {script_share(WORDS[language], f"x-{script}") for script in others} == {0.0}


def own_ranges(language: str) -> tuple[tuple[int, int], ...]:
    script = script_of(language)
    assert script is not None
    return SCRIPT_RANGES[script]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("កខគ abc", "km", 0.5),
        ("កខគ abc", "en", 0.5),
        ("ខ្មែរ a", "km", 5 / 6),  # marks count like letters
        ("ក ១២៣ 123 ។៕៛ !? 😀", "km", 1.0),  # digits, signs and emoji do not
        ("ក\u200b\u200dខ", "km", 1.0),  # nor do invisible characters
        ("ngo\u0302n ngu\u031b\u0303", "vi", 1.0),  # nor accents that stand apart
        ("abc déf", "km", 0.0),
        ("abc def", "km", 0.0),
        ("漢字", "ko", 1.0),
        ("ひらがな", "zh", 0.0),
        ("ក\ud800", "km", 1.0),
    ],
)
def test_the_share_is_of_letters_and_marks(text: str, language: str, share: float) -> None:
    assert script_share(text, language) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("text", ["", "2024-01-01", "២០២៤ ។"])
def test_nothing_speaks_against_a_text_without_letters(text: str) -> None:
    assert script_share(text, "km") == script_share(text, "en") == 1.0


@pytest.mark.parametrize("language", ["sr", "uz", "und", "xx", "x-nope", "km-Zzzz"])
def test_a_script_that_is_not_known_is_not_guessed(language: str) -> None:
    assert script_of(language) is None
    assert script_share("កខគ abc", language) == 1.0


def test_a_tag_may_be_longer_or_name_its_script() -> None:
    assert [script_of(tag) for tag in ("km-KH", "KM", "khm", "zh-Hant-TW", "sr-cyrl", "uz-Latn")] == [
        *("Khmr", "Khmr", "Khmr", "Hant", "Cyrl", "Latn"),
    ]


def test_a_text_of_any_length_is_counted_whole() -> None:
    assert script_share("ក" * CHUNK + "a" * CHUNK + "b" * 2 * CHUNK, "km") == 0.25


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.bin", MODEL_WORDS)


@pytest.fixture
def model(model_file: Path) -> LanguageModel:
    pytest.importorskip("fasttext", reason="needs fastText: uv sync --extra langid")
    return LanguageModel(str(model_file))


def test_a_label_is_told_as_the_tag_that_sources_have(model: LanguageModel) -> None:
    predicted = [model.predict(word) for word in MODEL_WORDS]
    assert [language for language, _ in predicted] == ["km", "en", "zh", "nds"]
    assert all(0.99 < probability <= 1 for _, probability in predicted)


def test_lines_are_read_together_and_lone_surrogates_left_out(model: LanguageModel) -> None:
    assert model.predict("hello\nhello\nខ្មែរ")[0] == "en"
    assert model.predict("\ud800 moin")[0] == "nds"


def test_a_text_without_words_that_the_model_knows_is_undetermined(model: LanguageModel, tmp_path: Path) -> None:
    assert [model.predict(text) for text in ("", " \n ", "???")] == [("und", 0.0)] * 3
    with_line_end = LanguageModel(
        str(write_model(tmp_path / "larger.bin", (*MODEL_WORDS, "</s>")))
    )  # as trained ones are
    assert [with_line_end.predict(text) for text in ("", " \n ")] == [("und", 0.0)] * 2


def test_only_the_beginning_of_a_long_text_is_looked_at(model: LanguageModel) -> None:
    assert model.predict("hello " * 2000 + "ខ្មែរ " * 10_000)[0] == "en"


def test_a_model_can_be_sent_to_another_process(model: LanguageModel) -> None:
    model.predict("hello")
    pickled = pickle.dumps(model)
    assert len(pickled) < 500, "the path, not the model"
    assert pickle.loads(pickled).predict("hello")[0] == "en"


@pytest.mark.parametrize("left", [0, 50, 200, -1])
def test_a_model_file_that_was_cut_off_is_told_in_one_line(model_file: Path, tmp_path: Path, left: int) -> None:
    (tmp_path / "cut.bin").write_bytes(model_file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"cut\.bin: not a fastText model, or damaged .*; download it again$"):
        LanguageModel(str(tmp_path / "cut.bin"))


def test_a_file_that_is_no_model_or_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "page.bin").write_text("<html>not found</html>" * 10)
    with pytest.raises(UserError, match=r"page\.bin: not a fastText model"):
        LanguageModel(str(tmp_path / "page.bin"))
    with pytest.raises(UserError, match=r"gone\.bin: cannot be read \(No such file or directory\)"):
        LanguageModel(str(tmp_path / "gone.bin"))


def test_without_the_package_the_way_to_get_it_is_told(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(
        UserError, match=r"tiny\.bin: .*not installed; install it with: uv sync --inexact --extra langid"
    ):
        LanguageModel(str(model_file))

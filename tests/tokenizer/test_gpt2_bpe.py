"""The baseline tokenizer: GPT-2's pattern, merges of bytes, our special tokens, all the text or languages in shares."""

import json
from pathlib import Path

import pytest

from tests.support.console import tonsai
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import SPECIAL_TOKENS
from tonsai_jax.tokenizer.training import train_tokenizer

KHMER = "ប្រទេសកម្ពុជាជាប្រទេសមួយនៅអាស៊ីអាគ្នេយ៍។ កុមារទៅសាលារៀន។"
ENGLISH = "It's the year 2026; the children walk to school, and the teacher reads them a story."
# The words of GPT-2's pattern: letters with a space before them, endings such as 's, digits, signs.
WORDS = ["It", "'s", " the", " year", " 2026", ";"]
MARKS = {"្", "េ", "ា", "ុ"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2") / "trained"
    examples = [Example(KHMER, "km"), Example(ENGLISH, "en")] * 30
    train_tokenizer(examples, vocab_size=500, output_dir=path, model_type="gpt2")
    return path


def test_text_comes_back_and_the_special_tokens_have_their_ids(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    for text in (KHMER, ENGLISH, "", "  \n\t x²", "\u200b👩🏽‍🚀 e\u0301 \x00", "one<|endoftext|>two"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.is_ours, tokenizer.end_of_text_id) == (True, 0)
    assert [tokenizer.decode([id]) for id in range(31)] == list(SPECIAL_TOKENS)
    assert 0 not in tokenizer.encode("one<|endoftext|>two")


def test_words_are_those_of_gpt2_and_khmer_is_cut_at_every_mark(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    pieces = [piece.decode() for piece in map(tokenizer.pieces.__getitem__, tokenizer.encode(ENGLISH[:19]))]
    assert pieces == WORDS  # each is frequent enough to be one token
    for piece in tokenizer.pieces:
        text = piece.decode(errors="ignore")
        assert not (MARKS & set(text) and set("កមទសប") & set(text)), f"{text!r} joins a letter and a mark"


def test_the_report_and_the_settings_are_like_those_of_any_tokenizer(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert (report["model_type"], report["vocab_size"]) == ("gpt2", Tokenizer.from_folder(folder).vocab_size)
    assert set(report["fertility"]) == {"km", "en"}
    assert "tonsai_normalization" in json.loads((folder / "tokenizer_config.json").read_text())
    steps = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
    assert (steps["type"], steps["use_regex"], steps["add_prefix_space"]) == ("ByteLevel", True, False)


@pytest.mark.full
def test_without_language_weights_the_text_is_taken_as_it_is(tmp_path: Path) -> None:
    """The dataset has three times as much English, and equal weights; `none` takes all of it, the default balances it."""
    sources = [
        Source(name=name, language=name, weight=0.5, documents=[f"{text} {number}" for number in range(count)])
        for name, text, count in (("km", KHMER, 20), ("en", ENGLISH, 120))
    ]
    prepare(sources, tmp_path / "documents", progress=False)
    sizes = {}
    for weights in ("none", None):
        words = [] if weights is None else ["--language-weights", weights]
        out = tmp_path / str(weights)
        code, _, err = tonsai(
            "train-tokenizer", "--dataset-dir", str(tmp_path / "documents"), "--model-type", "gpt2", "--vocab-size", "400",
            "--output-dir", str(out), *words,
        )  # fmt: skip
        assert code == 0, err
        fertility = json.loads((out / "report.json").read_text())["fertility"]
        sizes[weights] = {name: fertility[name]["examples"] for name in ("km", "en")}
    assert sizes["none"] == {"km": 20, "en": 120}
    assert sizes[None]["en"] < 60

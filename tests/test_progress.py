"""Every long job shows how far it is where stderr is a file: in tests, with a line at once instead of every ten seconds."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.reporting import progress_bar
from tonsai_jax.tokenizer.balance import balanced
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import train_tokenizer

TEXTS = {
    "km": [f"ប្រទេសកម្ពុជា ទី {number} កុមារទៅសាលារៀន។" for number in range(2000)],
    "en": [f"Story {number}: the river rises. It rains on the old house by the sea." for number in range(2000)],
}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 0.001)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 0.0)


@pytest.mark.usefixtures("lines")
def test_from_raw_text_to_token_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [Source(language, language, documents=texts) for language, texts in TEXTS.items()]
    prepare(sources, tmp_path / "docs")
    assert names_in(capsys) >= {"cleaning", "writing"}

    def examples():
        return dataset_examples(tmp_path / "docs")

    train_tokenizer(
        balanced(examples, {"km": 1, "en": 1}, progress=True),
        vocab_size=600,
        output_dir=tmp_path / "bpe",
        progress=True,
    )
    assert names_in(capsys) >= {"counting text", "reading text", "learning tokens", "measuring the tokenizer"}

    train_tokenizer(
        examples(),
        vocab_size=600,
        output_dir=tmp_path / "unigram",
        model_type="unigram",
        progress=True,
        text_bytes=10**6,
    )
    assert names_in(capsys) >= {"reading text", "training Unigram with SentencePiece"}

    tokenize_dataset(tmp_path / "docs", tmp_path / "bpe", tmp_path / "rows", val_ratio=0.1, seed=1)
    assert names_in(capsys) >= {"tokenizing", "writing rows"}

    prepare(sources, tmp_path / "docs", progress=False)
    assert names_in(capsys) == set()


def names_in(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {line.split(":")[0] for line in capsys.readouterr().err.splitlines()}

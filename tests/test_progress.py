"""Every long job shows how far it is; what it prints, and when, is in reporting/test_progress_bar.py."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.reporting.progress_bar import Progress
from tonsai_jax.tokenizer.balance import balanced
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import train_tokenizer

TEXTS = {
    "km": [f"ប្រទេសកម្ពុជា ទី {number} កុមារទៅសាលារៀន។" for number in range(2000)],
    "en": [f"Story {number}: the river rises. It rains on the old house by the sea." for number in range(2000)],
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that show how far they are, as they begin."""
    names: list[str] = []
    enter = Progress.__enter__

    def record(job: Progress) -> Progress:
        if not job.disable:
            names.append(job._name)
        return enter(job)

    monkeypatch.setattr(Progress, "__enter__", record)
    return names


def test_from_raw_text_to_token_rows(tmp_path: Path, shown: list[str]) -> None:
    sources = [Source(language, language, documents=texts) for language, texts in TEXTS.items()]
    prepare(sources, tmp_path / "docs")
    assert begun(shown) >= {"cleaning", "writing"}

    def examples():
        return dataset_examples(tmp_path / "docs")

    train_tokenizer(
        balanced(examples, {"km": 1, "en": 1}, progress=True),
        vocab_size=600,
        output_dir=tmp_path / "bpe",
        progress=True,
    )
    assert begun(shown) >= {"counting text", "reading text", "learning tokens", "measuring the tokenizer"}

    train_tokenizer(
        examples(),
        vocab_size=600,
        output_dir=tmp_path / "unigram",
        model_type="unigram",
        progress=True,
        text_bytes=10**6,
    )
    assert begun(shown) >= {"reading text", "training Unigram with SentencePiece"}

    tokenize_dataset(tmp_path / "docs", tmp_path / "bpe", tmp_path / "rows", val_ratio=0.1, seed=1)
    assert begun(shown) >= {"tokenizing", "writing rows"}

    prepare(sources, tmp_path / "docs", progress=False)
    assert begun(shown) == set()


def begun(shown: list[str]) -> set[str]:
    """The names since the last call."""
    names = set(shown)
    shown.clear()
    return names

"""Near-duplicates: planted ones are found, what is less than half alike stays, and the first of them is the one kept."""

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tonsai_jax.corpus.documents import read_documents
from tonsai_jax.corpus.duplicates import exact as duplicates
from tonsai_jax.corpus.duplicates import near as near_duplicates
from tonsai_jax.corpus.duplicates.exact import Deduplication
from tonsai_jax.corpus.duplicates.near import minhash, representatives
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.text.ngrams import hashed, ngrams, units

NEAR = Settings(deduplicate=Deduplication(near=True))
CONSONANTS = [chr(point) for point in range(0x1780, 0x17A3)]
VOWELS = ["", *(chr(point) for point in range(0x17B6, 0x17C6))]


def invented_words(language: str, rng: random.Random) -> Callable[[], str]:
    """Gives words of no meaning, a few of them often and most of them seldom, as in real text."""
    letters = "etaoinshrdlu"
    if language == "km":
        words = [
            "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3))) for _ in range(5000)
        ]
    else:
        words = ["".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(5000)]
    weights = [1 / (rank + 5) for rank in range(len(words))]
    drawn = iter(rng.choices(words, weights, k=2_000_000))
    return lambda: next(drawn)


def similarity(one: str, other: str) -> float:
    """Jaccard, of the sets of five units in a row."""
    first, second = (set(ngrams(hashed(units(text)), 5).tolist()) for text in (one, other))
    return len(first & second) / len(first | second)


def plant(texts: list[str], language: str, rng: random.Random, word: Callable[[], str]) -> list[str]:
    """A copy of each text with some of its units replaced, from one in 200 to one in 5."""
    between = "" if language == "km" else " "
    copies = []
    for text in texts:
        share = rng.choice([0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2])
        copies.append(between.join(word() if rng.random() < share else unit for unit in units(text)))
    return copies


def check_planted(texts: list[str], copies: list[str], language: str, folder: Path) -> None:
    sources = [Source("first", language, documents=texts), Source("copies", language, documents=copies)]
    prepare(sources, folder, NEAR, progress=False)
    kept = {text for batch in read_documents(folder, "copies") for text in batch}
    assert [text for batch in read_documents(folder, "first") for text in batch] == texts, (
        "the first source loses nothing"
    )
    alike = [similarity(text, copy) for text, copy in zip(texts, copies, strict=True)]
    found = [copy not in kept for copy in copies]
    near = [gone for gone, value in zip(found, alike, strict=True) if value >= 0.8]
    far = [gone for gone, value in zip(found, alike, strict=True) if value < 0.5]
    assert min(len(near), len(far)) > 100, "the copies must be of both kinds"
    assert np.mean(near) >= 0.95
    assert np.mean(far) <= 0.01


@pytest.mark.parametrize("language", ["km", "en"])
def test_planted_duplicates_are_found(tmp_path: Path, language: str) -> None:
    rng = random.Random(3)
    word = invented_words(language, rng)
    between = "" if language == "km" else " "
    texts = [between.join(word() for _ in range(rng.randint(60, 400))) for _ in range(600)]
    check_planted(texts, plant(texts, language, rng, word), language, tmp_path / "out")


@pytest.mark.parametrize(("needed", "kept"), [(0.7, 1), (0.95, 101)])
def test_a_copy_that_is_less_alike_than_the_setting_stays(tmp_path: Path, needed: float, kept: int) -> None:
    rng = random.Random(7)
    word = invented_words("en", rng)
    texts = [[word() for _ in range(300)] for _ in range(100)]
    copies = [[word() if place % 60 == 30 else unit for place, unit in enumerate(text)] for text in texts]
    assert all(0.8 < similarity(" ".join(a), " ".join(b)) < 0.9 for a, b in zip(texts, copies, strict=True))
    sources = [
        Source("first", "en", documents=[" ".join(text) for text in texts]),
        Source("copies", "en", documents=[" ".join(text) for text in copies] + ["a text of its own"]),
    ]
    near = Settings(deduplicate=Deduplication(near=True, similarity=needed))
    manifest = prepare(sources, tmp_path / "out", near, progress=False)
    assert manifest["sources"]["copies"]["documents"] == pytest.approx(kept, abs=2)


@pytest.mark.full
@pytest.mark.parametrize("language", ["km", "en"])
def test_planted_duplicates_of_real_text_are_found(tmp_path: Path, language: str) -> None:
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz to check real text")
    rng = random.Random(5)
    texts, lines = [], []
    for path in sorted(Path(corpus, language).glob("*.txt.gz")):
        for line in gzip.decompress(path.read_bytes()).decode("utf-8")[:300_000].split("\n"):
            lines.append(line)
            if sum(map(len, lines)) > 800:
                texts.append("\n".join(lines))
                lines = []
    prepare([Source("all", language, documents=texts)], tmp_path / "cleaned", NEAR, progress=False)
    texts = [text for batch in read_documents(tmp_path / "cleaned", "all") for text in batch]
    everything = [unit for text in texts[:300] for unit in units(text)]
    copies = plant(texts, language, rng, lambda: rng.choice(everything))
    check_planted(texts, copies, language, tmp_path / "out")


def test_the_smallest_shingles_agree_as_often_as_texts_are_alike() -> None:
    rng = random.Random(1)
    word = invented_words("en", rng)
    texts = [" ".join(word() for _ in range(300)) for _ in range(300)]
    copies = plant(texts, "en", rng, word)
    errors = [
        np.mean(minhash(text) == minhash(copy)) - similarity(text, copy)
        for text, copy in zip(texts, copies, strict=True)
    ]
    assert abs(np.mean(errors)) < 0.01, "no bias"
    assert np.std(errors) < 0.05, "no more noise than 120 draws have: at most sqrt(0.25 / 120)"


def test_a_document_goes_only_for_one_that_stays_and_is_alike() -> None:
    alike = {(0, 1), (1, 2), (2, 3)}
    pairs = np.array(sorted(alike), np.uint32)
    leader = representatives(pairs, np.arange(5, dtype=np.uint32), lambda one, other: (one, other) in alike)
    assert leader.tolist() == [0, 0, 2, 2, 4], "2 is alike to 1, which went; it is not alike to 0"


def test_without_pairs_all_stay() -> None:
    none = np.empty((0, 2), np.uint32)
    assert representatives(none, np.arange(3, dtype=np.uint32), lambda *_: False).tolist() == [0, 1, 2]


def test_exact_duplicates_of_a_near_duplicate_go_for_the_same() -> None:
    leader = representatives(np.array([[0, 1]], np.uint32), np.array([0, 1, 1], np.uint32), lambda *_: False)
    assert leader.tolist() == [0, 0, 0]


def test_short_texts_are_compared_whole_and_texts_without_words_too(tmp_path: Path) -> None:
    texts = ["yes", "no", "...", "!!!", "Yes!", "one two three", "one two four", "..."]
    prepare([Source("a", "en", documents=texts)], tmp_path / "out", NEAR, progress=False)
    assert [text for batch in read_documents(tmp_path / "out", "a") for text in batch] == [
        *("yes", "no", "...", "!!!", "one two three", "one two four")
    ]


def test_in_parts_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    word = invented_words("en", rng)
    texts = [" ".join(word() for _ in range(60)) for _ in range(60)]
    texts += plant(texts, "en", rng, word) + texts[:9]
    prepare([Source("a", "en", documents=texts)], tmp_path / "whole", NEAR, progress=False)
    monkeypatch.setattr(near_duplicates, "_PARTITION_DOCUMENTS", 20)
    monkeypatch.setattr(duplicates, "_PARTITION_DOCUMENTS", 20)
    monkeypatch.setattr("tonsai_jax.corpus.prepare.PIECE_BYTES", 5000)
    prepare([Source("a", "en", documents=texts)], tmp_path / "parts", NEAR, progress=False)
    whole, parts = (list(read_documents(tmp_path / name, "a")) for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole[0]) < 100

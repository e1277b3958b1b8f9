"""Tests of tonsai_jax/evaluation/tasks/chrf.py."""

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.tasks.chrf import chrf
from tonsai_jax.text.normalize import normalize

KHMER = ["ក្មេងៗដើរទៅសាលារៀនរាល់ព្រឹក។", "ខ្ញុំចូលចិត្តញ៉ាំបាយជាមួយត្រី។", "ថ្ងៃនេះមេឃភ្លៀងខ្លាំងណាស់។", "ឆ្មាពណ៌សដេកលើតុ។"]
ENGLISH = [
    "The children walk to school.",
    "I like rice with fish (and soup).",
    "It rains, a lot, today!",
    "The cat sleeps.",
]


def damaged(sentences: list[str]) -> list[str]:
    """Another copy of each sentence: without its end, without its middle, twice, empty."""
    first, second, third, _ = sentences
    return [first[:-7], second[:4] + second[9:], f"{third} {third}", ""]


@pytest.mark.parametrize("sentences", [KHMER, ENGLISH, KHMER + ENGLISH])
def test_the_score_of_a_corpus_is_that_of_sacrebleu_on_normalized_text(sentences) -> None:
    outputs = [copy for start in range(0, len(sentences), 4) for copy in damaged(sentences[start : start + 4])]
    corpus = [normalize(text) for text in outputs], [[normalize(text) for text in sentences]]
    expected = CHRF(word_order=2).corpus_score(*corpus).score
    assert 0 < expected < 100
    assert chrf(outputs, sentences).value == expected


def test_the_interval_is_that_of_sacrebleu_on_resampled_corpora() -> None:
    outputs = damaged(ENGLISH)
    estimate = chrf(outputs, ENGLISH)
    random = np.random.default_rng(0)  # the seed of `bootstrap`
    scores = []
    for _ in range(1000):
        chosen = random.integers(4, size=4)
        corpus = [outputs[number] for number in chosen], [[ENGLISH[number] for number in chosen]]
        scores.append(CHRF(word_order=2).corpus_score(*corpus).score)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(scores, (0.025, 0.975)).tolist())


def test_khmer_that_looks_the_same_counts_as_the_same() -> None:
    reference = "ស្ត្រីម្នាក់ទៅផ្សារ"
    assert chrf(["ស្រ្តី\u200bម្នាក់ទៅផ្សារ "], [reference]).value == 100  # other order of subscripts, a zero-width space
    assert CHRF(word_order=2).corpus_score(["ស្រ្តី\u200bម្នាក់ទៅផ្សារ "], [[reference]]).score < 90


def test_a_copy_of_the_source_gets_little_between_two_scripts() -> None:
    assert chrf(KHMER, ENGLISH).value < 2
    assert chrf(["", "", "", ""], ENGLISH).value == 0


def test_no_sentence_has_no_score() -> None:
    with pytest.raises(UserError, match="at least one sentence"):
        chrf([], [])

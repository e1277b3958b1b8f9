"""Tests of tonsai_jax/evaluation/tasks/sib200.py."""

import pytest

from tonsai_jax.evaluation.tasks.records import RecordError
from tonsai_jax.evaluation.tasks.sib200 import TOPICS, topic


@pytest.mark.parametrize("category", TOPICS)
def test_each_category_of_the_dataset_is_a_choice_in_both_languages(category: str) -> None:
    record = {"index_id": 1, "category": category, "text": "ឆ្មា"}
    english, khmer = topic("en")(record), topic("km")(record)
    assert english.choices[english.answer] == category
    assert khmer.answer == english.answer
    assert len(set(khmer.choices)) == 7


def test_the_prompt_is_in_the_language_of_the_sentence() -> None:
    record = {"category": "sports", "text": "ឆ្មា"}
    assert topic("en")(record).text(3) == "Text: ឆ្មា\nTopic: sports"
    assert topic("km")(record).text(3) == "អត្ថបទ៖ ឆ្មា\nប្រធានបទ៖ កីឡា"


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(RecordError, match="has category 'cooking'; it must be one of science/technology, travel"):
        topic("km")({"category": "cooking", "text": "ឆ្មា"})

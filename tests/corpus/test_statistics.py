"""Figures of a body of text, and the random sample that does not depend on how the work was cut."""

import random

from tonsai_jax.corpus.statistics import SAMPLES, Sample, Statistics


def test_lengths_and_scripts_are_counted_in_characters() -> None:
    statistics = Statistics()
    for number, text in enumerate(("ខ្មែរ ១២។", "abc é—1", "ក", "👩กิ")):
        statistics.add(f"a/{number}", text, len(text.encode("utf-8")))
    figures = statistics.as_json()
    assert (figures["documents"], figures["bytes"]) == (4, 25 + 10 + 3 + 10)
    assert figures["lengths"] == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert figures["scripts"] == {
        "Khmer letters": 6,
        "Khmer digits": 2,
        "Khmer signs": 1,
        "Latin": 4,
        "digits": 1,
        "spaces": 2,
        "punctuation": 1,
        "other": 3,
    }


def test_a_sample_is_the_same_in_any_order() -> None:
    ids = [f"source/{number}" for number in range(1000)]
    sample, shuffled = Sample(20), Sample(20)
    for document in ids:
        sample.add(document, f"text of {document}")
    for document in random.Random(0).sample(ids, len(ids)):
        shuffled.add(document, f"text of {document}")
    assert shuffled.as_json() == sample.as_json()
    assert len(sample.as_json()) == SAMPLES
    numbers = [int(entry["id"].removeprefix("source/")) for entry in sample.as_json()]
    assert max(numbers) - min(numbers) > 500, "not the first ones only"

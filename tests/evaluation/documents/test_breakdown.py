"""Scores of documents, added up by language, by source and by length."""

import math
import re

import numpy as np
import pytest

from tonsai_jax.evaluation.documents.breakdown import LENGTHS, Breakdown, Documents, Tally
from tonsai_jax.evaluation.statistics import ratio

LN2 = math.log(2)


def documents(*each: tuple[float, int, int]) -> Documents:
    """From (bits, tokens, bytes) of each, all of it scored."""
    bits, tokens, sizes = (np.array(column) for column in zip(*each, strict=True))
    return Documents(bits * LN2, tokens, sizes, sizes)


def breakdown() -> Breakdown:
    found = Breakdown("source")
    found.add("km", "wiki", documents((300.0, 50, 200), (100.0, 30, 255), (512.0, 90, 256)))
    found.add("km", "news", documents((5000.0, 2000, 20_000)))
    found.add("en", "stories", documents((1000.0, 100, 1000), (1500.0, 100, 1024), (0.0, 0, 0)))
    return found


def test_sources_and_languages_are_sums_of_their_documents() -> None:
    found = breakdown()
    assert found.parts.keys() == {"wiki", "news", "stories"}
    assert found.parts["wiki"].score.bits_per_byte == pytest.approx(912 / 711)
    assert found.languages["km"].score.bytes == 711 + 20_000
    assert found.languages["km"].score.bits_per_byte == pytest.approx(5912 / 20_711)
    assert found.languages["en"].score.perplexity == pytest.approx(2 ** (2500 / 200))
    assert found.languages["en"].documents == 2, "a document of which nothing was scored is left out"
    assert found.evaluation().bits_per_byte == pytest.approx((5912 / 20_711 + 2500 / 2024) / 2)


def test_the_interval_is_that_of_the_ratio_over_documents_however_they_come() -> None:
    at_once, in_parts = Breakdown("file"), Breakdown("file")
    random = np.random.default_rng(0)
    sizes = random.integers(10, 30_000, 500)
    bits = sizes * random.normal(1.5, 0.3, 500)
    everything = Documents(bits * LN2, sizes, sizes, sizes)
    at_once.add("km", "a", everything)
    for number in range(0, 500, 7):
        in_parts.add("km", "a", everything[np.arange(500)[number : number + 7]])
    wanted = ratio(bits, sizes)
    assert at_once.parts["a"].bits_per_byte == pytest.approx(wanted)
    assert in_parts.languages["km"].bits_per_byte == pytest.approx(wanted)


def test_documents_are_in_the_bucket_of_their_whole_length() -> None:
    found = breakdown()
    by_length = {
        (record["name"], record["length"]): (record["documents"], record["bits_per_byte"])
        for record in found.records()
        if record["length"]
    }
    assert by_length == {
        ("wiki", "under 256 B"): (2, pytest.approx(400 / 455)),
        ("wiki", "under 1 KiB"): (1, pytest.approx(2.0)),
        ("news", "16 KiB and more"): (1, pytest.approx(0.25)),
        ("stories", "under 1 KiB"): (1, pytest.approx(1.0)),
        ("stories", "under 4 KiB"): (1, pytest.approx(1500 / 1024)),
        ("km", "under 256 B"): (2, pytest.approx(400 / 455)),
        ("km", "under 1 KiB"): (1, pytest.approx(2.0)),
        ("km", "16 KiB and more"): (1, pytest.approx(0.25)),
        ("en", "under 1 KiB"): (1, pytest.approx(1.0)),
        ("en", "under 4 KiB"): (1, pytest.approx(1500 / 1024)),
    }
    part_of_a_long_one = Documents(np.array([LN2]), np.array([1]), np.array([2]), np.array([5000]))
    found = Breakdown("source")
    found.add("km", "wiki", part_of_a_long_one)
    [_, record, *_] = found.records()
    assert (record["length"], record["bytes"]) == ("under 16 KiB", 2)


def test_the_table_and_the_records_have_the_same_figures() -> None:
    found = breakdown()
    table = found.table()
    assert "source wiki" in table
    assert re.search(r"language en +1\.2352 ± 0\.4555 ", table)
    assert all(length in table for length in LENGTHS)
    [record] = [record for record in found.records() if record["name"] == "en" and record["length"] is None]
    assert record["kind"] == "language"
    assert record["bits_per_byte"] == pytest.approx(2500 / 2024)
    assert record["high"] - record["bits_per_byte"] == pytest.approx(0.4555, abs=1e-4)
    [news] = [record for record in found.records() if record["name"] == "news" and record["length"] is None]
    assert (news["low"], news["high"]) == (None, None), "one document has no interval"


def test_nothing_has_no_score() -> None:
    assert math.isnan(Tally().bits_per_byte.value)
    assert Breakdown("file").records() == []
    assert Breakdown("file").languages == {}


def test_more_files_than_fit_a_screen_are_left_to_the_records() -> None:
    found = Breakdown("file")
    for number in range(31):
        found.add("km", f"{number}.txt", documents((10.0, 5, 20)))
    assert "file 0.txt" not in found.table()
    assert "language km" in found.table()
    assert len([record for record in found.records() if record["kind"] == "file" and record["length"] is None]) == 31

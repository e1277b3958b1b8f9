"""The scaling law: repetition saturates and then harms, another language counts for a part."""

import dataclasses

import numpy as np
import pytest

from tonsai_jax.scaling.law import Law, Text, effective_bytes

LAW = Law(0.3, 0.4, 0.3, 1.0, 0.25, 0.5, transfer=0.1, overfitting=0.02)
MB = 1e6


def test_the_law_is_the_formula_of_its_docstring() -> None:
    texts = {"km": Text(4 * MB, 2 * MB), "en": Text(40 * MB, 20 * MB)}
    expected = 0.3 + 0.4 * 0.5**-0.3 + 1.0 * (0.5 + 2 + 0.1 * 20) ** -0.25
    assert LAW.bits_per_byte(500_000, "km", texts) == pytest.approx(expected)


def test_text_read_once_counts_whole_and_repetitions_less_and_less() -> None:
    worth = [float(effective_bytes(Text(MB, epochs * MB))) / MB for epochs in (0.5, 1.0, 4.0, 16.0, 1e6)]
    assert worth[:2] == [0.5, 1.0]
    assert worth[2] == pytest.approx(1 + 15.4 * (1 - np.exp(-3 / 15.4)))
    assert 3.7 < worth[2] < 4 < worth[3] < 11, "four epochs are nearly four times the text, sixteen are not"
    assert worth[4] == pytest.approx(16.4), "1 + R* times the text is all that there is in it"


def test_text_that_is_read_too_often_makes_it_worse_the_sooner_the_larger_the_model_is_for_it() -> None:
    def bits(size: float, megabytes: float, epochs: float) -> float:
        return float(LAW.bits_per_byte(size, "km", {"km": Text(megabytes * MB, megabytes * epochs * MB)}))

    worth = float(effective_bytes(Text(8 * MB, 40 * MB))) / MB / (1 + 0.02 * 4**2 * 0.5)
    assert bits(2e6, 8, 5.0) == pytest.approx(0.3 + 0.4 * 2**-0.3 + (0.5 + worth) ** -0.25)
    best = {size: min(range(1, 40), key=lambda epochs: bits(size, 1, epochs)) for size in (1e5, 1e6, 1e7)}
    assert bits(1e7, 1, 1000.0) < bits(1e7, 1, 1e-6), "never worse than a model that has read nothing"
    assert 1 < best[1e7] < best[1e6] < best[1e5] < 39


def test_another_language_helps_by_its_transfer_alone() -> None:
    alone, mixed = {"km": Text(4 * MB, MB)}, {"km": Text(4 * MB, MB), "en": Text(40 * MB, 10 * MB)}
    assert LAW.bits_per_byte(1e6, "km", mixed) == pytest.approx(
        LAW.bits_per_byte(1e6, "km", {"km": Text(4 * MB, 2 * MB)})
    )
    assert LAW.bits_per_byte(1e6, "km", mixed) < LAW.bits_per_byte(1e6, "km", alone)


def test_another_language_counts_only_up_to_the_ratio_that_runs_have_shown() -> None:
    law = dataclasses.replace(LAW, most_others=2.0)
    some, much = ({"km": Text(4 * MB, MB), "en": Text(900 * MB, read * MB)} for read in (2, 500))
    assert (
        law.bits_per_byte(1e6, "km", much) == law.bits_per_byte(1e6, "km", some) == LAW.bits_per_byte(1e6, "km", some)
    )


def test_arrays_of_runs_are_predicted_at_once() -> None:
    texts = {"km": Text(np.full(3, 4 * MB), np.array([1.0, 2.0, 3.0]) * MB)}
    assert np.all(np.diff(LAW.bits_per_byte(np.full(3, 1e6), "km", texts)) < 0)

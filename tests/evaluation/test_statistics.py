"""Tests of tonsai_jax/evaluation/statistics.py."""

from functools import partial

import numpy as np
import pytest

from tonsai_jax.evaluation.statistics import Estimate, RatioSums, bootstrap, mean, ratio, share


def test_the_error_of_a_mean_is_that_of_the_sample() -> None:
    estimate = mean([0, 1, 1, 1])
    assert estimate.value == 0.75
    assert estimate.stderr == pytest.approx(0.25)  # sample standard deviation 0.5, four items
    assert (estimate.low, estimate.high) == pytest.approx((0.75 - 0.489991, 0.75 + 0.489991))


@pytest.mark.parametrize("estimate", [mean([2.0]), ratio([4.0], [2.0]), bootstrap(lambda _: 2.0, 1)])
def test_one_item_has_no_error(estimate) -> None:
    assert estimate == (2.0, None, None, None)


def test_the_intervals_hold_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    held = dict.fromkeys(("mean", "ratio", "bootstrap"), 0)

    def count(name: str, estimate: Estimate, truth: float) -> None:
        assert estimate.low is not None
        assert estimate.high is not None
        held[name] += estimate.low <= truth <= estimate.high

    for _ in range(200):
        x = random.uniform(1, 3, 80)
        y = x * random.normal(1.0, 0.5, 80)
        count("mean", mean(y), 2.0)
        count("ratio", ratio(y, x), 1.0)
        count("bootstrap", bootstrap(partial(_ratio_of, y, x), 80), 1.0)
    assert all(180 <= number <= 199 for number in held.values()), held


def _ratio_of(y: np.ndarray, x: np.ndarray, chosen: np.ndarray) -> float:
    return float(y[chosen].sum() / x[chosen].sum())


def test_sums_of_parts_give_the_ratio_of_all_items() -> None:
    random = np.random.default_rng(1)
    x = random.uniform(1, 1e4, 1000)
    y = x * random.normal(1.0, 0.1, 1000)
    parts = sum((RatioSums.of(y[start : start + 9], x[start : start + 9]) for start in range(0, 1000, 9)), RatioSums())
    assert parts.estimate() == pytest.approx(ratio(y, x))
    residuals = y - y.sum() / x.sum() * x
    assert ratio(y, x).stderr == pytest.approx(residuals.std(ddof=1) / np.sqrt(1000) / x.mean())


def test_a_ratio_that_is_the_same_for_every_item_has_no_error() -> None:
    x = np.random.default_rng(2).uniform(1, 1e4, 1000)
    assert ratio(1.7 * x, x).stderr == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # of scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
        (4, 4, 0.510109, 1.0),
        (0, 10, 0.0, 0.277533),
        (81, 263, 0.255289, 0.366212),
        (1, 1, 0.206543, 1.0),
    ],
)
def test_the_interval_of_a_share_has_a_width_and_stays_within_0_and_1(
    right: int, n: int, low: float, high: float
) -> None:
    values = [True] * right + [False] * (n - right)
    estimate = share(values)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-5)
    assert (estimate.value, estimate.stderr) == mean(values)[:2]

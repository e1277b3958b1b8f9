"""Scores with their error: what a score would be on other items of the same kind."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np

_NORMAL_95 = 1.959964  # two-sided 95 % quantile of the normal distribution
_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A score over items with its standard error and 95 % confidence interval.

    For fewer than two items the others are None; a share has an interval for one item too.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of one value for each item; its standard error is the sample standard deviation / sqrt(n)."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), None, None, None)
    return _normal(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def share(values: Sequence[bool] | np.ndarray) -> Estimate:
    """The share of items that are true; its standard error is that of `mean`.

    The interval is Wilson's score interval (Wilson, Probable inference, the law of succession, and statistical inference, Journal
    of the American Statistical Association 22, 1927; Brown, Cai and DasGupta, Interval estimation for a binomial proportion,
    Statistical Science 16, 2001). Unlike value +- 1.96 standard errors it stays within 0 and 1, and has a width where all items
    are true, or none.
    """
    n, (value, stderr, _, _) = len(values), mean(np.asarray(values, np.float64))
    square = _NORMAL_95**2
    center = (value + square / (2 * n)) / (1 + square / n)
    half = _NORMAL_95 / (1 + square / n) * math.sqrt(value * (1 - value) / n + square / (4 * n**2))
    return Estimate(value, stderr, max(0.0, center - half), min(1.0, center + half))


def ratio(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> Estimate:
    """sum(numerators) / sum(denominators) over items, such as bits over bytes of documents; see `RatioSums`."""
    return RatioSums.of(numerators, denominators).estimate()


@dataclasses.dataclass(frozen=True)
class RatioSums:
    """A ratio of two sums over items, for items too many to keep: sums of parts of them can be added.

    Attributes:
      n: the number of items.
      y, x: the sums of the numerators and of the denominators.
      yy, xy, xx: the sums of their squares, and of their products.
    """

    n: int = 0
    y: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    xx: float = 0.0

    @classmethod
    def of(cls, numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> Self:
        """The sums of items."""
        y, x = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        return cls(len(y), *(float(sum) for sum in (y.sum(), x.sum(), y @ y, x @ y, x @ x)))

    def __add__(self, other: "RatioSums") -> "RatioSums":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return RatioSums(*(ours + theirs for ours, theirs in pairs))

    def estimate(self) -> Estimate:
        """The ratio. Its error is that of the ratio estimator (Cochran, Sampling Techniques, 1977, section 2.11)."""
        value = self.y / self.x
        if self.n < 2:
            return Estimate(value, None, None, None)
        # The sum of (y - value * x)^2; rounding can make it a little less than 0.
        residuals = max(self.yy - 2 * value * self.xy + value**2 * self.xx, 0.0)
        return _normal(value, math.sqrt(residuals / (self.n - 1) * self.n) / self.x)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0) -> Estimate:
    """A score that is no mean over items, such as the chrF++ of a corpus, from resamples of the items.

    Args:
      statistic: the score of the items with these numbers, int64 (n,), some of them several times.
      n: the number of items.
      seed: of the resamples.

    The interval holds the middle 95 % of the scores of 1,000 resamples (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13).
    """
    value = statistic(np.arange(n))
    if n < 2:
        return Estimate(value, None, None, None)
    random = np.random.default_rng(seed)
    scores = np.array([statistic(random.integers(n, size=n)) for _ in range(_RESAMPLES)])
    low, high = np.quantile(scores, (0.025, 0.975))
    return Estimate(value, float(scores.std(ddof=1)), float(low), float(high))


def _normal(value: float, stderr: float) -> Estimate:
    return Estimate(value, stderr, value - _NORMAL_95 * stderr, value + _NORMAL_95 * stderr)

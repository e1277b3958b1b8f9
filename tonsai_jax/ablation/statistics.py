"""Statistics over seeds: means, standard deviations, and paired differences and ratios with confidence intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """The mean over seeds, and the sample standard deviation (with n - 1), which is None for one seed."""

    mean: float
    deviation: float | None


class Difference(NamedTuple):
    """Variant minus baseline: the mean over the seeds of both, and half of its confidence interval (None for one seed)."""

    mean: float
    margin: float | None

    @property
    def beyond_chance(self) -> bool | None:
        """Whether 0 lies outside the confidence interval; None for one seed."""
        return None if self.margin is None else abs(self.mean) > self.margin


class Ratio(NamedTuple):
    """Variant divided by baseline: the mean over the seeds of both, and the ends of its interval (None for one seed)."""

    mean: float
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation of one value per seed; None without values."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The mean difference between two {seed: value} with its 95 % confidence interval; None if they share no seed.

    Runs with the same seed read the same data in the same order, so the effect of the seed on both cancels in their difference.
    The margin is t * s / sqrt(n): s is the standard deviation of the n differences, and t is Student's t with n - 1 degrees of
    freedom (the paired t-test).
    """
    differences = [variant[seed] - baseline[seed] for seed in variant if seed in baseline]
    found = spread(differences)
    if found is None:
        return None
    if found.deviation is None:
        return Difference(found.mean, None)
    t = float(stdtrit(len(differences) - 1, 0.5 + CONFIDENCE / 2))
    return Difference(found.mean, t * found.deviation / math.sqrt(len(differences)))


def paired_ratio(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Ratio | None:
    """The mean ratio of two {seed: value above 0} with its 95 % confidence interval; None if they share no seed.

    It is `paired_difference` of the logarithms, exponentiated: the geometric mean of the ratios of the seeds. So a half and a
    double cancel, which they do not in a mean of ratios.
    """
    logs = [{seed: math.log(value) for seed, value in values.items()} for values in (variant, baseline)]
    found = paired_difference(*logs)
    if found is None:
        return None
    if found.margin is None:
        return Ratio(math.exp(found.mean), None, None)
    return Ratio(math.exp(found.mean), math.exp(found.mean - found.margin), math.exp(found.mean + found.margin))

"""Is a difference more than chance? Means and spreads over seeds, and differences paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """The mean over seeds, and the sample standard deviation (n - 1); None with one seed."""

    mean: float
    deviation: float | None


class Difference(NamedTuple):
    """A variant less the baseline: the mean over the seeds that both have, and half its confidence interval; None with one."""

    mean: float
    margin: float | None

    @property
    def beyond_chance(self) -> bool | None:
        """Whether 0 lies outside the interval; None where one seed tells nothing of chance."""
        return None if self.margin is None else abs(self.mean) > self.margin


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation of one value for each seed; None without any."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The mean difference of {seed: value} with its 95 % confidence interval; None where they share no seed.

    Runs of one seed have the same data order, so what the seed does to both cancels in their difference. The margin is
    t * s / sqrt(n) of the n differences, with Student's t at n - 1 degrees of freedom (the paired t-test).
    """
    differences = [variant[seed] - baseline[seed] for seed in variant if seed in baseline]
    found = spread(differences)
    if found is None:
        return None
    if found.deviation is None:
        return Difference(found.mean, None)
    t = float(stdtrit(len(differences) - 1, 0.5 + CONFIDENCE / 2))
    return Difference(found.mean, t * found.deviation / math.sqrt(len(differences)))

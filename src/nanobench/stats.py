"""Pairs, orders and intervals. The statistical unit is the launch: repetitions of one process share its luck.

Sources: Kalibera and Jones 2013, "Rigorous Benchmarking in Reasonable Time"; Bulej et al. 2020, "Duet Benchmarking".
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval; the bounds are None where one value is all there is."""

    value: float
    low: float | None
    high: float | None
    basis: str
    """what was counted as one observation: 'launches', or 'pairs of one process'"""


def orders(arms: int, seed: str) -> Iterator[list[int]]:
    """Endless orders in which to run the arms: a random one, then its reverse, and again. With two arms: AB BA or BA AB.

    A drift that is linear over two blocks falls on all arms alike.
    """
    generator = random.Random(seed)
    while True:
        order = generator.sample(range(arms), arms)
        yield order
        yield order[::-1]


def t_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and Student's t interval of the mean; no bounds for a single value. Raises ValueError for none."""
    if not values:
        raise ValueError("no values, no interval")
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def half_width(values: Sequence[float]) -> float:
    """Half the width of the t interval of the mean; infinite for a single value."""
    _, low, high = t_interval(values)
    return math.inf if low is None or high is None else (high - low) / 2


def ratio(logs_by_launch: Sequence[Sequence[float]]) -> Interval:
    """exp of the mean log ratio. The interval is over the launches' means, or over the pairs of a lone one.

    Raises ValueError where a launch holds no pair.
    """
    if not logs_by_launch or not all(logs_by_launch):
        raise ValueError("a launch without a pair has no ratio")
    several = len(logs_by_launch) > 1
    values = [float(np.mean(logs)) for logs in logs_by_launch] if several else logs_by_launch[0]
    mean, low, high = t_interval(values)
    basis = "launches" if several else "pairs of one process"
    return Interval(math.exp(mean), None if low is None else math.exp(low), None if high is None else math.exp(high), basis)


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if len(values) else None


def relative_iqr(values: Sequence[float]) -> float | None:
    """Interquartile range over median; None below four values."""
    if len(values) < 4:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)

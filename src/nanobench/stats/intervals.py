"""Orders of arms, ratios and confidence intervals; the unit is the launch, as repetitions of one process are correlated.

Sources: Kalibera and Jones 2013, "Rigorous Benchmarking in Reasonable Time"; Bulej et al. 2020, "Duet Benchmarking".
"""

import math
import random
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
ROUNDING = 1e-12
"""A log ratio closer to 0 counts as 0: it is a rounding error, below the resolution of any clock."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval; the bounds are None for a single value."""

    value: float
    low: float | None
    high: float | None
    basis: str
    """the observations: 'launches', or 'pairs of one process'"""


@dataclass(frozen=True)
class Quantile:
    """A quantile with its two-sided 95 % interval, in the unit of the values; both bounds are values of the sample."""

    value: float
    low: float
    high: float
    effective: float
    """effective sample size; at most the number of values"""


@dataclass(frozen=True)
class Components:
    """Standard deviations of log ratios, within a launch and between launches; None if it cannot be estimated."""

    within: float | None
    between: float | None
    pairs: float
    """pairs per launch, harmonic mean: within**2 / pairs is the part of the variance of a launch mean that is due to pairs"""

    @property
    def ci_advice(self) -> str | None:
        """How to narrow the interval: 'more launches' if most of a launch mean's variance is between launches, else 'more
        repetitions'.
        """
        if self.within is None or self.between is None:
            return None
        return "more launches" if self.between**2 > self.within**2 / self.pairs else "more repetitions"


def orders(arms: int, seed: str) -> Iterator[list[int]]:
    """Endless sequence of orders of the arms: a random one, then its reverse, and so on. With two arms: AB BA or BA AB.

    A drift that is linear over two blocks affects all arms equally.
    """
    generator = random.Random(seed)
    while True:
        order = generator.sample(range(arms), arms)
        yield order
        yield order[::-1]


def t_interval(values: Sequence[float], tail: float = TAIL) -> tuple[float, float | None, float | None]:
    """Mean and Student's t interval of the mean, which misses it with the probability `tail` on each side; no bounds for a
    single value. Raises ValueError for none.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = t_quantile(len(values) - 1, tail) * error
    return mean, mean - half, mean + half


@cache
def t_quantile(freedom: int, tail: float = TAIL) -> float:
    """Of Student's distribution with so many degrees of freedom, beyond which the share `tail` lies."""
    return float(stats.t.isf(tail, freedom))


def half_width(values: Sequence[float]) -> float:
    """Half the width of the t interval of the mean; infinite for a single value."""
    _, low, high = t_interval(values)
    return math.inf if low is None or high is None else (high - low) / 2


def observations(logs_by_launch: Sequence[Sequence[float]]) -> Sequence[float]:
    """The independent observations: the means of launches, or the pairs of a single launch.

    Raises ValueError if a launch has no pair.
    """
    if not logs_by_launch or not all(logs_by_launch):
        raise ValueError("each launch needs at least one pair")
    return launch_means(logs_by_launch) if len(logs_by_launch) > 1 else logs_by_launch[0]


def launch_means(logs_by_launch: Sequence[Sequence[float]]) -> list[float]:
    """The mean log ratio of each launch."""
    return [float(np.mean(logs)) for logs in logs_by_launch]


def ratio(
    logs_by_launch: Sequence[Sequence[float]], below: float = 0.0, above: float = 0.0, error: float = 2 * TAIL
) -> Interval:
    """exp of the mean log ratio. The interval is over the means of launches, or over the pairs of a single launch; it misses
    the truth with the probability `error`.

    A systematic error may put the log of the true ratio up to `below` under, or `above` over what the pairs show: the
    interval reaches further by as much. Raises ValueError if a launch has no pair.
    """
    mean, low, high = t_interval(observations(logs_by_launch), error / 2)
    basis = "launches" if len(logs_by_launch) > 1 else "pairs of one process"
    bounds = (None if low is None else math.exp(low - below), None if high is None else math.exp(high + above))
    return Interval(math.exp(mean), *bounds, basis)


def relative_half_width(estimate: Interval | None) -> float | None:
    """Half the width of an interval over its estimate; None without bounds."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2 / estimate.value


def trimmed_ratio(logs_by_launch: Sequence[Sequence[float]], cut: float = 0.2) -> float:
    """exp of the mean over launches of the trimmed mean log ratio. It differs from `ratio` if a few pairs dominate that.

    The share `cut` of a launch's pairs, rounded down, is removed at either end: by default none below five pairs.
    Raises ValueError if a launch has no pair.
    """
    observations(logs_by_launch)
    return math.exp(float(np.mean([stats.trim_mean(logs, cut) for logs in logs_by_launch])))


def p_value(logs_by_launch: Sequence[Sequence[float]], below: float = 0.0, above: float = 0.0) -> float | None:
    """Two-sided p value of the hypothesis that the ratio is 1, by Student's t over the observations of `ratio`.

    The systematic error that `ratio` allows for is taken at its worst, so it is below 0.05 exactly if the interval of `ratio`
    excludes 1. None for a single observation. Raises ValueError if a launch has no pair.
    """
    values = observations(logs_by_launch)
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = max(0.0, mean - below) if mean > 0 else min(0.0, mean + above)
    if abs(mean) < ROUNDING:
        return 1.0
    return 2 * float(stats.t.sf(abs(mean) / error, len(values) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the given order: at a level of 5 %, the probability of any false positive is at most 5 %.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than the one before it. Holm 1979,
    "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def components(logs_by_launch: Sequence[Sequence[float]]) -> Components | None:
    """The variance components of log ratios; None if none can be estimated.

    Within: pooled over the launches with at least two pairs. Between, by the method of moments: the variance of launch means
    minus the mean of within**2 / pairs, at least 0; it needs two launches. Kalibera and Jones 2013.
    Raises ValueError if a launch has no pair.
    """
    observations(logs_by_launch)
    freedom = sum(len(logs) - 1 for logs in logs_by_launch)
    if not freedom:
        return None
    squares = sum(float(np.var(logs)) * len(logs) for logs in logs_by_launch)
    pairs = 1 / float(np.mean([1 / len(logs) for logs in logs_by_launch]))
    within2, between = squares / freedom, None
    if len(logs_by_launch) > 1:
        between = math.sqrt(max(0.0, float(np.var(launch_means(logs_by_launch), ddof=1)) - within2 / pairs))
    return Components(math.sqrt(within2), between, pairs)


def launches_needed(
    effect: float, *, within: float, between: float, pairs: float, power: float = 0.9, most: int = 30
) -> int | None:
    """The smallest number of launches, 3 to `most`, whose 95 % t interval excludes 1 on the correct side with this power; else
    None.

    `effect` is the log of the ratio to detect; `within` and `between` are standard deviations of log ratios and `pairs` the
    pairs per launch, as in `components`. Student's t over n launch means is then noncentral with n - 1 degrees of freedom
    and noncentrality effect * sqrt(n / (between**2 + within**2 / pairs)): Cohen 1988, "Statistical Power Analysis", chapter 2.
    """
    spread = math.sqrt(between**2 + within**2 / pairs)
    for launches in range(3, most + 1):
        # With 3 launches and a noncentrality of 100 the power is already 1 in float64.
        shift = min(100.0, abs(effect) * math.sqrt(launches) / spread) if spread else 100.0 * bool(effect)
        if stats.nct.sf(stats.t.isf(TAIL, launches - 1), launches - 1, shift) >= power:
            return launches
    return None


def launches_for_width(means: Sequence[float], half: float, most: int) -> int | None:
    """The smallest number of launches, at least as many as given and at most `most`, whose 95 % t interval is expected within
    +-`half` (of a log) with the spread of these launch means; None where `most` are too few, or for less than two means.

    Stein 1945: a number of launches that follows from the variance of the first ones, not from their mean, moves no estimate.
    """
    if len(means) < 2:
        return None
    spread = float(np.std(means, ddof=1))
    counts = range(len(means), most + 1)
    return next((n for n in counts if stats.t.isf(TAIL, n - 1) * spread / math.sqrt(n) <= half), None)


def median(values: Sequence[float]) -> float | None:
    """The median; None without values."""
    return float(np.median(values)) if len(values) else None


def relative_iqr(values: Sequence[float]) -> float | None:
    """Interquartile range over median; None below four values."""
    if len(values) < 4:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def min_count(share: float) -> int:
    """The smallest number of independent values for which this quantile has a two-sided 95 % interval: 6 for a median.

    All n values are below the quantile with probability share**n, all above with (1 - share)**n: neither may exceed 2.5 %.
    Raises ValueError if `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of a quantile must be between 0 and 1, not {share}")
    return math.ceil(math.log(TAIL) / math.log(max(share, 1 - share)))


def quantile(values: Sequence[float], clusters: Sequence[Hashable], share: float) -> Quantile | None:
    """The `share` quantile of the values, with a distribution-free 95 % interval.

    `clusters` has the call (or launch) of each value: values of one call are correlated, so the effective sample size is
    smaller. The bounds are the two order statistics given by the exact binomial distribution for `effective_count` values. If
    these are fewer than the values, rank r of k becomes the rank at the share (r - 1/2) / k of the sample, rounded outwards.
    Woodruff 1952, "Confidence Intervals for Medians and Other Position Measures".

    None if the effective sample size is below `min_count`, and so for a single cluster, whose correlation cannot be estimated.
    Raises ValueError if `share` is not between 0 and 1, and if there is not one cluster per value.
    """
    if len(values) != len(clusters):
        raise ValueError(f"got {len(values)} values and {len(clusters)} cluster labels; give one label per value")
    minimum, count = min_count(share), len(values)
    if count < minimum:
        return None
    ordered = np.sort(values)
    effective = effective_count(np.asarray(values) <= ordered[math.ceil(share * count) - 1], clusters)
    independent = math.floor(effective)
    if independent < minimum:
        return None
    low, high = stats.binom.ppf((TAIL, 1 - TAIL), independent, share)
    below, above = (math.floor((rank - 0.5) * count / independent + 0.5) for rank in (low, independent - high))
    return Quantile(float(np.quantile(ordered, share)), float(ordered[below - 1]), float(ordered[count - above]), effective)


def effective_count(indicators: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """The effective sample size of binary values (indicators) that are correlated within clusters.

    The number of values over Kish's design effect: the variance of their share between clusters (a linearized ratio) over that
    of as many independent values. With few clusters that variance is itself uncertain, hence the squared ratio of Student's t
    (Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts"). At most the
    number of values, and exactly that if each is its own cluster; the number of clusters if all values are equal.
    """
    codes: dict[Hashable, int] = {}
    members = np.array([codes.setdefault(label, len(codes)) for label in clusters])
    count, groups, share = len(indicators), len(codes), float(np.mean(indicators))
    if groups in (1, count) or share in (0, 1):
        return groups
    residuals = np.bincount(members, weights=indicators - share)
    between = groups / (groups - 1) * float(residuals @ residuals) / count**2
    if between == 0:
        return count
    alone = share * (1 - share) / (count - 1)
    certainty = float(stats.t.isf(TAIL, count - 1) / stats.t.isf(TAIL, groups - 1)) ** 2
    return min(count, count * alone / between * certainty)

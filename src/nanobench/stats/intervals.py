"""Pairs, orders and intervals. The statistical unit is the launch: repetitions of one process share its luck.

Sources: Kalibera and Jones 2013, "Rigorous Benchmarking in Reasonable Time"; Bulej et al. 2020, "Duet Benchmarking".
"""

import math
import random
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
ROUNDING = 1e-12
"""A log ratio closer to 0 is the rounding of equal times; no clock tells it from 0."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval; the bounds are None where one value is all there is."""

    value: float
    low: float | None
    high: float | None
    basis: str
    """what was counted as one observation: 'launches', or 'pairs of one process'"""


@dataclass(frozen=True)
class Quantile:
    """A quantile with its two-sided 95 % interval, in the unit of the values; both bounds are values of the sample."""

    value: float
    low: float
    high: float
    effective: float
    """how many independent values tell as much; at most the number of values"""


@dataclass(frozen=True)
class Components:
    """Standard deviations of log ratios, within a launch and between launches; None where it cannot be known."""

    within: float | None
    between: float | None
    pairs: float
    """pairs a launch: the harmonic mean, so that within**2 / pairs is what pairs add to the variance of a launch mean"""

    @property
    def ci_advice(self) -> str | None:
        """What narrows the interval sooner: 'more launches' where most of a launch mean's variance lies between launches."""
        if self.within is None or self.between is None:
            return None
        return "more launches" if self.between**2 > self.within**2 / self.pairs else "more repetitions"


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


def observations(logs_by_launch: Sequence[Sequence[float]]) -> Sequence[float]:
    """What counts as independent: the launches' means, or the pairs of a lone launch.

    Raises ValueError where a launch holds no pair.
    """
    if not logs_by_launch or not all(logs_by_launch):
        raise ValueError("a launch without a pair has no ratio")
    return launch_means(logs_by_launch) if len(logs_by_launch) > 1 else logs_by_launch[0]


def launch_means(logs_by_launch: Sequence[Sequence[float]]) -> list[float]:
    """The mean log ratio of each launch."""
    return [float(np.mean(logs)) for logs in logs_by_launch]


def ratio(logs_by_launch: Sequence[Sequence[float]]) -> Interval:
    """exp of the mean log ratio. The interval is over the launches' means, or over the pairs of a lone one.

    Raises ValueError where a launch holds no pair.
    """
    mean, low, high = t_interval(observations(logs_by_launch))
    basis = "launches" if len(logs_by_launch) > 1 else "pairs of one process"
    return Interval(math.exp(mean), None if low is None else math.exp(low), None if high is None else math.exp(high), basis)


def trimmed_ratio(logs_by_launch: Sequence[Sequence[float]], cut: float = 0.2) -> float:
    """exp of the mean over launches of each launch's trimmed mean log ratio; it tells whether a few pairs carry `ratio`.

    Of a launch's pairs the share `cut`, rounded down, goes at either end: at the default none below five pairs.
    Raises ValueError where a launch holds no pair.
    """
    observations(logs_by_launch)
    return math.exp(float(np.mean([stats.trim_mean(logs, cut) for logs in logs_by_launch])))


def p_value(logs_by_launch: Sequence[Sequence[float]]) -> float | None:
    """Two-sided p value of the hypothesis that the ratio is 1, by Student's t over the observations of `ratio`.

    It is below 0.05 exactly where the interval of `ratio` excludes 1. None for a single observation.
    Raises ValueError where a launch holds no pair.
    """
    values = observations(logs_by_launch)
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if abs(mean) < ROUNDING:
        return 1.0
    return 2 * float(stats.t.sf(abs(mean) / error, len(values) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: judged at 5 %, the chance of one false positive or more among all is at most 5 %.

    The i-th smallest of m is multiplied by m - i + 1, and none falls below the one before it. Holm 1979,
    "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def components(logs_by_launch: Sequence[Sequence[float]]) -> Components | None:
    """How much log ratios vary within a launch and between launches; None where neither can be estimated.

    Within: pooled over the launches of two pairs or more. Between, by the method of moments: the variance of launch means minus
    the mean of within**2 / pairs, at least 0; it needs two launches. Kalibera and Jones 2013.
    Raises ValueError where a launch holds no pair.
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
    """The least number of launches, 3 to `most`, whose 95 % t interval excludes 1 on the right side with this power; else None.

    `effect` is the log of the ratio to be found; `within` and `between` are standard deviations of log ratios and `pairs` the
    pairs a launch, as `components` gives them. Student's t over n launch means is then noncentral with n - 1 degrees of freedom
    and noncentrality effect * sqrt(n / (between**2 + within**2 / pairs)): Cohen 1988, "Statistical Power Analysis", chapter 2.
    """
    spread = math.sqrt(between**2 + within**2 / pairs)
    for launches in range(3, most + 1):
        # At 3 launches and a noncentrality of 100 the power is 1 to the last bit; scipy is not asked for more.
        shift = min(100.0, abs(effect) * math.sqrt(launches) / spread) if spread else 100.0 * bool(effect)
        if stats.nct.sf(stats.t.isf(TAIL, launches - 1), launches - 1, shift) >= power:
            return launches
    return None


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if len(values) else None


def relative_iqr(values: Sequence[float]) -> float | None:
    """Interquartile range over median; None below four values."""
    if len(values) < 4:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def min_count(share: float) -> int:
    """The fewest independent values with a two-sided 95 % interval for this quantile between two of them: 6 for a median.

    All n values lie below the quantile with probability share**n, all above with (1 - share)**n: neither may exceed 2.5 %.
    Raises ValueError for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"a quantile's share lies between 0 and 1, not {share}")
    return math.ceil(math.log(TAIL) / math.log(max(share, 1 - share)))


def quantile(values: Sequence[float], clusters: Sequence[Hashable], share: float) -> Quantile | None:
    """The quantile below which `share` of the values lie, with a 95 % interval that asks nothing of their distribution.

    `clusters` names the call (or launch) of each value: values of one call are correlated, and fewer count. The interval lies
    between the two order statistics that the exact binomial picks for `effective_count` values; where these are fewer than the
    values, rank r of k becomes the rank at the same share (r - 1/2) / k of the sample, rounded outwards.
    Woodruff 1952, "Confidence Intervals for Medians and Other Position Measures".

    None where fewer than `min_count` values count, and so for a single cluster: what its values have in common cannot be seen
    from inside. Raises ValueError for a share that is not between 0 and 1, and for clusters that are not as many as values.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters: each value has one")
    least, count = min_count(share), len(values)
    if count < least:
        return None
    ordered = np.sort(values)
    effective = effective_count(np.asarray(values) <= ordered[math.ceil(share * count) - 1], clusters)
    independent = math.floor(effective)
    if independent < least:
        return None
    low, high = stats.binom.ppf((TAIL, 1 - TAIL), independent, share)
    below, above = (math.floor((rank - 0.5) * count / independent + 0.5) for rank in (low, independent - high))
    return Quantile(float(np.quantile(ordered, share)), float(ordered[below - 1]), float(ordered[count - above]), effective)


def effective_count(timestamped: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """How many independent yes-or-no values would know their share as well as these, correlated within clusters, do.

    The number of values over Kish's design effect: the variance of the share between clusters (a ratio, linearised) over that
    of as many independent values. With few clusters that variance is itself uncertain, hence the squared ratio of Student's t
    (Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts"). At most the
    number of values, and exactly that where each is its own cluster; the number of clusters where all values are alike.
    """
    codes: dict[Hashable, int] = {}
    members = np.array([codes.setdefault(label, len(codes)) for label in clusters])
    count, groups, share = len(timestamped), len(codes), float(np.mean(timestamped))
    if groups in (1, count) or share in (0, 1):
        return groups
    residuals = np.bincount(members, weights=timestamped - share)
    between = groups / (groups - 1) * float(residuals @ residuals) / count**2
    if between == 0:
        return count
    alone = share * (1 - share) / (count - 1)
    certainty = float(stats.t.isf(TAIL, count - 1) / stats.t.isf(TAIL, groups - 1)) ** 2
    return min(count, count * alone / between * certainty)

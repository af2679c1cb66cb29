"""A curve over batch sizes from a few of them: the values between, how uncertain they are, and which size to measure next.

Everything is in logs: x is the log of the batch size, y the log of a speedup or throughput. A *gap* lies between two
neighbouring measured sizes, its *chord* is the straight line between them, and a *slope* is that of a chord.

The value in a gap is the chord plus a parabola: the smaller of the two second differences at the ends of the gap, or none
if their signs differ (Harten and Osher 1987, "Uniformly High-Order Accurate Nonoscillatory Schemes I"). It is monotone
where the measured values are, and it never leaves the triangle of the chord and the two neighbouring chords, prolonged.
A convex or concave curve lies in that triangle too (Burkard, Hamacher and Rote 1991, "Sandwich Approximation of Univariate
Convex Functions"). Three properties of the measured values say how far a value may be off; see `uncertainty`.

Steps at many batch sizes, as of rows that are padded to a multiple of 8, cannot be seen from a few sizes: there the intervals
are too narrow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from nanobench.stats.intervals import CONFIDENCE

NORMAL = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
"""half the width of a 95 % interval, in standard errors"""
LEAST = 3
"""Measured sizes without which nothing is known of a gap."""
BEND = 0.15
"""Error of the parabola over the room for the curve, where it is smooth: chosen in simulations."""
CURVATURE = 0.06
"""What an unseen second derivative may be, over the range of the curve: a saturating curve has at most 0.1."""
MOST_RANGE = 1.2
"""A curve that covers a wider range is not more curved: where times add up, the second derivative is at most 1/4."""

RIPPLE = 0.01
"""Standard deviation of a curve from a smooth one, in the middle of a gap of a factor of 2 or more. Curves that are predicted
from the measured limits of a CPU, which differ with the number of rows, deviate by about this from their interpolation."""


class Known(NamedTuple):
    """What was measured at one batch size."""

    log: float
    """log of the speedup or throughput"""
    sd: float = 0.0
    """standard error of that log; 0 if it is not known"""

    @classmethod
    def of(cls, value: float, low: float | None, high: float | None) -> "Known":
        """A value and its 95 % interval. Its standard error is not known if a bound is missing, NaN or not above 0.

        Raises ValueError if the value is not above 0.
        """
        if not value > 0:
            raise ValueError(f"a speedup or throughput must be above 0, not {value}")
        if low is None or high is None or not 0 < low <= high:
            return cls(math.log(value))
        return cls(math.log(value), math.log(high / low) / 2 / NORMAL)


class Estimate(NamedTuple):
    """An interpolated speedup or throughput, with its 95 % interval, in the unit of the measured values."""

    value: float
    low: float
    high: float


class Uncertainty(NamedTuple):
    """Interpolated logs and their standard errors, one per size."""

    log: np.ndarray
    noise: np.ndarray
    """from the noise of the measured values"""
    error: np.ndarray
    """from the interpolation itself: what more measured sizes reduce"""
    ripple: np.ndarray
    """from ripples of the curve that few sizes cannot show"""


def next_size(
    curves: Sequence[Mapping[int, Known]], candidates: Sequence[int], tolerance: float, most: int | None = None
) -> int | None:
    """The candidate to measure next; None if all curves are known well enough, or `most` sizes are measured.

    `curves`: what is measured so far, one mapping from batch size to value per arm. Both ends come first, then the candidate
    in the middle, in log batch; so a curve is never trusted from two sizes. Then comes the candidate with the largest
    standard error of interpolation (without RIPPLE), until every one is at most `tolerance` (a log; with 0.015, the curve is
    within 3 % in most cases), or at most the noise there, which would hide it. A size whose measurement failed must not be
    a candidate any more.
    Raises ValueError if `tolerance` or a candidate is not above 0.
    """
    sizes = sorted(set(candidates))
    if tolerance <= 0 or any(size <= 0 for size in sizes):
        raise ValueError("the tolerance and all candidates must be above 0")
    measured = {size for curve in curves for size in curve}
    missing = [size for size in sizes if size not in measured]
    if not missing or (most is not None and len(measured) >= most):
        return None
    for end in (sizes[0], sizes[-1]):
        if end in missing:
            return end
    if not any(sizes[0] < size < sizes[-1] for size in measured):
        return min(missing, key=lambda size: abs(math.log(size * size / sizes[0] / sizes[-1])))
    urgency = dict.fromkeys(missing, 0.0)
    for curve in (curve for curve in curves if len(curve) >= LEAST):
        inside = [size for size in missing if min(curve) < size < max(curve)]
        found = uncertainty(curve, inside)
        for size, noise, error in zip(inside, found.noise, found.error, strict=True):
            # Rounded, so that the unit of the values does not decide between equal errors.
            urgency[size] = max(urgency[size], round(float(error / max(tolerance, noise)), 9))
    worst = max(missing, key=lambda size: urgency[size])
    return worst if urgency[worst] > 1 else None


def interpolate(curve: Mapping[int, Known], at: Sequence[int]) -> dict[int, Estimate]:
    """The values at batch sizes `at`, with 95 % intervals for noise and interpolation together; nothing is extrapolated.

    At a measured size it is the measured value. Raises ValueError for fewer than three measured sizes, or a size beyond them.
    """
    if len(curve) < LEAST:
        raise ValueError(f"a curve needs at least {LEAST} measured batch sizes, not {len(curve)}")
    if beyond := [size for size in at if not min(curve) <= size <= max(curve)]:
        raise ValueError(f"batch size {beyond[0]} is outside the measured {min(curve)} to {max(curve)}")
    found = uncertainty(curve, at)
    reach = NORMAL * np.sqrt(found.noise**2 + found.error**2 + found.ripple**2)
    bounds = np.exp([found.log, found.log - reach, found.log + reach])
    return {size: Estimate(*map(float, bounds[:, n])) for n, size in enumerate(at)}


def uncertainty(curve: Mapping[int, Known], at: Sequence[int]) -> Uncertainty:
    """The interpolated logs at some sizes within the curve, and how uncertain they are. The errors below add up in squares.

    * A smooth curve: the share BEND of the `room` for it, and what an unseen CURVATURE would add.
    * A kink or a step in the gap: its `surprise` J. If it lies anywhere with equal probability, then at the share t of the gap
      a step lies before with probability t, and the standard deviation is J * sqrt(t * (1 - t)).
    * Several steps: the surprises of all gaps but the largest. One step is local; after several, any gap may have one.

    Noise makes all of these larger. What it adds on average, to first order, is subtracted. RIPPLE comes on top of them.
    """
    sizes = sorted(curve)
    x, places = np.log(np.array(sizes, dtype=float)), np.log(np.array(at, dtype=float))
    y, sd = np.array([curve[size].log for size in sizes]), np.array([curve[size].sd for size in sizes])
    found, noise = traits(x, y, places), np.zeros(3 * len(at) + len(x) - 1)
    for n in np.flatnonzero(sd):
        shift = sd[n] * (np.arange(len(x)) == n)
        noise += ((traits(x, y + shift, places) - traits(x, y - shift, places)) / 2) ** 2
    shown = np.maximum(0.0, found**2 - noise)
    ends = np.arange(1, 4) * len(at)
    _, room2, surprise2, surprises2 = np.split(shown, ends)
    gap = gaps_of(x, places)
    width = x[gap + 1] - x[gap]
    share = (places - x[gap]) / width
    unseen = CURVATURE * min(MOST_RANGE, float(np.ptp(y))) * width**2 / 2 * share * (1 - share)
    elsewhere2 = float(np.mean(np.sort(surprises2)[:-1])) * share * (1 - share)
    error = np.sqrt(BEND**2 * room2 + unseen**2 + surprise2 * share * (1 - share) + elsewhere2)
    ripple = RIPPLE * 2 * np.sqrt(share * (1 - share) * np.minimum(1.0, width / math.log(2)))
    return Uncertainty(found[: len(at)], np.sqrt(noise[: len(at)]), error, ripple)


def gaps_of(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The index of the gap that each place lies in."""
    return np.clip(np.searchsorted(x, places, side="right") - 1, 0, len(x) - 2)


def traits(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """In one array: at each place the value, the room and the surprise of its gap; then the surprise of each gap."""
    widths, gap = np.diff(x), gaps_of(x, places)
    slopes = np.diff(y) / widths
    # Beyond the ends slopes continue as if the curvature stayed the same.
    slope_before = np.r_[2 * slopes[0] - slopes[1], slopes[:-1]]
    slope_after = np.r_[slopes[1:], 2 * slopes[-1] - slopes[-2]]
    since, until = places - x[gap], x[gap + 1] - places
    value = y[gap] + slopes[gap] * since - curvatures(x, slopes)[gap] * since * until
    space = room((slopes - slope_before)[gap] * since, (slope_after - slopes)[gap] * until, since / (since + until))
    surprises = np.minimum(misses(x, slopes), misses(-x[::-1], slopes[::-1])[::-1]) * widths
    return np.concatenate([value, space, surprises[gap], surprises])


def curvatures(x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Half the second derivative of the parabola in each gap: of the two at its ends the one nearer to 0, or 0 between them.

    The first and the last gap have only one, limited so that the parabola does not turn in the gap.
    """
    second, limits = np.diff(slopes) / (x[2:] - x[:-2]), np.abs(slopes / np.diff(x))
    first, last = np.clip(second[[0, -1]], -limits[[0, -1]], limits[[0, -1]])
    left, right = np.r_[first, second], np.r_[second, last]
    return np.where(left * right > 0, np.sign(left) * np.minimum(np.abs(left), np.abs(right)), 0.0)


def room(before: np.ndarray, after: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The room that the neighbouring chords leave for the curve, at the share of each place in its gap.

    `before` and `after`: how far the chord of the gap is above the chord before it and above the chord after it, prolonged.
    If both signs are equal, the three form a triangle, and this is its height. Else the curve turns in the gap, and this is
    the distance between the two prolonged chords, times a factor that is 0 at the ends of the gap and 1 in its middle.
    """
    turned = (np.abs(before) + np.abs(after)) * 2 * np.sqrt(share * (1 - share))
    return np.where(before * after < 0, turned, np.minimum(np.abs(before), np.abs(after)))


def misses(x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """How far each slope is from what the gaps before it predict; infinite for the first gap.

    They predict the slope of the gap before, or that slope changed as it changed last, or any slope between. A smooth curve
    is near that. A kink or a step in a gap is far from what both sides predict, so a gap's surprise is the smaller of its two
    misses times its width: the height of a step, or the whole change of a slope in the middle of the gap, times half the width.
    """
    middle = (x[1:] + x[:-1]) / 2
    found = np.full(len(slopes), np.inf)
    for n in range(1, len(slopes)):
        predicted = [slopes[n - 1]]
        if n > 1:
            change = (slopes[n - 1] - slopes[n - 2]) / (middle[n - 1] - middle[n - 2])
            predicted.append(slopes[n - 1] + change * (middle[n] - middle[n - 1]))
        found[n] = max(0.0, slopes[n] - max(predicted), min(predicted) - slopes[n])
    return found

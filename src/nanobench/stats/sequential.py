"""Looking at an interval again and again while launches come in, and stopping when it decides: at an error of 5 % in all.

A t interval of 95 % that is looked at after every launch excludes the truth at some look far more often than in 5 % of all
cases. Here it is looked at only after LOOKS launches, each time at the smaller level LEVEL, so that all looks together miss the
truth in at most 5 %: Pocock 1977, "Group Sequential Methods in the Design and Analysis of Clinical Trials", with Student's t
instead of the normal distribution; `tests/bench/sequential_level.py` computes the level. To stop early for another reason
(the time is up, or somebody is satisfied) only lowers the error, because later looks are then not taken.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LOOKS = (4, 6, 8, 11, 15, 20, 27, 36, 48)
"""Numbers of launches after which the interval is looked at."""
ERROR = 0.05
"""Probability that any look misses the truth, at most."""
LEVEL = 0.0085
"""Two-sided level of each look."""


class Bounds(NamedTuple):
    """An interval of a mean that holds at all looks together with a probability of at least 95 %."""

    mean: float
    low: float
    high: float


def looked_at(values: Sequence[float]) -> int:
    """How many of these values the last look saw; 0 before the first look.

    Values beyond a look count at the next one: to look in between would cost error.
    """
    return max((look for look in LOOKS if look <= len(values)), default=0)


def bounds(values: Sequence[float]) -> Bounds | None:
    """The interval at the last look at these values; None before the first."""
    count = looked_at(values)
    if not count:
        return None
    seen = values[:count]
    half = float(stats.t.isf(LEVEL / 2, count - 1)) * float(np.std(seen, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(seen))
    return Bounds(mean, mean - half, mean + half)


def p_value(values: Sequence[float], below: float = 0.0, above: float = 0.0) -> float:
    """Of a mean of 0, over all looks together: below 0.05 exactly where `bounds` exclude 0; 1 before the first look.

    A systematic error may put the mean up to `below` under, or `above` over what the values show.
    """
    found = bounds(values)
    if found is None:
        return 1.0
    count = looked_at(values)
    error = float(np.std(values[:count], ddof=1)) / math.sqrt(count)
    mean = max(0.0, found.mean - below) if found.mean > 0 else min(0.0, found.mean + above)
    if not error:
        return float(not mean)
    return min(1.0, 2 * float(stats.t.sf(abs(mean) / error, count - 1)) * ERROR / LEVEL)


def launches_to_decide(values: Sequence[float], distance: float) -> int | None:
    """The later look at which the interval is expected to be narrower than +-`distance` with the spread of these values; None
    if there is none.
    """
    if len(values) < 2:
        return None
    spread = float(np.std(values, ddof=1))
    halves = ((look, float(stats.t.isf(LEVEL / 2, look - 1)) * spread / math.sqrt(look)) for look in LOOKS)
    return next((look for look, half in halves if look > looked_at(values) and half <= distance), None)

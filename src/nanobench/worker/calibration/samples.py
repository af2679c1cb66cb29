"""From the timings of some work to its duration: the only place that decides whether the work takes a measurable time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanobench.roofline.limits import Limit, Unresolved, checked

RESOLUTION_S = 5e-7
"""Shorter times are not measurable: the resolution of CUDA's events. A host clock is finer."""
LONGEST_S = 3600.0
"""Longer times are errors of the clock: a whole calibration takes less."""
MIN_SAMPLES = 3
"""With fewer usable timings, a duration has no spread."""
MIN_SHARE = 0.1
"""If less than this share of a time remains without its dispatch, the rest is not measurable."""


@dataclass(frozen=True)
class Duration:
    """How long some work takes."""

    seconds: float
    iqr_s: float
    """the interquartile range of its timings"""


@dataclass(frozen=True)
class NotResolved:
    """Some work whose duration the timings do not show."""

    reason: str


NO_TIME = Duration(0.0, 0.0)


def resolve(samples_s: Sequence[float], included: Duration = NO_TIME) -> Duration | NotResolved:
    """The median of some timings in seconds, without a known duration that each of them includes.

    Not resolved if fewer than half of the timings are usable (finite, below LONGEST_S), if less than MIN_SHARE of the time
    remains, or if the lower quartile of what remains is below RESOLUTION_S.
    """
    usable = [sample_s for sample_s in samples_s if math.isfinite(sample_s) and abs(sample_s) < LONGEST_S]
    if len(usable) < max(MIN_SAMPLES, len(samples_s) / 2):
        return NotResolved(f"only {len(usable)} of {len(samples_s)} timings are usable")
    low_s, median_s, high_s = (float(value) for value in np.percentile(usable, (25, 50, 75)))
    seconds, iqr_s = median_s - included.seconds, high_s - low_s + included.iqr_s
    if low_s < RESOLUTION_S:
        return NotResolved(f"it takes no measurable time: a quarter of its timings are below {microseconds(RESOLUTION_S)}")
    if seconds < MIN_SHARE * median_s:
        return NotResolved(f"dispatch takes {microseconds(included.seconds)} of its {microseconds(median_s)}")
    if low_s - included.seconds - included.iqr_s / 2 < RESOLUTION_S:
        noise = microseconds(iqr_s)
        return NotResolved(f"{microseconds(seconds)} remain without dispatch, and the timings vary by {noise}")
    return Duration(seconds, iqr_s)


def per_operation(samples_s: Sequence[float], count: float) -> Duration | NotResolved:
    """The time of one of `count` operations that take all of the timed seconds."""
    if count <= 0:
        return NotResolved("no operation was counted")
    found = resolve(samples_s)
    return found if isinstance(found, NotResolved) else Duration(found.seconds / count, found.iqr_s / count)


def without_dispatch(samples_s: Sequence[float], operation: Duration | NotResolved, count: float) -> Duration | NotResolved:
    """The duration of some work without the dispatch of its `count` operations, which its timings include."""
    if count <= 0:
        return resolve(samples_s)
    if isinstance(operation, NotResolved):
        return NotResolved(f"the dispatch that its time includes is not resolved: {operation.reason}")
    return resolve(samples_s, Duration(count * operation.seconds, count * operation.iqr_s))


def rate(kind: str, amount: float, found: Duration | NotResolved, rows: int = 1, set_bytes: int = 0) -> Limit | Unresolved:
    """The limit that some work shows: its amount (bytes or operations) per second."""
    if isinstance(found, NotResolved):
        return Unresolved(kind, found.reason, rows, set_bytes)
    return checked(Limit(kind, amount / found.seconds, found.iqr_s / found.seconds, rows, set_bytes))


def duration(kind: str, found: Duration | NotResolved, rows: int = 1, set_bytes: int = 0) -> Limit | Unresolved:
    """The limit of a kind whose value is a time."""
    if isinstance(found, NotResolved):
        return Unresolved(kind, found.reason, rows, set_bytes)
    return checked(Limit(kind, found.seconds, found.iqr_s / found.seconds, rows, set_bytes))


def microseconds(seconds: float) -> str:
    """12.3 µs."""
    return f"{1e6 * seconds:.3g} µs"

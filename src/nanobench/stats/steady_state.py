"""Where a series of times becomes steady: nothing is dropped as an outlier, and a series that still drifts has no such place.

Barrett et al. 2017, "Virtual Machine Warmup Blows Hot and Cold": some processes never become steady, and must say so.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MIN_VALUES = 20
"""values that a steady suffix holds at the least"""
TOLERANCE = 0.01
"""of the median: what is closer is the same"""
NORMAL_MAD = 1.4826
"""a normal distribution's standard deviation over its median absolute deviation"""
NORMAL_MEDIAN = 1.2533
"""the standard error of a median over that of a mean, of many normal values: sqrt(pi / 2)"""
MAX_CORRELATION = 0.5
"""What is correlated more is a trend, and must not widen the tolerance that it is held against."""


def steady_from(series: Sequence[float]) -> int | None:
    """The smallest k from which `series` (seconds, all above 0) is steady; None where it never is. Scaling changes nothing.

    The suffix from k holds at least 20 values and half of all. x[k] is no spike, up or down; the first five have the median of
    the suffix and the first third that of the last, within 1 % or two standard errors; from end to end the suffix drifts by at
    most 1 %, or not significantly.
    Raises ValueError below 20 values.
    """
    if len(series) < MIN_VALUES:
        raise ValueError(f"{len(series)} values cannot show a steady state: at least {MIN_VALUES} can")
    values = np.asarray(series, dtype=float)
    last = min(len(values) // 2, len(values) - MIN_VALUES)
    return next((k for k in range(last + 1) if is_level(values[k:]) and not drifts(values[k:])), None)


def is_level(suffix: np.ndarray) -> bool:
    """Whether neither the first value, nor the first five, nor the first third stand out. The cheap part of the rule."""
    middle = median(suffix)
    mad = median(np.abs(suffix - middle))
    if abs(suffix[0] - middle) > max(TOLERANCE * middle, 3 * NORMAL_MAD * mad):
        return False
    third, count = len(suffix) // 3, len(suffix)
    first, last, start = median(suffix[:third]), median(suffix[-third:]), median(suffix[:5])
    thirds, begin = abs(first - last), abs(start - middle)
    if max(thirds, begin) <= TOLERANCE * middle:
        return True
    error = value_error(suffix, (last - first) / (count - third))
    # The first five are part of the suffix: the variance of the difference is 1/5 - 1/count, not their sum.
    allowed = (2 * error * math.sqrt(share) for share in (2 / third, 1 / 5 - 1 / count))
    return all(gap <= max(TOLERANCE * middle, most) for gap, most in zip((thirds, begin), allowed, strict=True))


def value_error(suffix: np.ndarray, slope: float) -> float:
    """What one value adds to a median: the standard error of a median of n values, times sqrt(n). In the unit of the values.

    From the median absolute deviation around the line through the thirds, so that a trend is not taken for noise. Of n values
    correlated by r only n * (1 - r) / (1 + r) count: Bayley and Hammersley 1946, for a first-order autoregression.
    """
    residuals = suffix - slope * np.arange(len(suffix))
    residuals = residuals - median(residuals)
    spread = NORMAL_MAD * median(np.abs(residuals))
    r = min(MAX_CORRELATION, max(0.0, lag_one(residuals)))
    return NORMAL_MEDIAN * spread * math.sqrt((1 + r) / (1 - r))


def lag_one(residuals: np.ndarray) -> float:
    """Correlation of each value with the next; 0 where all are equal."""
    centred = residuals - np.mean(residuals)
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if total else 0.0


def drifts(suffix: np.ndarray) -> bool:
    """Whether the suffix rises or falls by more than 1 % of its median from end to end, and surely so.

    By the median of all pairs' slopes and its 95 % interval: Theil 1950, Sen 1968.
    """
    slope, _, low, high = stats.theilslopes(suffix)
    return abs(slope) * (len(suffix) - 1) > TOLERANCE * median(suffix) and not low <= 0 <= high


def median(values: np.ndarray) -> float:
    """The median; numpy's own takes ten times as long for a few values."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)

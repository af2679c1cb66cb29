"""The start of the steady state of a series of times. No value is removed as an outlier; a drifting series has none.

Barrett et al. 2017, "Virtual Machine Warmup Blows Hot and Cold": some processes never reach a steady state, which a benchmark
must report.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MIN_VALUES = 20
"""minimum number of values in a steady suffix"""
TOLERANCE = 0.01
"""relative to the median: smaller differences count as equal"""
NORMAL_MAD = 1.4826
"""standard deviation over median absolute deviation of a normal distribution"""
NORMAL_MEDIAN = 1.2533
"""standard error of the median over that of the mean, for many normal values: sqrt(pi / 2)"""
MAX_CORRELATION = 0.5
"""A stronger correlation is a trend, which must not widen its own tolerance."""


def steady_from(series: Sequence[float]) -> int | None:
    """The smallest index k from which `series` (seconds, all above 0) is steady; None if it never is. It is scale-invariant.

    The suffix from k has at least 20 values and half of the series. x[k] is no outlier; the median of the first five values
    equals that of the suffix, and the median of the first third equals that of the last third, within 1 % or two standard
    errors; the suffix drifts by at most 1 % from end to end, or not significantly.
    Raises ValueError below 20 values.
    """
    if len(series) < MIN_VALUES:
        raise ValueError(f"a steady state needs at least {MIN_VALUES} values, not {len(series)}")
    values = np.asarray(series, dtype=float)
    last = min(len(values) // 2, len(values) - MIN_VALUES)
    return next((k for k in range(last + 1) if is_level(values[k:]) and not drifts(values[k:])), None)


def is_level(suffix: np.ndarray) -> bool:
    """Whether the first value, the first five and the first third agree with the rest: the fast part of the rule."""
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
    """The standard error of a median of n values, times sqrt(n), in the unit of the values.

    From the median absolute deviation around the line through the thirds, so that a trend does not count as noise. The
    effective sample size of n values with lag-one correlation r is n * (1 - r) / (1 + r): Bayley and Hammersley 1946,
    for a first-order autoregression.
    """
    residuals = suffix - slope * np.arange(len(suffix))
    residuals = residuals - median(residuals)
    spread = NORMAL_MAD * median(np.abs(residuals))
    r = min(MAX_CORRELATION, max(0.0, lag_one(residuals)))
    return NORMAL_MEDIAN * spread * math.sqrt((1 + r) / (1 - r))


def lag_one(residuals: np.ndarray) -> float:
    """Lag-one autocorrelation; 0 if all values are equal."""
    centred = residuals - np.mean(residuals)
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if total else 0.0


def drifts(suffix: np.ndarray) -> bool:
    """Whether the suffix rises or falls significantly and by more than 1 % of its median from end to end.

    By the median slope of all pairs and its 95 % interval: Theil 1950, Sen 1968.
    """
    slope, _, low, high = stats.theilslopes(suffix)
    return abs(slope) * (len(suffix) - 1) > TOLERANCE * median(suffix) and not low <= 0 <= high


def median(values: np.ndarray) -> float:
    """The median; ten times as fast as np.median for a few values."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)

"""A quantity that was measured at some places, and its value between them.

Between measured places the logarithm of the value is interpolated; outside of them the nearest value is used.
"""

from collections import defaultdict

import numpy as np

Place = tuple[int, int]
"""Rows and bytes of a limit."""
Curve = dict[int, list[tuple[float, float]]]
"""Rows -> (bytes, value) of each measured place; values are positive."""


def to_curve(values: dict[Place, float]) -> Curve:
    """The values by place as a curve."""
    curve: Curve = defaultdict(list)
    for (rows, set_bytes), value in values.items():
        curve[rows].append((set_bytes, value))
    return curve


def value_at(curve: Curve, rows: float, set_bytes: float) -> float:
    """The value of a curve at a place: interpolated over bytes at each measured number of rows, then over rows."""
    return interpolate(rows, [(place, interpolate(set_bytes, known)) for place, known in curve.items()])


def interpolate(at: float, known: list[tuple[float, float]]) -> float:
    """The value at a place, linear in the logarithms of place and value."""
    known = sorted(known)
    places = np.log([max(place, 1) for place, _ in known])
    return float(np.exp(np.interp(np.log(max(at, 1)), places, np.log([value for _, value in known]))))

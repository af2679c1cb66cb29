"""The attainable limits of a machine, measured for each kind of work: the measured side of a roofline.

A limit is a rate, or for a single operation a time, with its spread. The rate of a matmul depends on its rows and the size of
its weights, that of attention on its queries and the bytes of keys and values. The time of an operation depends on the bytes
that its pass reads, because they evict the host's own data from the caches. Rows and bytes are therefore the axes of a limit.
Between measured places the logarithm of the value is interpolated; outside of them the nearest value is used.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

KINDS = {
    "read": "B/s",
    "copy": "B/s",
    "matmul": "FLOP/s",
    "lm_head": "FLOP/s",
    "attention": "FLOP/s",
    "elementwise": "B/s",
    "argmax": "B/s",
    "operation": "s",
    "pass": "s",
    "sync": "s",
    "host_to_device": "B/s",
}
"""Kind -> unit. `copy` counts bytes read and written; `matmul` has the weights of a block, `lm_head` those of the output layer;
`elementwise` covers norms, activations and additions; `operation` is the dispatch of one operation by the host; `pass` is a
whole pass of a small network, by which a drift check measures how the machine has changed; `sync` waits for an idle device.
"""
OLD_KINDS = {"head": "lm_head", "pick": "argmax"}
"""Kinds of older calibrations -> their current names."""
Place = tuple[int, int]
"""Rows and bytes of a limit."""
Curve = dict[int, list[tuple[float, float]]]
"""Rows -> (bytes, value) of each measured place."""


@dataclass(frozen=True)
class Limit:
    """One measured value of a calibration."""

    kind: str
    value: float
    spread: float
    """relative interquartile range of its samples"""
    rows: int = 1
    """rows of a matmul, queries of an attention"""
    set_bytes: int = 0
    """bytes that it reads: weights of a matmul, keys and values of an attention, for an operation the weights of its pass"""


@dataclass(frozen=True)
class PassChanges:
    """How much longer passes take in drift checks than in the calibration, as ratios by place."""

    ratios: dict[Place, float]

    @cached_property
    def curve(self) -> Curve:
        """The ratios as a curve for interpolation."""
        return to_curve(self.ratios)

    def factor(self, limit: Limit) -> float:
        """The factor by which a limit changes: times increase with the passes, rates decrease. Needs at least one ratio."""
        ratio = value_at(self.curve, limit.rows, limit.set_bytes)
        return ratio if KINDS[limit.kind] == "s" else 1 / ratio


@dataclass(frozen=True)
class Limits:
    """All limits of one device, dtype and number of threads."""

    found: tuple[Limit, ...]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, Any]]) -> "Limits":
        """The limits of a calibration, from one dictionary per limit; kinds with an older name are renamed."""
        return cls(tuple(Limit(**{**row, "kind": OLD_KINDS.get(row["kind"], row["kind"])}) for row in rows))

    @cached_property
    def by_kind(self) -> dict[str, Curve]:
        """Kind -> its curve; the value of a place that was measured several times is the geometric mean."""
        values: dict[str, dict[Place, list[float]]] = defaultdict(lambda: defaultdict(list))
        for limit in self.found:
            values[limit.kind][limit.rows, limit.set_bytes].append(limit.value)
        return {
            kind: to_curve({place: statistics.geometric_mean(each) for place, each in places.items()})
            for kind, places in values.items()
        }

    def at(self, kind: str, rows: float = 1, set_bytes: float = 0) -> float:
        """The value of a kind at a place: interpolated over bytes at each measured number of rows, then over rows.

        Raises KeyError for a kind that was not measured.
        """
        return value_at(self.by_kind[kind], rows, set_bytes)

    def best(self, kind: str) -> float:
        """The largest value of a kind. Raises ValueError for a kind that was not measured."""
        return max(limit.value for limit in self.found if limit.kind == kind)

    def moved(self, drift_checks: Sequence["Limits"]) -> "Limits":
        """The limits at the time of some drift checks: each is changed like the passes at the nearest places."""
        changes = self.pass_changes(drift_checks)
        if not changes.ratios:
            return self
        return Limits(tuple(replace(limit, value=limit.value * changes.factor(limit)) for limit in self.found))

    def pass_changes(self, drift_checks: Sequence["Limits"]) -> PassChanges:
        """How much longer passes take in the drift checks than here: the median over the checks at each place."""
        ratios: dict[Place, list[float]] = defaultdict(list)
        passes = [limit for check in drift_checks for limit in check.found if limit.kind == "pass"]
        for limit in passes if "pass" in self.by_kind else ():
            ratios[limit.rows, limit.set_bytes].append(limit.value / self.at("pass", limit.rows, limit.set_bytes))
        return PassChanges({place: float(np.median(values)) for place, values in ratios.items()})


def to_curve(values: dict[Place, float]) -> Curve:
    """The values by place as a curve."""
    curve: Curve = defaultdict(list)
    for (rows, set_bytes), value in values.items():
        curve[rows].append((set_bytes, value))
    return curve


def value_at(curve: Curve, rows: float, set_bytes: float) -> float:
    """The value of a curve at a place."""
    return interpolate(rows, [(place, interpolate(set_bytes, known)) for place, known in curve.items()])


def interpolate(at: float, known: list[tuple[float, float]]) -> float:
    """The value at a place, linear in the logarithms of place and value."""
    known = sorted(known)
    places = np.log([max(place, 1) for place, _ in known])
    return float(np.exp(np.interp(np.log(max(at, 1)), places, np.log([value for _, value in known]))))

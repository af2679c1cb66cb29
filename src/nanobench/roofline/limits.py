"""What a machine was seen to reach, kind of work by kind of work: the measured side of a roofline.

A limit is a rate, or for a single operation a time, with its spread. A product's rate depends on its rows and on the size of
its weights, an attention's on its queries and on the bytes that it looks at, an operation's time on what the pass around it
reads, because that drives the host's own data out of its caches: these are the axes of a limit. Between measured places the
logarithm of the value is interpolated, beyond them the nearest one holds.
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
    "head": "FLOP/s",
    "attention": "FLOP/s",
    "elementwise": "B/s",
    "pick": "B/s",
    "operation": "s",
    "pass": "s",
    "sync": "s",
    "host_to_device": "B/s",
}
"""Kind -> unit: memory read and copied (both ways counted); products with a layer's weights and with a wide head; attention;
norms, activations and additions; picking the largest logit; dispatching one operation; a whole pass of a small network, by
which a brief calibration sees how the machine moved; waiting for the device; a transfer."""


@dataclass(frozen=True)
class Limit:
    """One figure of a calibration."""

    kind: str
    value: float
    spread: float
    """relative interquartile range of its samples"""
    rows: int = 1
    """rows of a product, queries of an attention"""
    set_bytes: int = 0
    """bytes that it reads: a product's weights, an attention's keys and values, a pass's weights for its operations"""


@dataclass(frozen=True)
class Limits:
    """All limits of one device, dtype and number of threads."""

    found: tuple[Limit, ...]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, Any]]) -> "Limits":
        """The limits of a calibration, a dictionary each."""
        return cls(tuple(Limit(**row) for row in rows))

    @cached_property
    def by_kind(self) -> dict[str, dict[int, list[tuple[float, float]]]]:
        """Kind -> rows -> (bytes, value) of each place; where one was measured more than once, the geometric mean."""
        places: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        for limit in self.found:
            places[limit.kind, limit.rows, limit.set_bytes].append(limit.value)
        found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for (kind, rows, set_bytes), values in places.items():
            found[kind][rows].append((set_bytes, statistics.geometric_mean(values)))
        return found

    def at(self, kind: str, rows: float = 1, set_bytes: float = 0) -> float:
        """The value at a place, interpolated over bytes at each measured number of rows, then over rows.

        Raises KeyError for a kind that was not measured.
        """
        if kind not in self.by_kind:
            raise KeyError(kind)
        return interpolated(rows, [(place, interpolated(set_bytes, known)) for place, known in self.by_kind[kind].items()])

    def best(self, kind: str) -> float:
        """The largest value seen of a kind. Raises ValueError where there is none."""
        return max(limit.value for limit in self.found if limit.kind == kind)

    def moved(self, looks: Sequence["Limits"]) -> "Limits":
        """These limits as brief calibrations saw them later: each times the median change of the passes nearest to it."""
        changes = self.changes(looks)
        if not changes.found:
            return self
        return Limits(tuple(replace(limit, value=limit.value * changes.of(limit)) for limit in self.found))

    def changes(self, looks: Sequence["Limits"]) -> "Limits":
        """How much longer passes took later than here, as the values of limits; their median over the looks."""
        ratios: dict[tuple[int, int], list[float]] = defaultdict(list)
        for limit in (limit for look in looks for limit in look.found if limit.kind == "pass" and "pass" in self.by_kind):
            ratios[limit.rows, limit.set_bytes].append(limit.value / self.at("pass", limit.rows, limit.set_bytes))
        return Limits(tuple(Limit("pass", float(np.median(values)), 0.0, *place) for place, values in ratios.items()))

    def of(self, limit: Limit) -> float:
        """By what a limit's value changes where passes took so much longer: a time grows, a rate falls."""
        longer = self.at("pass", limit.rows, limit.set_bytes)
        return longer if KINDS[limit.kind] == "s" else 1 / longer


def interpolated(at: float, known: list[tuple[float, float]]) -> float:
    """The value at a place, linear in the logarithms of both."""
    known = sorted(known)
    places = np.log([max(place, 1) for place, _ in known])
    return float(np.exp(np.interp(np.log(max(at, 1)), places, np.log([value for _, value in known]))))

"""What a machine was seen to reach, kind of work by kind of work: the measured side of a roofline.

A limit is a rate, or for a single operation a time, with its spread. A product's rate depends on its rows and on whether its
weights stay in a processor's cache, an attention's on its queries and on the bytes that it looks at: these are the axes of a
limit. Between measured places the logarithm of the value is interpolated, beyond them the nearest one holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
    "sync": "s",
    "host_to_device": "B/s",
}
"""Kind -> unit: memory read and copied (both ways counted); products with a layer's weights and with a wide head; attention;
norms, activations and additions; picking the largest logit; dispatching one operation; waiting for the device; a transfer."""

STANDS_FOR = {"head": "matmul", "attention": "matmul", "elementwise": "matmul", "pick": "copy"}
"""Kind -> the one whose drift it is taken to share, as a brief calibration leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One figure of a calibration."""

    kind: str
    value: float
    spread: float
    """relative interquartile range of its samples"""
    rows: int = 1
    """rows of a product, queries of an attention"""
    set_bytes: int = 0
    """bytes that the work cycles through: weights of a product, keys and values of an attention"""


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
        """Kind -> rows -> (bytes, value) of each limit."""
        found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for limit in self.found:
            found[limit.kind][limit.rows].append((limit.set_bytes, limit.value))
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

    @classmethod
    def today(cls, calibration: Mapping[str, Any]) -> "Limits":
        """A calibration's limits, moved as far as the brief ones of a run's rounds had moved: their median over the rounds."""
        found, rounds = cls.from_json(calibration["limits"]), [cls.from_json(each) for each in calibration["brief"].values()]
        return found.moved(found.drift(rounds)) if rounds else found

    def drift(self, rounds: Sequence["Limits"]) -> "Limits":
        """What a few limits were in later rounds, over what they are here: ratios as the values of limits."""
        ratios: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        for limit in (limit for each in rounds for limit in each.found):
            before = self.at(limit.kind, limit.rows, limit.set_bytes)
            ratios[limit.kind, limit.rows, limit.set_bytes].append(limit.value / before)
        return Limits(
            tuple(
                Limit(kind=kind, value=float(np.median(values)), spread=0.0, rows=rows, set_bytes=set_bytes)
                for (kind, rows, set_bytes), values in ratios.items()
            )
        )

    def moved(self, ratios: "Limits") -> "Limits":
        """Every limit times the ratio of its kind, or of the kind that stands for it; unmoved where none does."""
        moved = []
        for limit in self.found:
            kind = STANDS_FOR.get(limit.kind, limit.kind)
            ratio = ratios.at(kind, limit.rows, limit.set_bytes) if kind in ratios.by_kind else 1.0
            moved.append(replace(limit, value=limit.value * ratio))
        return Limits(tuple(moved))


def interpolated(at: float, known: list[tuple[float, float]]) -> float:
    """The value at a place, linear in the logarithms of both."""
    known = sorted(known)
    places = np.log([max(place, 1) for place, _ in known])
    return float(np.exp(np.interp(np.log(max(at, 1)), places, np.log([value for _, value in known]))))

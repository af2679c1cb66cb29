"""The attainable limits of a machine, measured for each kind of work: the measured side of a roofline.

A limit is a rate, or for a single operation a time, with its spread. The rate of a matmul depends on its rows and the size of
its weights, that of attention on its queries and the bytes of keys and values. The time of an operation depends on the bytes
that its pass reads, because they evict the host's own data from the caches. Rows and bytes are therefore the axes of a limit.

A limit has a positive value, or it is not resolved and has a reason. docs/predictions.md has the rules of uncertainty.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from nanobench.roofline.curve import Curve, Place, to_curve, value_at

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
GROUPS = (("operation",), ("matmul", "lm_head", "attention"), ("read", "copy", "argmax", "elementwise"))
"""What a prediction needs: of each group at least one kind. A kind of which nothing was resolved counts at the rate of the
nearest known kind of its group; similar kinds are neighbours."""
STAND_IN = 4.0
"""A value that stands in for one that was not resolved may be wrong by this factor (docs/predictions.md has the evidence)."""
LEAST, MOST = 1e-40, 1e40
"""Values beyond these are no measurement; within them no prediction overflows."""


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

    @property
    def place(self) -> Place:
        """Where on the axes it was measured."""
        return self.rows, self.set_bytes


@dataclass(frozen=True)
class Unresolved:
    """A limit that the measurement did not resolve: it has no value."""

    kind: str
    reason: str
    rows: int = 1
    set_bytes: int = 0

    @property
    def place(self) -> Place:
        """Where on the axes it was measured."""
        return self.rows, self.set_bytes


@dataclass(frozen=True)
class Reading:
    """A limit as a prediction uses it."""

    value: float
    uncertainty: float
    """the value lies between value / (1 + uncertainty) and value * (1 + uncertainty)"""
    note: str = ""
    """for which unresolved limit the value stands in; empty if for none"""


@dataclass(frozen=True)
class PassChanges:
    """How much longer passes take in drift checks than in the calibration, as ratios by place."""

    ratios: dict[Place, float]
    factors: dict[Place, float] = field(default_factory=dict)
    """by which factor the drift checks disagree: exp of half the interquartile range of their log ratios"""

    @cached_property
    def curve(self) -> Curve:
        """The ratios as a curve for interpolation."""
        return to_curve(self.ratios)

    def factor(self, limit: Limit) -> float:
        """The factor by which a limit changes: times increase with the passes, rates decrease. Needs at least one ratio."""
        ratio = value_at(self.curve, *limit.place)
        return ratio if KINDS[limit.kind] == "s" else 1 / ratio

    def applied_to(self, limit: Limit) -> Limit | Unresolved:
        """The limit as it stood at the time of the drift checks; its spread includes how much they disagree."""
        disagreement = value_at(to_curve(self.factors), *limit.place)
        spread = 2 * ((1 + limit.spread / 2) * disagreement - 1)
        return checked(replace(limit, value=limit.value * self.factor(limit), spread=max(0.0, spread)))


@dataclass(frozen=True)
class Limits:
    """All limits of one device, dtype and number of threads."""

    found: tuple[Limit, ...]
    unresolved: tuple[Unresolved, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Limit | Unresolved]) -> "Limits":
        """Those with a value and those without."""
        known = list(entries)
        found = tuple(each for each in known if isinstance(each, Limit))
        return cls(found, tuple(each for each in known if isinstance(each, Unresolved)))

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> "Limits":
        """The limits of a calibration, from one dictionary per limit; kinds with an older name are renamed.

        A value that is null, not a number or not positive is not resolved. Raises KeyError, TypeError or AttributeError for
        what is no list of limits.
        """
        return cls.of(from_row(row) for row in rows)

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary per limit. What was not resolved has the value null, and the reason."""
        null = {"value": None, "spread": None}
        return [*map(asdict, self.found), *({**asdict(each), **null} for each in self.unresolved)]

    @cached_property
    def places(self) -> dict[str, dict[Place, list[Limit]]]:
        """Kind -> place -> what was measured there."""
        places: dict[str, dict[Place, list[Limit]]] = defaultdict(lambda: defaultdict(list))
        for limit in self.found:
            places[limit.kind][limit.place].append(limit)
        return {kind: dict(each) for kind, each in places.items()}

    @cached_property
    def by_kind(self) -> dict[str, Curve]:
        """Kind -> its curve; the value of a place that was measured several times is the geometric mean."""
        return {
            kind: to_curve({place: statistics.geometric_mean(each.value for each in found) for place, found in places.items()})
            for kind, places in self.places.items()
        }

    @cached_property
    def factors(self) -> dict[str, Curve]:
        """Kind -> the curve of the factors by which its values are uncertain."""
        return {
            kind: to_curve({place: uncertainty_factor(found) for place, found in places.items()})
            for kind, places in self.places.items()
        }

    @cached_property
    def readings(self) -> dict[tuple[str, float, float], Reading]:
        """Readings so far: the steps of a call ask for the same places again and again."""
        return {}

    def at(self, kind: str, rows: float = 1, set_bytes: float = 0) -> float:
        """The value of a kind at a place. Raises KeyError for a kind that was not measured."""
        return value_at(self.by_kind[kind], rows, set_bytes)

    def best(self, kind: str) -> float:
        """The largest value of a kind. Raises ValueError for a kind that was not measured."""
        return max(limit.value for limit in self.found if limit.kind == kind)

    def reading(self, kind: str, rows: float = 1, set_bytes: float = 0) -> Reading:
        """The value of a kind at a place, with its uncertainty; another kind of its group stands in for an unknown one.

        Raises KeyError if no kind of the group is known (see `missing`).
        """
        key = kind, rows, set_bytes
        if key not in self.readings:
            source = self.source(kind)
            if source is None:
                raise KeyError(kind)
            note = f"{kind} counts at the rate of {source}: {self.why_unresolved(kind)}" if source != kind else ""
            if not note and self.is_nearest_unresolved(*key):
                note = f"{kind} is not resolved where it is needed: the rate of neighbouring sizes counts"
            factor = value_at(self.factors[source], rows, set_bytes) * (STAND_IN if note else 1.0)
            self.readings[key] = Reading(self.at(source, rows, set_bytes), factor - 1, note)
        return self.readings[key]

    def source(self, kind: str) -> str | None:
        """The kind itself if it was measured, else the first known kind of its group; None if there is none."""
        group = next((group for group in GROUPS if kind in group), (kind,))
        known = [each for each in group if each in self.by_kind]
        return min(known, key=lambda each: abs(group.index(each) - group.index(kind)), default=None)

    def missing(self) -> str | None:
        """Why nothing can be predicted from these limits; None if something can."""
        lost = next((kinds[0] for kinds in GROUPS if self.source(kinds[0]) is None), None)
        return None if lost is None else f"the limit {lost!r} has no value: {self.why_unresolved(lost)}"

    def why_unresolved(self, kind: str) -> str:
        """The reason why a kind has no value."""
        return next((each.reason for each in self.unresolved if each.kind == kind), "it was not measured")

    def is_nearest_unresolved(self, kind: str, rows: float, set_bytes: float) -> bool:
        """Whether the place of a kind that is nearest to this one, in the logarithms of rows and bytes, was not resolved."""
        known = self.places[kind]
        lost = {each.place for each in self.unresolved if each.kind == kind and each.place not in known}

        def distance(place: Place) -> float:
            pairs = zip(place, (rows, set_bytes), strict=True)
            return sum(abs(math.log(max(measured, 1) / max(needed, 1))) for measured, needed in pairs)

        return bool(lost) and min(map(distance, lost)) < min(map(distance, known))

    def moved(self, drift_checks: Sequence["Limits"]) -> "Limits":
        """The limits at the time of some drift checks: each is changed like the passes at the nearest places."""
        return self.changed(self.pass_changes(drift_checks))

    def changed(self, changes: PassChanges) -> "Limits":
        """The limits with a change of passes applied to each; unchanged without a ratio."""
        if not changes.ratios:
            return self
        return Limits.of([*map(changes.applied_to, self.found), *self.unresolved])

    def pass_changes(self, drift_checks: Sequence["Limits"]) -> PassChanges:
        """How much longer passes take in the drift checks than here: the median over the checks at each place."""
        ratios: dict[Place, list[float]] = defaultdict(list)
        passes = [limit for check in drift_checks for limit in check.found if limit.kind == "pass"]
        for limit in passes if "pass" in self.by_kind else ():
            ratios[limit.place].append(limit.value / self.at("pass", *limit.place))
        quartiles = {place: np.percentile(np.log(values), (25, 75)) for place, values in ratios.items()}
        return PassChanges(
            {place: float(np.median(values)) for place, values in ratios.items()},
            {place: math.exp((high - low) / 2) for place, (low, high) in quartiles.items()},
        )


def uncertainty_factor(found: Sequence[Limit]) -> float:
    """By which factor the value of a place is uncertain: half the range, on a logarithmic scale, that its measurements cover.

    A measurement reaches from value / (1 + spread / 2) to value * (1 + spread / 2), about the quartiles of its samples.
    """
    low = min(each.value / (1 + each.spread / 2) for each in found)
    high = max(each.value * (1 + each.spread / 2) for each in found)
    return math.sqrt(high / low)


def checked(limit: Limit) -> Limit | Unresolved:
    """The limit if its value and spread are numbers that can be measured."""
    if limit.kind not in KINDS:
        return Unresolved(limit.kind, f"{limit.kind!r} is no kind of limit that this version knows", *limit.place)
    if not is_number(limit.value) or limit.value < LEAST:
        return Unresolved(limit.kind, f"{limit.value!r} is no positive number", *limit.place)
    if not is_number(limit.spread) or limit.spread < 0:
        return Unresolved(limit.kind, f"its spread {limit.spread!r} is no number of at least 0", *limit.place)
    return limit


def from_row(row: Mapping[str, Any]) -> Limit | Unresolved:
    """One limit of a file."""
    kind = OLD_KINDS.get(row["kind"], row["kind"])
    rows, set_bytes, value = row.get("rows", 1), row.get("set_bytes", 0), row.get("value")
    if not (is_number(rows) and rows >= 1 and is_number(set_bytes) and set_bytes >= 0):
        return Unresolved(kind, f"rows {rows!r} and bytes {set_bytes!r} are no place")
    if value is None:
        return Unresolved(kind, str(row.get("reason") or "the file has no value for it"), rows, set_bytes)
    return checked(Limit(kind, value, row.get("spread", 0.0), rows, set_bytes))


def is_number(value: Any) -> bool:
    """Whether something read from a file is a number, and not one beyond all measurements."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST

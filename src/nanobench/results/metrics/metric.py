"""A column: its name, its unit, which way is better, its formula in words, and the function that computes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nanobench.results.cell import Cell

SECONDS, BYTES, HERTZ, WATTS, JOULES, CELSIUS = "s", "B", "Hz", "W", "J", "C"
TOKENS_PER_S, FLOPS_PER_S, TOKENS, RATIO, COUNT = "tok/s", "FLOP/s", "tokens", "ratio", "count"
FLOPS, BYTES_PER_S, FLOPS_PER_BYTE = "FLOP", "B/s", "FLOP/B"
LOGIT, LOSS, FLAG, TEXT = "logit", "loss", "flag", "text"
NATS, BITS_PER_BYTE = "nats", "bits/B"
UNITS = (
    *(SECONDS, BYTES, HERTZ, WATTS, JOULES, CELSIUS, TOKENS_PER_S, FLOPS_PER_S, TOKENS, RATIO, COUNT, FLOPS, BYTES_PER_S),
    *(FLOPS_PER_BYTE, LOGIT, LOSS, FLAG, TEXT, NATS, BITS_PER_BYTE),
)
"""All units of columns. Storage has SI base units; `views/format.py` says how each is written."""
HIGHER, LOWER, NEITHER = "higher", "lower", ""
T_INTERVAL = "95 % t interval over the launches' logs; over repetitions where there is one launch"
ALLOWED = "95 % t interval over launch means, wider where the arms may have been slowed differently"
ORDER_STATISTICS = "distribution-free 95 % interval"


@dataclass(frozen=True)
class Metric:
    """A column of cells.parquet."""

    name: str
    unit: str
    """one of UNITS"""
    better: str
    """higher, lower or empty"""
    formula: str
    compute: Callable[[Cell], Any]
    """gives None where the cell cannot know"""


class Estimate(Protocol):
    """A value with its bounds."""

    @property
    def value(self) -> float:
        """The estimate."""
        ...

    @property
    def low(self) -> float | None:
        """Lower bound; None where it cannot be known."""
        ...

    @property
    def high(self) -> float | None:
        """Upper bound; None where it cannot be known."""
        ...


def interval(
    name: str, unit: str, better: str, compute: Callable[[Cell], Estimate | None], formula: str, bounds: str = T_INTERVAL
) -> Iterator[Metric]:
    """Three columns: a value, and its bounds with `_lo` and `_hi` in their names, before the unit where that is `_s`."""
    yield Metric(name, unit, better, formula, lambda cell: _part(compute(cell), "value"))
    stem, tail = (name.removesuffix("_s"), "_s") if unit == SECONDS else (name, "")
    yield Metric(f"{stem}_lo{tail}", unit, NEITHER, f"{name}, lower bound: {bounds}", lambda cell: _part(compute(cell), "low"))
    yield Metric(f"{stem}_hi{tail}", unit, NEITHER, f"{name}, upper bound: {bounds}", lambda cell: _part(compute(cell), "high"))


def outcome_first(unit: str, better: str, **formulas: str) -> Iterator[Metric]:
    """Columns that take the first known value of an outcome's field over the launches."""
    for name, formula in formulas.items():
        yield Metric(name, unit, better, formula, lambda cell, name=name: cell.first(name))  # type: ignore[misc]


def outcome_max(unit: str, better: str, **formulas: str) -> Iterator[Metric]:
    """Columns that take the largest value of an outcome's field over the launches."""
    for name, formula in formulas.items():
        yield Metric(name, unit, better, formula, lambda cell, name=name: cell.largest(name))  # type: ignore[misc]


def _part(estimate: Estimate | None, name: str) -> float | None:
    return None if estimate is None else getattr(estimate, name)

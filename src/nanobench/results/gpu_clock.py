"""The SM clock of a GPU while it worked. A reading between two repetitions may be the clock of an idle device."""

from bisect import bisect_left, bisect_right
from functools import lru_cache

import numpy as np

from nanobench.records import Repetition
from nanobench.results.cell import Cell
from nanobench.results.repetitions import seconds, steady


@lru_cache(maxsize=8)
def clocks_hz(cell: Cell) -> tuple[float, ...]:
    """One per timed repetition that samples fell into. Where most are too short for one, the readings at their ends."""
    return under_load(cell) or at_ends(cell)


def pair_of(cell: Cell, other: Cell) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of two cells that are compared: from samples in both, or from readings at the ends in both."""
    found = under_load(cell), under_load(other)
    return found if all(found) else (at_ends(cell), at_ends(other))


def under_load(cell: Cell) -> tuple[float, ...]:
    """The median of the samples in each repetition; empty where most repetitions have none."""
    found = [clock_hz for launch in cell.launches for clock_hz in during(steady(launch), launch.of_kind("sample"))]
    return tuple(found) if 2 * len(found) >= len(cell.steady) else ()


def at_ends(cell: Cell) -> tuple[float, ...]:
    """The readings at the ends of the timed repetitions."""
    return tuple(cell.seen("clock_sm_hz"))


def during(repetitions: list[Repetition], samples: list[Repetition]) -> list[float]:
    """The median of the samples in each repetition, without those that have none."""
    known = sorted((each.started_at, each.clock_sm_hz) for each in samples if each.started_at and each.clock_sm_hz)
    times_s = [at_s for at_s, _ in known]
    found: list[float] = []
    for each in repetitions:
        if each.started_at is not None:
            within = known[bisect_left(times_s, each.started_at) : bisect_right(times_s, each.started_at + seconds(each))]
            found += [float(np.median([hertz for _, hertz in within]))] if within else []
    return found

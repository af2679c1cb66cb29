"""What columns of every kind are computed by: functions of a cell. Each gives None where the cell cannot know."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nanobench.records import LaunchRecord, Repetition, Status
from nanobench.results.cell import Cell
from nanobench.results.repetitions import call_s, seconds
from nanobench.stats import intervals
from nanobench.stats.intervals import Interval

LEAST_WINDOW_S = 3.0
"""NVML's utilization and energy counter say nothing about shorter stretches."""
COMPILED_IN_BUILD = ("cuda-graph",)
"""Engines that compile their step while they are built."""
Repetitions = Iterable[Repetition]


def rate(name: str) -> Callable[[list[Repetition]], float]:
    """A count summed over repetitions, per second of theirs."""
    return lambda repetitions: sum(getattr(each, name) for each in repetitions) / sum(map(seconds, repetitions))


def over_launches(compute: Callable[[list[Repetition]], float]) -> Callable[[Cell], Interval | None]:
    """A figure of all repetitions without timestamps together; its bounds are a t interval over its logs, launch by launch, or
    repetition by repetition where there is one launch.
    """

    def found(cell: Cell) -> Interval | None:
        if not cell.untimestamped:
            return None
        value, launches = compute(cell.untimestamped), list(cell.untimestamped_by_launch.values())
        units = [[each] for each in launches] if len(launches) > 1 else [[[each] for each in launches[0]]]
        ratio = intervals.ratio([[math.log(compute(each)) for each in unit] for unit in units])
        low, high = (None if bound is None else value * bound / ratio.value for bound in (ratio.low, ratio.high))
        return Interval(value, low, high, ratio.basis)

    return found


def value_of(estimate: Interval | None) -> float | None:
    """The value of an estimate."""
    return None if estimate is None else estimate.value


def compile_s(cell: Cell, cold: bool) -> float | None:
    """The first call minus the median timed call, in the arm's first launch (cold inductor cache) or after it (warm). An
    engine that compiles while it is built also counts its build, minus that of the same arm uncompiled. Without round 1 of the
    point, the first launch may be missing: then all are taken as warm.
    """
    usual_s = intervals.median([call_s(each) for each in cell.untimestamped])
    at_point = [*cell.launches, *cell.uncompiled_launches, *cell.reference_launches]
    finished = [launch.launch for launch in cell.launches if launch.finished]
    first = min(finished, default=1) if any(launch.launch == 1 for launch in at_point) else 0
    launches = [launch for launch in cell.launches if (launch.launch <= first) is cold]
    first_s = median_s(launches, "first_call")
    if cell.arm.compile_mode == "off" or usual_s is None or first_s is None:
        return None
    if cell.arm.engine not in COMPILED_IN_BUILD:
        return first_s - usual_s
    built_s, plain_s = median_s(launches, "build"), median_s(cell.uncompiled_launches, "build")
    return None if built_s is None or plain_s is None else first_s - usual_s + built_s - plain_s


def median_s(launches: Iterable[LaunchRecord], kind: str) -> float | None:
    """The median seconds of a phase of some launches."""
    return intervals.median([seconds(each) for launch in launches for each in launch.of_kind(kind)])


def failures(cell: Cell) -> str | None:
    """The reasons of the launches that did not finish, each once."""
    reasons = [f"{each.status}: {each.reason}" for each in cell.outcomes if each.status != Status.OK]
    return "; ".join(dict.fromkeys(reasons)) or None


def pairing(cell: Cell) -> str | None:
    """'block' where the arms were interleaved in one process; 'launch' where they had to run apart."""
    if not cell.speedup_logs:
        return None
    counted = cell.reference.steady_by_launch if cell.reference else {}
    processes = {each.launch: each.process for each in cell.reference_launches if each.launch in counted}
    mine = (each for each in cell.launches if each.launch in cell.steady_by_launch)
    return "block" if any(processes.get(each.launch) == each.process for each in mine) else "launch"


def phase_s(kind: str) -> Callable[[Cell], float | None]:
    """The median over the launches that finished of what a phase took."""

    def compute(cell: Cell) -> float | None:
        phases = (launch.of_kind(kind) for launch in cell.launches if launch.finished)
        return intervals.median([sum(map(seconds, found)) for found in phases if found and found[0].wall_s is not None])

    return compute


def median_reading(name: str) -> Callable[[Cell], float | None]:
    """The median of a reading over the timed repetitions."""
    return lambda cell: intervals.median(cell.seen(name))


def largest_reading(name: str) -> Callable[[Cell], Any]:
    """The largest reading over repetitions and samples."""
    return lambda cell: max([*cell.seen(name), *cell.seen(name, cell.samples)], default=None)


def total_reading(name: str) -> Callable[[Cell], Any]:
    """A reading summed over the timed repetitions."""
    return lambda cell: sum(cell.seen(name)) if cell.seen(name) else None


def sampled(name: str) -> Callable[[Cell], float | None]:
    """The mean of a reading over the samples of the sustained phase; None where that is too short."""

    def compute(cell: Cell) -> float | None:
        values = cell.seen(name, cell.samples)
        return float(np.mean(values)) if values and window_s(cell) >= LEAST_WINDOW_S else None

    return compute


def window_s(cell: Cell) -> float:
    """The shortest of the sustained phases; 0 where there is none."""
    return min(map(seconds, cell.sustained), default=0.0)


def energy_valid(cell: Cell) -> bool | None:
    """Whether the sustained phase was long enough for the energy counter, and the counter gave a number; None without one."""
    if not cell.sustained:
        return None
    return window_s(cell) >= LEAST_WINDOW_S and any(cell.seen("energy_j", cell.sustained))


def energy_per(name: str) -> Callable[[Cell], float | None]:
    """Energy of the sustained phases over what they did (calls or tokens); None where the counter could not follow, and among
    ranks, as it counts one GPU of theirs.
    """

    def compute(cell: Cell) -> float | None:
        if not energy_valid(cell) or cell.point.world_size > 1:
            return None
        known = [each for each in cell.sustained if each.energy_j is not None]
        return sum(each.energy_j or 0.0 for each in known) / sum(getattr(each, name) for each in known)

    return compute


def clock_event_reasons(cell: Cell) -> str | None:
    """Every reason for low clocks that was seen, each once; empty where none was, None where it is not known."""
    seen = cell.seen("clock_event_reasons")
    return ",".join(sorted({name for text in seen for name in text.split(",") if name})) if seen else None

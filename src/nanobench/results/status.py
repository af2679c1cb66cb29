"""How reliable a cell is: what disturbed it, by recorded causes alone, and the status that follows."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanobench.records import Repetition, Status
from nanobench.results.cell import Cell
from nanobench.results.repetitions import steady
from nanobench.stats import intervals

LEAST_ON_CPU = 0.95
MOST_STEAL = 0.02
MOST_PRESSURE = 0.10
MOST_SPIN_DRIFT = 0.05
MOST_THROTTLED = 0.05
MOST_INVALID = 0.20
MOST_CLOCK_SPREAD = 0.03
AA_LEVEL = 0.01
"""An A/A ratio is a disturbance below this p value: rare enough that a sweep of many points raises few false alarms."""
LEAST_SPINS = 6
HELD_DOWN = {"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake"}
"""Reasons for low clocks that are never normal; a power cap is, and counts only where clocks move."""
NEVER_SETTLED = "launches drift or jump and never settle"


class Cause(NamedTuple):
    """How a kind of disturbance is put into words."""

    one: str
    """in one cell, with its `value`, `limit` and `note`"""
    many: str
    """over several cells, without figures"""


CAUSES = {
    "invalid_repetitions": Cause("{note}", "too many repetitions are invalid"),
    "throttled": Cause(
        "clocks or CPU quota were held down in {value:.0%} of the repetitions (limit {limit:.0%})",
        "clocks or CPU quota were held down",
    ),
    "steal": Cause("the hypervisor took {value:.1%} of the time (limit {limit:.0%})", "the hypervisor took CPU time"),
    "pressure": Cause("tasks waited for a core in {value:.0%} of the time (limit {limit:.0%})", "tasks waited for a core"),
    "spin_drift": Cause(
        "a loop of fixed length drifted by {value:.0%} within a launch (limit {limit:.0%})",
        "a loop of fixed length drifted within a launch",
    ),
    "off_cpu": Cause(
        "the main thread had a core for only {value:.0%} of the time (at least {limit:.0%})",
        "the main thread lost its core to something else",
    ),
    "foreign_processes": Cause("other processes on the GPU: {value:.0f}", "other processes on the GPU"),
    "clock_spread": Cause("the SM clock varies by {value:.0%} (limit {limit:.0%})", "the SM clock varies"),
    "clock_difference": Cause(
        "the SM clock differs by {value:+.0%} from the reference's (limit {limit:.0%})",
        "the SM clock differs from the reference's",
    ),
    "aa_ratio": Cause("the reference differs from itself: {value:.3f}x with {note}", "the reference differs from itself"),
}
"""Kind of a disturbance -> its words."""


@dataclass(frozen=True)
class Disturbance:
    """A recorded cause that makes a cell unstable."""

    kind: str
    """one of CAUSES"""
    value: float
    limit: float
    note: str = ""

    def __str__(self) -> str:
        return CAUSES[self.kind].one.format(value=self.value, limit=self.limit, note=self.note)


class Judgement(NamedTuple):
    """A cell's status, and why it is not ok."""

    status: Status
    reason: str | None = None
    disturbances: tuple[Disturbance, ...] = ()


def judge(cell: Cell) -> Judgement:
    """The cell's status and why it is not ok.

    From the launches that finished; a failing status only if none did, except that one `wrong` is wrong.
    """
    found = {each.status for each in cell.outcomes}
    if Status.WRONG in found or Status.OK not in found:
        status = next((status for status in Status if status in found), Status.ERROR)
        return Judgement(status, next((each.reason for each in cell.outcomes if each.status == status and each.reason), None))
    if disturbed := tuple(disturbances(cell)):
        return Judgement(Status.UNSTABLE, "; ".join(map(str, disturbed)), disturbed)
    launches = len(cell.steady_by_launch)
    if 2 * cell.unsteady > launches:
        return Judgement(Status.NO_STEADY_STATE, f"{cell.unsteady} of {launches} {NEVER_SETTLED}")
    target = cell.any_launch.target_ci
    if cell.speedup and cell.speedup.low is not None and cell.speedup.high is not None:
        half = (cell.speedup.high - cell.speedup.low) / 2 / cell.speedup.value
        if half > target:
            return Judgement(Status.IMPRECISE, f"interval wider than +-{target:.0%}; {what_narrows(cell)} narrow it")
    return Judgement(Status.OK)


def disturbed_by(cell: Cell) -> str | None:
    """The kinds of what disturbed a cell, comma-separated; None for a cell that is not unstable."""
    return ",".join(each.kind for each in judge(cell).disturbances) or None


def what_narrows(cell: Cell) -> str:
    """What makes the interval narrower, from where the spread is."""
    advice = cell.components.ci_advice if cell.components else None
    return {"more launches": "more --launches", "more repetitions": "more repetitions (a larger --max-seconds)"}.get(
        advice or "", "more launches or a larger --max-seconds"
    )


def disturbances(cell: Cell) -> Iterator[Disturbance]:
    """Each recorded cause that makes the cell unstable."""
    count, invalid = len(cell.timed), len(cell.invalid)
    if count and invalid / count > MOST_INVALID:
        reasons = (invalid_reasons(cell) or "").replace("; ", ", ")
        note = f"{invalid} of {count} repetitions are invalid ({reasons})"
        yield Disturbance("invalid_repetitions", invalid / count, MOST_INVALID, note)
    for kind, share, limit in (
        ("throttled", throttled_fraction(cell), MOST_THROTTLED),
        ("steal", steal_fraction(cell), MOST_STEAL),
        ("pressure", pressure_fraction(cell), MOST_PRESSURE),
        ("spin_drift", spin_drift(cell), MOST_SPIN_DRIFT),
    ):
        if share is not None and share > limit:
            yield Disturbance(kind, share, limit)
    on_cpu = on_cpu_fraction(cell)
    if on_cpu is not None and on_cpu < LEAST_ON_CPU:
        yield Disturbance("off_cpu", on_cpu, LEAST_ON_CPU)
    if foreign := max(cell.seen("foreign_processes"), default=0):
        yield Disturbance("foreign_processes", foreign, 0)
    yield from moving_clocks(cell)
    p_value = intervals.p_value(cell.aa_logs) if len(cell.aa_logs) > 1 else None
    if p_value is not None and p_value < AA_LEVEL and cell.aa:
        yield Disturbance("aa_ratio", cell.aa.value, 1.0, f"p = {p_value:.2g}")


def moving_clocks(cell: Cell) -> Iterator[Disturbance]:
    """A GPU's clock that moves within the arm, or that differs from the reference's."""
    clocks = cell.seen("clock_sm_hz")
    if len(clocks) > 1 and (spread := float(np.std(clocks) / np.mean(clocks))) > MOST_CLOCK_SPREAD:
        yield Disturbance("clock_spread", spread, MOST_CLOCK_SPREAD)
    others = [each.clock_sm_hz for launch in cell.reference_launches for each in steady(launch) if each.clock_sm_hz]
    if clocks and others and abs(apart := float(np.median(clocks) / np.median(others)) - 1) > MOST_CLOCK_SPREAD:
        yield Disturbance("clock_difference", apart, MOST_CLOCK_SPREAD)


def pressure_fraction(cell: Cell) -> float | None:
    """Share of the time in which tasks waited for a core; None among ranks, whose own threads of communication wait too."""
    return None if cell.point.world_size > 1 else cell.per_second("pressure_s")


def on_cpu_fraction(cell: Cell) -> float | None:
    """CPU time of the main thread over wall time; None on CUDA and among ranks, where the thread may rightly sleep."""
    share = cell.per_second("cpu_s")
    waits = cell.point.device != "cpu" or cell.point.world_size > 1
    return None if share is None or waits else min(1.0, share)


def steal_fraction(cell: Cell) -> float | None:
    """Share of a core's time that the hypervisor took."""
    return cell.per_second("steal_s")


def throttled_fraction(cell: Cell) -> float | None:
    """Share of the repetitions in which a GPU's clocks or a CPU quota held the work down."""
    held: list[Callable[[Repetition], bool | None]] = [
        lambda each: None if each.quota_throttled_periods is None else each.quota_throttled_periods > 0,
        lambda each: None if each.clock_event_reasons is None else bool(HELD_DOWN & set(each.clock_event_reasons.split(","))),
    ]
    known = [[answer for answer in map(ask, cell.steady) if answer is not None] for ask in held]
    return max((sum(answers) / len(answers) for answers in known if answers), default=None)


def spin_drift(cell: Cell) -> float | None:
    """The largest change of a fixed loop's time from the first to the second half of a launch; None with too few of them."""
    drifts = []
    for found in cell.steady_by_launch.values():
        spins = [each.spin_s for each in found if each.spin_s is not None]
        if len(spins) >= LEAST_SPINS:
            half = len(spins) // 2
            drifts.append(abs(float(np.median(spins[half:]) / np.median(spins[:half])) - 1))
    return max(drifts, default=None)


def invalid_reasons(cell: Cell) -> str | None:
    """Why repetitions do not count, each reason once with its number."""
    reasons = Counter(str(each.reason) for each in cell.invalid)
    return "; ".join(f"{number} x {reason}" for reason, number in reasons.items()) or None


def count_causes(disturbed_by: Iterable[str | None]) -> list[tuple[str, int]]:
    """What disturbed cells, in words, and in how many of them; the most frequent first."""
    kinds = Counter(kind for kinds in disturbed_by for kind in (kinds or "").split(",") if kind)
    return [(CAUSES[kind].many, number) for kind, number in kinds.most_common()]

"""How reliable a cell's absolute figures are: what disturbed them, by recorded causes alone, and the status that follows.

Its ratio has a verdict of its own: see `speedup_status.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nanobench.records import Repetition, Status
from nanobench.results import floor
from nanobench.results.cell import Cell
from nanobench.results.gpu_clock import clocks_hz
from nanobench.results.metrics.formulas import over_launches, rate
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
calls_per_s = over_launches(rate("calls"))


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
    "aa_ratio": Cause("the reference differs from itself: {value:.3f}x with {note}", "the reference differs from itself"),
    # Of ratios alone
    "shared_cores": Cause("other programs shared the cores: {note}", "other programs shared the cores"),
    "unequal_speed": Cause(
        "a loop of fixed length took {value:+.0%} beside this arm, compared with the reference (limit {limit:.0%})",
        "the speed of the machine differed between the arms",
    ),
    "clock_difference": Cause(
        "the SM clock differs by {value:+.0%} from the reference's (limit {limit:.0%})",
        "the SM clock differs from the reference's",
    ),
    "unequal_throttling": Cause(
        "clocks or CPU quota were held down in {value:.0%} of this arm's repetitions and {note} of the reference's",
        "clocks or CPU quota were held down in one arm more than in the other",
    ),
    "apart": Cause("the arms ran in separate processes, where noise does not cancel: {note}", "unstable arms ran apart"),
}
"""Kind of a disturbance -> its words."""


@dataclass(frozen=True)
class Disturbance:
    """A recorded cause that makes a cell or a ratio unstable, or that its interval allows for."""

    kind: str
    """one of CAUSES"""
    value: float
    limit: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return CAUSES[self.kind].one.format(value=self.value, limit=self.limit, note=self.note)


class Judgement(NamedTuple):
    """The status of a cell's absolute figures, and why it is not ok."""

    status: Status
    reason: str | None = None
    disturbances: tuple[Disturbance, ...] = ()


@lru_cache(maxsize=4)
def judge(cell: Cell) -> Judgement:
    """The status of a cell's absolute figures, and why it is not ok. Several columns of a row request it.

    From the launches that finished; a failing status only if none did, except that one `wrong` is wrong.
    """
    found = {each.status for each in cell.outcomes}
    if Status.WRONG in found or Status.OK not in found:
        status = next((status for status in Status if status in found), Status.ERROR)
        return Judgement(status, next((each.reason for each in cell.outcomes if each.status == status and each.reason), None))
    if reason := floor.implausible(cell):
        return Judgement(Status.IMPLAUSIBLE, reason)
    if disturbed := tuple(disturbances(cell)):
        return Judgement(Status.UNSTABLE, "; ".join(map(str, disturbed)), disturbed)
    launches = len(cell.steady_by_launch)
    if never_settles(cell):
        return Judgement(Status.NO_STEADY_STATE, f"{cell.unsteady} of {launches} {NEVER_SETTLED}")
    rate = calls_per_s(cell)
    target, half = cell.any_launch.target_ci, intervals.relative_half_width(rate)
    if rate is not None and half is None:
        return Judgement(Status.IMPRECISE, "one repetition gives no interval; more --launches give one")
    if half is not None and half > target:
        narrowed = "more --launches narrow it" if launches > 1 else "more repetitions (a larger --max-seconds) narrow it"
        return Judgement(Status.IMPRECISE, f"throughput within {half:.1%} (target {100 * target:.3g}%); {narrowed}")
    return Judgement(Status.OK)


def never_settles(cell: Cell) -> bool:
    """Whether most launches drift or jump until their end."""
    return 2 * cell.unsteady > len(cell.steady_by_launch)


def disturbed_by(cell: Cell) -> str | None:
    """The kinds of what disturbed a cell's absolute figures, comma-separated; None for a cell that is not unstable."""
    return ",".join(each.kind for each in judge(cell).disturbances) or None


def disturbances(cell: Cell) -> Iterator[Disturbance]:
    """Each recorded cause that makes the cell unstable."""
    yield from too_many_invalid(cell)
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
    yield from others_on_gpu(cell)
    clocks = clocks_hz(cell)
    if len(clocks) > 1 and (spread := float(np.std(clocks) / np.mean(clocks))) > MOST_CLOCK_SPREAD:
        yield Disturbance("clock_spread", spread, MOST_CLOCK_SPREAD)
    yield from unequal_aa(cell)


def too_many_invalid(cell: Cell) -> Iterator[Disturbance]:
    """More invalid repetitions than the others can stand for."""
    count, invalid = len(cell.timed), len(cell.invalid)
    if count and invalid / count > MOST_INVALID:
        reasons = (invalid_reasons(cell) or "").replace("; ", ", ")
        note = f"{invalid} of {count} repetitions are invalid ({reasons})"
        yield Disturbance("invalid_repetitions", invalid / count, MOST_INVALID, note)


def others_on_gpu(cell: Cell) -> Iterator[Disturbance]:
    """Other processes on the GPU: kernels of several processes take turns."""
    if foreign := max(cell.seen("foreign_processes"), default=0):
        yield Disturbance("foreign_processes", foreign)


def unequal_aa(cell: Cell) -> Iterator[Disturbance]:
    """An A/A ratio that is not 1: the order of the repetitions mattered, for times and ratios alike."""
    p_value = intervals.p_value(cell.aa_logs) if len(cell.aa_logs) > 1 else None
    if p_value is not None and p_value < AA_LEVEL and cell.aa:
        yield Disturbance("aa_ratio", cell.aa.value, 1.0, f"p = {p_value:.2g}")


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

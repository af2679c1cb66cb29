"""Whether a cell can be believed: what disturbed it, by recorded causes alone, and the status that follows."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nanobench.records import Status
from nanobench.results.cell import Cell
from nanobench.results.repetitions import by_key, steady_rows, timed_rows
from nanobench.stats import intervals

LEAST_ON_CPU = 0.95
MOST_STEAL = 0.02
MOST_PRESSURE = 0.10
MOST_SPIN_DRIFT = 0.05
MOST_THROTTLED = 0.05
MOST_INVALID = 0.20
MOST_CLOCK_SPREAD = 0.03
AA_LEVEL = 0.01
"""A null contrast fires below this p value: seldom enough that a sweep of many points does not cry wolf."""
LEAST_SPINS = 6
HELD_DOWN = {"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake"}
"""Reasons for low clocks that are never normal; a power cap is, and counts only where clocks move."""


def judge(cell: Cell) -> tuple[Status, str | None]:
    """The cell's status and why it is not ok.

    From the launches that finished; a failing status only if none did, except that one `wrong` is wrong.
    """
    found = {row["status"] for row in cell.outcomes}
    if Status.WRONG in found or Status.OK not in found:
        status = next((status for status in Status if status in found), Status.ERROR)
        return status, next((row["reason"] for row in cell.outcomes if row["status"] == status and row["reason"]), None)
    if reasons := list(disturbances(cell)):
        return Status.UNSTABLE, "; ".join(reasons)
    launches = len({row["launch"] for row in cell.steady})
    if 2 * cell.unsteady > launches:
        return Status.NO_STEADY_STATE, f"{cell.unsteady} of {launches} launches drift or jump and never settle"
    target = cell.rows[0]["target_ci"]
    if cell.speedup and cell.speedup.low is not None and cell.speedup.high is not None:
        half = (cell.speedup.high - cell.speedup.low) / 2 / cell.speedup.value
        if half > target:
            return Status.IMPRECISE, f"interval wider than +-{target:.0%}; {mend(cell)} narrow it"
    return Status.OK, None


def mend(cell: Cell) -> str:
    """What makes the interval narrower, from where the spread is."""
    ci_advice = cell.components.ci_advice if cell.components else None
    return {"more launches": "more --launches", "more repetitions": "more repetitions (a larger --max-seconds)"}.get(
        ci_advice or "", "more launches or a larger --max-seconds"
    )


def disturbances(cell: Cell) -> Iterator[str]:
    """Each recorded cause that makes the cell unstable, with its figure and its limit."""
    timed = len(timed_rows(cell.rows))
    if timed and len(cell.invalid) / timed > MOST_INVALID:
        causes = (invalid_reasons(cell) or "").replace("; ", ", ")
        yield f"{len(cell.invalid)} of {timed} repetitions are invalid ({causes})"
    for share, limit, words in (
        (throttled(cell), MOST_THROTTLED, "clocks or CPU quota were held down in {:.0%} of the repetitions"),
        (steal_fraction(cell), MOST_STEAL, "the hypervisor took {:.1%} of the time"),
        (pressure_fraction(cell), MOST_PRESSURE, "tasks waited for a core in {:.0%} of the time"),
        (spin_drift(cell), MOST_SPIN_DRIFT, "a loop of fixed length drifted by {:.0%} within a launch"),
    ):
        if share is not None and share > limit:
            yield f"{words.format(share)} (limit {limit:.0%})"
    on_cpu = on_cpu_fraction(cell)
    if on_cpu is not None and on_cpu < LEAST_ON_CPU:
        yield f"the main thread had a core for {on_cpu:.0%} of the time (at least {LEAST_ON_CPU:.0%}): something else takes it"
    if foreign := max(cell.seen("foreign_processes"), default=0):
        yield f"{foreign} other process{'' if foreign == 1 else 'es'} on the GPU"
    yield from moving_clocks(cell)
    p_value = intervals.p_value(cell.aa_logs) if len(cell.aa_logs) > 1 else None
    if p_value is not None and p_value < AA_LEVEL and cell.aa:
        yield f"the reference differs from itself: {cell.aa.value:.3f}x with p = {p_value:.2g}"


def moving_clocks(cell: Cell) -> Iterator[str]:
    """A GPU's clock that moves within the arm, or that differs from the reference's."""
    clocks = cell.seen("clock_sm_hz")
    if len(clocks) > 1 and np.std(clocks) / np.mean(clocks) > MOST_CLOCK_SPREAD:
        yield f"the SM clock varies by {np.std(clocks) / np.mean(clocks):.0%} (limit {MOST_CLOCK_SPREAD:.0%})"
    others = [row["clock_sm_hz"] for row in steady_rows(cell.reference_rows) if row["clock_sm_hz"]]
    if clocks and others and abs(apart := float(np.median(clocks) / np.median(others)) - 1) > MOST_CLOCK_SPREAD:
        yield f"the SM clock differs by {apart:+.0%} from the reference's (limit {MOST_CLOCK_SPREAD:.0%})"


def pressure_fraction(cell: Cell) -> float | None:
    """Share of the time in which tasks waited for a core; None among ranks, whose own threads of communication wait too."""
    return None if cell.point.world_size > 1 else cell.per_second("pressure_s")


def on_cpu_fraction(cell: Cell) -> float | None:
    """CPU time of the main thread over wall time; None on CUDA and among ranks, where the thread may rightly sleep."""
    share = cell.per_second("cpu_s")
    waits = cell.rows[0]["device"] != "cpu" or cell.point.world_size > 1
    return None if share is None or waits else min(1.0, share)


def steal_fraction(cell: Cell) -> float | None:
    """Share of a core's time that the hypervisor took."""
    return cell.per_second("steal_s")


def throttled(cell: Cell) -> float | None:
    """Share of the repetitions in which a GPU's clocks or a CPU quota held the work down."""
    held: list[Callable[[dict], bool | None]] = [
        lambda row: None if row["quota_throttled_periods"] is None else row["quota_throttled_periods"] > 0,
        lambda row: (
            None if row["clock_event_reasons"] is None else bool(HELD_DOWN & set(row["clock_event_reasons"].split(",")))
        ),
    ]
    known = [[answer for answer in map(ask, cell.steady) if answer is not None] for ask in held]
    return max((sum(answers) / len(answers) for answers in known if answers), default=None)


def spin_drift(cell: Cell) -> float | None:
    """The largest change of a fixed loop's time from the first to the second half of a launch; None with too few of them."""
    drifts = []
    for rows in by_key(cell.steady, "launch").values():
        spins = [row["spin_s"] for row in rows if row["spin_s"] is not None]
        if len(spins) >= LEAST_SPINS:
            half = len(spins) // 2
            drifts.append(abs(float(np.median(spins[half:]) / np.median(spins[:half])) - 1))
    return max(drifts, default=None)


def invalid_reasons(cell: Cell) -> str | None:
    """Why repetitions do not count, each reason once with its number."""
    reasons = by_key(cell.invalid, "reason")
    return "; ".join(f"{len(rows)} x {reason}" for reason, rows in reasons.items()) or None


def causes(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Causes in the reasons of unstable cells, without the figures that differ from cell to cell; the most frequent first."""
    parts = (part for reason in reasons for part in reason.split("; "))
    words = (part.partition(" (limit")[0].replace("processes", "process") for part in parts)
    return Counter(re.sub(r"[+-]?\d[\d.]*(e-?\d+)?", "..", each) for each in words).most_common()

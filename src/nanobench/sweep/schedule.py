"""Which launches a sweep runs: the planned rounds, then further launches of the points that gain from them.

The number of launches of a point follows from recorded disturbances and from the spread of its planned launches, never from
the value of a ratio: see docs/decisions/0032-extra-launches.md.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from nanobench.records import JUDGED, MEASURED, LaunchRecord, Status
from nanobench.results import speedup_status, status
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow, cells_of
from nanobench.results.metrics.formulas import rate
from nanobench.results.repetitions import point_of
from nanobench.results.set_aside import is_disturbed
from nanobench.schema import Plan, Point, Trial
from nanobench.stats import curve as curves
from nanobench.stats import intervals

LEAST_LAUNCHES = 3
"""Planned launches of a sweep that launches points again: fewer do not show a spread between launches."""
MOST = 3
"""No point has more than this many times the planned launches."""
EXTRA_TIME = 0.5
"""Extra launches take at most this share of the planned launches' time, where --max-minutes does not say more."""
PERMANENT = 0.75
"""Where so many of the latest trials were disturbed, the disturbance is permanent, and a launch more would meet it too."""
LATEST = 4
"""The latest trials are those of the last round, at least so many."""
CURVE_ERROR = 0.015
"""Log by which an interpolated speedup or throughput may be wrong, where --adaptive chooses no further batch size."""
FINAL = (Status.WRONG, Status.SKIPPED, Status.OOM, Status.TIMEOUT)
"""Outcomes that another launch would only repeat."""
CALLS = rate("calls")
CHOSEN, LEAST_SIZES = 0.25, 5
"""The share of the candidates that --adaptive measures at most, and how many it may measure of a few."""
Launches = Mapping[int, Sequence[LaunchRecord]]
"""Number of a launch of one point -> its arms."""


class Needs(NamedTuple):
    """The points that gain from another launch, the least precise first, and why others do not."""

    points: list[Point]
    reasons: list[str]


class Need(NamedTuple):
    """What a point lacks."""

    cells: list[Cell]
    """on which conclusions rest"""
    disturbed: bool
    """whether fewer launches than planned were undisturbed"""
    counting: int
    """launches that count"""
    launches: int | None
    """that its conclusions need to be as precise as wanted; None where the most that are allowed are too few"""


# Rounds
def adaptive_round(plan: Plan, cells: Callable[[], Sequence[CellRow]]) -> Iterator[Trial]:
    """The trials of the first round of an adaptive sweep: each is chosen from the cells that the ones before left."""
    for _ in plan.points:
        point = next_point(plan, cells())
        if point is None:
            return
        yield plan.trial(point, 1)


def planned_round(plan: Plan, launch: int, launches: Sequence[LaunchRecord]) -> list[Trial]:
    """The trials of another planned round, in the order of the plan, which is random: if the time is up within the round, it is
    not the points that look most precise that are left out, so intervals keep their meaning. An adaptive sweep has the points
    of its first round only.
    """
    chosen = {each.point for each in launches} if plan.adaptive else set(plan.points)
    return [plan.trial(point, launch) for point in plan.order(launch) if point in chosen]


def limit_s(plan: Plan, planned_s: float) -> float:
    """Seconds after which no extra launch begins, given what the planned ones took."""
    return plan.max_minutes * 60 if plan.max_minutes is not None else (1 + EXTRA_TIME) * planned_s


# Extra launches
def needs(plan: Plan, launches: Sequence[LaunchRecord]) -> Needs:
    """The points to launch again now. Without any, the sweep is finished."""
    if not plan.extra_launches or plan.gate_only or plan.launches < LEAST_LAUNCHES:
        return Needs([], [])
    by_point: dict[Point, dict[int, list[LaunchRecord]]] = defaultdict(lambda: defaultdict(list))
    for each in launches:
        by_point[each.point][each.launch].append(each)
    found = {point: need for point, own in by_point.items() if (need := need_of(plan, own))}
    disturbed, latest = latest_disturbed(by_point)
    permanent = disturbed >= PERMANENT * latest
    again = [
        point
        for point, need in found.items()
        if len(by_point[point]) < MOST * plan.launches
        and ((need.disturbed and not permanent) or (need.launches is not None and need.launches > need.counting))
    ]
    widths = widths_of(cell for need in found.values() for cell in need.cells)
    again.sort(key=lambda point: -widths[point])
    return Needs(again, list(refusals(plan, found, permanent, (disturbed, latest))))


def refusals(plan: Plan, found: Mapping[Point, Need], permanent: bool, latest: tuple[int, int]) -> Iterator[str]:
    """Why some points are not launched again although they are disturbed or imprecise."""
    if permanent and any(need.disturbed for need in found.values()):
        yield f"{latest[0]} of the last {latest[1]} trials were disturbed, so disturbed launches are not replaced"
    beyond = sum(need.launches is None for need in found.values())
    if beyond:
        reach = f"would not reach intervals within +-{100 * plan.target_ci:.3g}% with {MOST * plan.launches} launches"
        yield f"{beyond} of {len(found)} points {reach}"


def need_of(plan: Plan, launches: Launches) -> Need | None:
    """What one point lacks; None where no arm can be measured again."""
    finished = {number: found for number, found in launches.items() if any(each.finished for each in found)}
    undisturbed = sum(not is_disturbed(found) for found in finished.values())
    made = cells_of(each for found in launches.values() for each in found)
    cells = [cell for cell in made if concludes(plan, cell) and not is_final([*cell.launches, *cell.reference_launches])]
    if not cells:
        return None
    needed = [launches_needed(plan, cell) for cell in cells]
    known = None if None in needed else max(each for each in needed if each is not None)
    counting = min(len(cell.steady_by_launch) for cell in cells)
    return Need(cells, undisturbed < plan.launches, counting, known)


def is_final(launches: Iterable[LaunchRecord]) -> bool:
    """Whether a launch ended in a way that another would only repeat."""
    return any(each.outcome.status in FINAL for each in launches)


def concludes(plan: Plan, cell: Cell) -> bool:
    """Whether conclusions rest on a cell: on its ratio, or on its throughput where the sweep has one arm."""
    if len(plan.arms) == 1:
        return bool(cell.steady)
    found = speedup_status.judge(cell)
    return found is not None and found.status in JUDGED


def widths_of(cells: Iterable[Cell]) -> dict[Point, float]:
    """Point -> the largest half-width of its cells."""
    found: dict[Point, float] = defaultdict(float)
    for cell in cells:
        found[cell.point] = max(found[cell.point], half_width(cell))
    return found


def half_width(cell: Cell) -> float:
    """Of the interval that conclusions rest on, as a share of its value; infinite without one."""
    found = status.calls_per_s(cell) if cell.is_reference else speedup_status.speedup(cell)
    width = intervals.relative_half_width(found)
    return math.inf if width is None else width


def launches_needed(plan: Plan, cell: Cell) -> int | None:
    """Launches of which the interval is expected to be as narrow as wanted, by the spread of the first ones that count; None
    where the most that are allowed are too few.

    What the interval allows for unlike disturbances does not become less with more launches.
    """
    found = speedup_status.judge(cell)
    bias = max(found.bias.below, found.bias.above) if found else 0.0
    first = first_means(cell, plan.launches)
    return intervals.launches_for_width(first, math.log1p(plan.target_ci) - bias, MOST * plan.launches)


def first_means(cell: Cell, count: int) -> list[float]:
    """The mean log ratio, or the log of the throughput, of the first launches that count."""
    if cell.is_reference:
        return [math.log(CALLS(found)) for _, found in sorted(cell.untimestamped_by_launch.items())][:count]
    return intervals.launch_means(cell.speedup_logs)[:count]


def latest_disturbed(by_point: Mapping[Point, Launches]) -> tuple[int, int]:
    """How many of the latest trials that finished were disturbed, and how many these are."""
    trials = [(number, found) for own in by_point.values() for number, found in own.items() if any(e.finished for e in found)]
    trials.sort(key=lambda pair: -pair[0])
    latest = [is_disturbed(found) for _, found in islice(trials, max(LATEST, len(by_point)))]
    return sum(latest), len(latest)


# Adaptive
def next_point(plan: Plan, cells: Sequence[CellRow]) -> Point | None:
    """The candidate at which some curve over batch sizes is known least; None where all are known well enough.

    A batch size at which an arm failed ends that arm's curve: it and larger ones are no candidates of it.
    """
    settings: dict[Point, list[Point]] = defaultdict(list)
    for point in plan.points:
        settings[replace(point, batch_size=0)].append(point)
    for setting, points in settings.items():
        sizes = sorted(point.batch_size for point in points)
        size = next_size(sizes, [cell for cell in cells if replace(point_of(cell), batch_size=0) == setting])
        if size is not None:
            return replace(setting, batch_size=size)
    return None


def next_size(sizes: Sequence[int], cells: Sequence[CellRow]) -> int | None:
    """The batch size to measure next in one setting."""
    arms: dict[int, dict[int, CellRow]] = defaultdict(dict)
    for cell in cells:
        arms[cell["arm_index"]][cell["batch_size"]] = cell
    compared = [own for index, own in sorted(arms.items()) if index or len(arms) == 1] or [{}]
    for own in compared:
        end = min((size for size, cell in own.items() if cell["status"] not in MEASURED), default=math.inf)
        known = {size: found for size, cell in own.items() if size < end and (found := known_at(cell))}
        candidates = [size for size in sizes if size in known or (size not in own and size < end)]
        most = max(LEAST_SIZES, round(CHOSEN * len(candidates)))
        size = curves.next_size([known], candidates, CURVE_ERROR, most) if candidates else None
        if size is not None:
            return size
    return None


def known_at(cell: CellRow) -> curves.Known | None:
    """The log of a cell's ratio, or of its throughput, with its standard error; None where the cell has none."""
    name = "speedup" if cell["arm_index"] else ("train_tok_s" if cell["seq_len"] else "output_tok_s")
    value, low, high = cell[name], cell[f"{name}_lo"], cell[f"{name}_hi"]
    return curves.Known.of(value, low, high) if value else None

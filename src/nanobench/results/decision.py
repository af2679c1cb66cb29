"""The answer of an A/B comparison: NEW is faster than BASE, slower, the same within a threshold, or that is undecided.

It is answered again after more launches, so the intervals are those of `stats/sequential.py`. Several points together are
corrected by Holm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nanobench.records import JUDGED, LaunchRecord, Verdict
from nanobench.results import speedup_status
from nanobench.results.cell import Cell
from nanobench.results.derive import cells_of
from nanobench.results.run_context import Machine
from nanobench.results.run_info import RunInfo
from nanobench.schema import Point
from nanobench.stats import intervals, sequential


class Answer(StrEnum):
    """What is known of NEW."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNDECIDED = "undecided"
    DIFFERENT = "different outputs"
    FAILED = "failed"


FINAL = (Answer.DIFFERENT, Answer.FAILED)
"""Answers that no further launch changes."""


@dataclass(frozen=True)
class Decision:
    """The answer at one point, or over all of them."""

    answer: Answer
    ratio: float | None = None
    """time of BASE over time of NEW: above 1 where NEW is faster"""
    low: float | None = None
    high: float | None = None
    """interval that holds at all looks together"""
    launches: int = 0
    """that it rests on"""
    needed: int | None = None
    """launches after which it is expected to be decided; None where that is unknown, or not within the most that are allowed"""
    reason: str | None = None
    """why nothing is decided, or what makes the interval wider"""


@dataclass(frozen=True)
class Look:
    """What one point shows now."""

    bounds: sequential.Bounds | None
    p_value: float
    """of equal speed, over all looks together"""
    launches: int
    values: tuple[float, ...]
    """mean log ratio of each launch"""
    reason: str | None
    below: float = 0.0
    """how much lower the interval reaches for what may have disturbed the sides differently, as a log ratio"""
    above: float = 0.0
    refused: bool = False
    """nothing can be concluded from these launches"""


def decide(
    launches: Sequence[LaunchRecord], threshold: float, allow_different: bool = False, machine: Machine | None = None
) -> dict[Point, Decision]:
    """Point -> the answer there. `threshold` is the log ratio below which a difference does not matter. `machine` has the
    limits that no time can be below.
    """
    cells = {cell.point: cell for cell in cells_of(launches, machine) if not cell.is_reference}
    final = {point: found for point, cell in cells.items() if (found := failure(cell, allow_different))}
    looks = {point: look_at(cell) for point, cell in cells.items() if point not in final}
    adjusted = dict(zip(looks, intervals.holm([look.p_value for look in looks.values()]), strict=True))
    decided = {point: answer_of(look, adjusted[point], threshold) for point, look in looks.items()}
    return {point: (final | decided)[point] for point in cells}


def overall(
    launches: Sequence[LaunchRecord], threshold: float, by_point: dict[Point, Decision], machine: Machine | None = None
) -> Decision:
    """One answer over all points: of the mean log ratio over the points, launch by launch."""
    for answer in FINAL:
        found = [each for each in by_point.values() if each.answer is answer]
        if found:
            return found[0]
    if len(by_point) == 1:
        return next(iter(by_point.values()))
    looks = [look_at(cell) for cell in cells_of(launches, machine) if not cell.is_reference]
    count = min((len(look.values) for look in looks), default=0)
    reason = next((look.reason for look in sorted(looks, key=lambda look: not look.refused) if look.reason), None)
    if any(look.refused for look in looks):
        return answer_of(Look(None, 1.0, count, (), reason), None, threshold)
    means = [float(np.mean([look.values[index] for look in looks])) for index in range(count)]
    below, above = (float(np.mean(each)) for each in zip(*((look.below, look.above) for look in looks), strict=True))
    return answer_of(look_of(means, below, above, reason), None, threshold)


def machine_of(info: RunInfo) -> Machine | None:
    """The machine of a comparison; None where the sides' models have different sizes: the limits of one say nothing of both."""
    return info.machine if len(info.description.models) == 1 else None


def failure(cell: Cell, allow_different: bool) -> Decision | None:
    """Why there is no speed to compare: an arm that failed, or outputs that differ."""
    outcomes = [*(each.outcome for each in cell.reference_launches), *cell.outcomes]
    failed = next((each for each in outcomes if each.status not in ("ok", "skipped")), None)
    if failed is not None:
        return Decision(Answer.FAILED, reason=f"{failed.status}: {failed.reason}")
    skipped = next((each for each in outcomes if each.status == "skipped"), None)
    if skipped is not None:
        return Decision(Answer.FAILED, reason=f"skipped: {skipped.reason}")
    different = next((each for each in cell.outcomes if each.across is Verdict.WRONG), None)
    if different is not None and not allow_different:
        return Decision(Answer.DIFFERENT, reason=different.across_note)
    return None


def look_at(cell: Cell) -> Look:
    """The interval of a point's launch means, wider for what may have disturbed the two sides differently."""
    found = speedup_status.judge(cell)
    values = intervals.launch_means(cell.speedup_logs) if cell.speedup_logs and all(cell.speedup_logs) else []
    if found is None or found.status not in JUDGED:
        reason = found.reason if found else "no launch has a pair"
        return Look(None, 1.0, len(values), tuple(values), reason, refused=True)
    reason = "; ".join(map(str, found.bias.causes)) or None
    return look_of(values, found.bias.below, found.bias.above, reason)


def look_of(values: Sequence[float], below: float, above: float, reason: str | None) -> Look:
    """The interval and the p value of launch means at the last look."""
    bounds = sequential.bounds(values)
    if bounds is None:
        return Look(None, 1.0, len(values), tuple(values), reason, below, above)
    wide = sequential.Bounds(bounds.mean, bounds.low - below, bounds.high + above)
    p_value = sequential.p_value(values, below, above)
    return Look(wide, p_value, sequential.looked_at(values), tuple(values), reason, below, above)


def answer_of(look: Look, adjusted: float | None, threshold: float) -> Decision:
    """The answer that an interval gives: `same` where it lies within the threshold; faster or slower where it excludes 1 and
    the estimate is beyond the threshold.
    """
    if look.bounds is None:
        first = sequential.LOOKS[0]
        return Decision(
            Answer.UNDECIDED, launches=look.launches, needed=first if look.launches < first else None, reason=look.reason
        )
    mean, low, high = look.bounds
    p_value = look.p_value if adjusted is None else adjusted
    answer = Answer.UNDECIDED
    if -threshold < low and high < threshold:
        answer = Answer.SAME
    elif p_value < 1 - intervals.CONFIDENCE and abs(mean) >= threshold:
        answer = Answer.FASTER if mean > 0 else Answer.SLOWER
    needed = None
    if answer is Answer.UNDECIDED:
        # If the estimate is the truth: enough to exclude 1 beyond the threshold, or to lie within it. The bias does not shrink.
        distance = abs(mean) if abs(mean) >= threshold else threshold - abs(mean)
        distance -= max(look.below, look.above)
        needed = sequential.launches_to_decide(look.values, distance) if distance > 0 else None
    return Decision(answer, math.exp(mean), math.exp(low), math.exp(high), look.launches, needed, look.reason)

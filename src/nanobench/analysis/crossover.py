"""From which batch size on, or up to which, an arm is faster than the reference: predicted (with an interval) and measured."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from nanobench.analysis.explain import PUBLISHED, of_setting, over
from nanobench.analysis.verdict import SETTING, marked
from nanobench.records import JUDGED
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow
from nanobench.roofline.prediction import Operations

MOST_BATCH = 4096


@dataclass(frozen=True)
class Pays:
    """From which batch size on an arm is faster than the reference, or up to which."""

    start: int | None
    """None where it is not faster at the largest batch size"""
    least: int
    """the smallest batch size that was compared"""
    most: int
    until: int | None = None
    """the last batch size up to which it is faster, where it is at the smallest one and not at the largest"""


@dataclass(frozen=True)
class Crossover:
    """From which batch size an arm is faster, predicted and measured; None for what is not known."""

    where: CellRow
    reference: str
    arm: str
    predicted: Pays | None
    earliest: Pays | None
    """if the predictions underestimate the arm's speedup"""
    latest: Pays | None
    """if the predictions overestimate it"""
    measured: Pays | None


Forecast = Callable[[int], float]
"""Batch size -> predicted seconds of a call."""


def crossovers(rows: list[CellRow], made: list[Cell]) -> list[Crossover]:
    """One per setting and arm other than the reference."""
    forecasts, settings = forecasts_of(made), defaultdict(list)
    for row in rows:
        settings[row["run"], of_setting(row)].append(row)
    groups = [group for group in settings.values() if any(row["arm_index"] == 0 for row in group)]
    indices = [(group, index) for group in groups for index in sorted({row["arm_index"] for row in group}) if index]
    return [crossover(group, index, forecasts) for group, index in indices]


def crossover(group: list[CellRow], index: int, forecasts: dict[Any, Forecast]) -> Crossover:
    """The crossover of one arm of a setting."""
    reference, mine = ([row for row in group if row["arm_index"] == each] for each in (0, index))
    judged = [row for row in mine if row["speedup_status"] in JUDGED or row["status"] == PUBLISHED]
    forecast_of = {each: forecasts.get((of_setting(group[0]), each)) for each in (0, index)}
    where = {name: group[0][name] for name in ("run", *SETTING)}
    found = predicted(forecast_of[0], forecast_of[index], judged)
    return Crossover(where, name_of(reference), name_of(mine), *found, measured(judged))


def name_of(rows: list[CellRow]) -> str:
    """The name of the arm of some cells; that of an approximation says so."""
    return marked(rows[0]["arm"], rows)


def forecasts_of(made: list[Cell]) -> dict[Any, Forecast]:
    """Setting and arm -> its forecast, where some cell of it has a prediction."""
    cells: dict[Any, list[Cell]] = defaultdict(list)
    for cell in made:
        if cell.prediction:
            cells[of_setting(vars(cell.point)), cell.arm_index].append(cell)
    return {key: forecast(each) for key, each in cells.items()}


def forecast(cells: list[Cell]) -> Forecast:
    """The forecast for an arm from the median operation counts of its cells, which hardly depend on the batch size."""
    limits = cells[0].machine.limits_of_run(cells[0].point, cells[0].arm.weights)
    assert limits is not None
    counts = [(cell.first("operations_prefill"), cell.first("operations_per_step") or 0.0) for cell in cells]
    operations = Operations(*np.median(counts, axis=0).tolist())

    @cache
    def seconds(batch_size: int) -> float:
        point = replace(cells[0].point, batch_size=batch_size)
        return cells[0].predict(point, limits, operations).call.total_s

    return seconds


def predicted(
    reference: Forecast | None, arm: Forecast | None, judged: list[CellRow]
) -> tuple[Pays | None, Pays | None, Pays | None]:
    """Where the predicted speedup crosses 1, and the smallest and largest batch size where it might.

    The error of a predicted speedup is the log of measured over predicted, one per reliable batch size of these two arms.
    Predictions are not fitted, so errors scatter around 0. With s the root mean square over n batch sizes, a further error
    lies within t * s, where t is Student's 97.5 % quantile at n degrees of freedom. The bounds are the crossings of the
    predicted speedup times exp(t * s) and divided by exp(t * s); None below two batch sizes. Errors at neighbouring batch
    sizes are similar, so the interval is more often too narrow than too wide.
    """
    if reference is None or arm is None:
        return None, None, None
    errors = [math.log(share) for row in judged if (share := over(row["speedup"], row["predicted_speedup"]))]
    found = crossing(reference, arm, 1.0)
    if len(errors) < 2:
        return found, None, None
    reach = math.exp(stats.t.ppf(0.975, len(errors)) * math.sqrt(float(np.mean(np.square(errors)))))
    return found, crossing(reference, arm, reach), crossing(reference, arm, 1 / reach)


def crossing(reference: Forecast, arm: Forecast, factor: float) -> Pays:
    """The smallest whole batch size up to MOST_BATCH from which on the predicted speedup, times a factor, stays at 1 or above;
    without one, the largest up to which it does.

    Checks powers of two, then bisects between the last one that is slower and the next. A dip between two powers is missed.
    """

    def loses(batch_size: int) -> bool:
        return reference(batch_size) * factor < arm(batch_size)

    losing = [size for size in (2**power for power in range(MOST_BATCH.bit_length())) if loses(size)]
    if not losing:
        return Pays(1, 1, MOST_BATCH)
    if losing[-1] < MOST_BATCH:
        return Pays(change(loses, losing[-1], 2 * losing[-1]), 1, MOST_BATCH)
    until = None if losing[0] == 1 else change(loses, losing[0] // 2, losing[0]) - 1
    return Pays(None, 1, MOST_BATCH, until)


def change(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first number above `low` for which something holds as for `high`, and not as for `low`, by bisection."""
    at_low = holds(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) == at_low else (low, middle)
    return high


def measured(judged: list[CellRow]) -> Pays | None:
    """The first measured batch size from which the whole interval of every reliable ratio lies above 1; without one, the last
    up to which it does. None without a ratio.

    A published ratio has no interval; its value is compared with 1.
    """
    bounds = [(row["batch_size"], row["speedup"] if row["status"] == PUBLISHED else row["speedup_lo"]) for row in judged]
    known = sorted((batch_size, bound) for batch_size, bound in bounds if bound is not None)
    if not known:
        return None
    wins = [bound > 1 for _, bound in known]
    after, before = len(wins) - wins[::-1].index(False) if False in wins else 0, (*wins, False).index(False)
    start = known[after][0] if after < len(known) else None
    return Pays(start, known[0][0], known[-1][0], known[before - 1][0] if start is None and before else None)

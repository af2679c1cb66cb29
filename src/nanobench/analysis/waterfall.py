"""What each change contributes to the whole: one factor per change, and their product is the measured total.

The chains of arms are fixed. Generation: logits at every position, at the last one alone, a cache, a compiled step, a captured
CUDA graph. Training: a step run eagerly, a compiled one.
From the first arm at the smallest batch size to the last one at the largest two ways lead: the arms first, then the batch, or
the batch first. Where a change is worth more at one batch size than at another, the two ways tell it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nanobench.analysis.verdict import SETTING
from nanobench.records import JUDGED, MEASURED, LaunchRecord
from nanobench.results.cell import Cell, by_point_and_arm
from nanobench.results.repetitions import arm_of, call_times, mean_logs, paired_logs, point_of, steady
from nanobench.results.set_aside import counted
from nanobench.results.speedup_status import Bias, bias_of
from nanobench.schema import Arm, Point
from nanobench.stats import intervals

LaunchesOf = dict[tuple[Point, Arm], list[LaunchRecord]]
Logs = dict[int, list[float]]
"""Launch -> logs of ratios."""
BATCH, TOGETHER = "batch", "together"
STEPS = {
    "uncached-full-logits": "full logits",
    "uncached": "last logits only",
    "cached": "cache",
    "compiled": "compile",
    "graph": "CUDA graph",
}
TRAINING_STEPS = {"eager": "eager", "compiled": "compile"}
"""Link of a chain -> the change that leads to it."""
ALIKE = ["sampler", "checkpointing", "cross_entropy", "param_dtype", "optimizer_kernel"]
"""What all arms of a chain have in common with the first arm."""
MOST_GAP = 0.01
"""Products and total that differ by more are not of the same calls."""
Place = tuple[str, int]
"""Arm and batch size."""


@dataclass(frozen=True)
class Factor:
    """How many times the output one change multiplies."""

    step: str
    before: str
    """arm"""
    after: str
    from_batch: int
    to_batch: int
    ratio: intervals.Interval | None
    """None where no launch has both cells"""
    judged: bool
    """whether it enters conclusions: as a ratio of arms that took turns, or between batch sizes as one of two reliable cells"""


@dataclass(frozen=True)
class Waterfall:
    """The factors of one setting."""

    where: dict[str, Any]
    arms: list[str]
    """in the order of the chain"""
    batches: list[int]
    """the smallest and the largest batch size at which all these arms were measured, or the only one"""
    arms_first: list[Factor]
    """the arms at the smallest batch size, then the last arm's batch"""
    batch_first: list[Factor]
    """the first arm's batch, then the arms at the largest batch size; empty for a single batch size"""
    total: Factor
    interaction: Factor | None
    """the cache's factor, or in training compiling's, at the largest batch size over that at the smallest"""
    left_out: list[str]
    """links without an arm"""
    aside: list[str]
    """arms that are no link"""

    @property
    def products(self) -> list[float | None]:
        """The product of the factors along each way: the total, where all arms have the same pairs in the same launches."""
        return [product([each.ratio for each in way]) for way in (self.arms_first, self.batch_first) if way]

    @property
    def gap(self) -> float:
        """The largest share by which a product differs from the total; 0 where one of them is not known."""
        total = self.total.ratio
        return max((abs(each / total.value - 1) for each in self.products if each and total), default=0.0)


def product(ratios: list[intervals.Interval | None]) -> float | None:
    """All ratios multiplied; None where one is not known."""
    known = [ratio.value for ratio in ratios if ratio]
    return math.prod(known) if len(known) == len(ratios) else None


def waterfalls(cells: pd.DataFrame, launches: Iterable[LaunchRecord]) -> list[Waterfall]:
    """One per run and setting that has two arms of the chain at one batch size."""
    launches_of = by_point_and_arm(counted(launches))
    names = [name for name in ("run", *SETTING) if name in cells]
    found = (waterfall(group[names].to_dict("records")[0], group, launches_of) for _, group in cells.groupby(names, sort=False))
    return [each for each in found if each]


def waterfall(where: dict[str, Any], cells: pd.DataFrame, launches_of: LaunchesOf) -> Waterfall | None:
    """The factors of one setting; None where there are no two arms to compare."""
    steps = steps_of(cells)
    main = steps["compiled"] if steps is TRAINING_STEPS else steps["cached"]
    chain, batches = common(cells, links(cells))
    if len(chain) < 2:
        return None
    index, arms = RatioIndex(cells, launches_of), list(chain.values())
    ways = [index.arm_steps(chain, batch) for batch in batches]
    first, last = (arms[0], batches[0]), (arms[-1], batches[-1])
    if len(batches) > 1:
        ways[0].append(index.factor(BATCH, (arms[-1], batches[0]), last))
        ways[1].insert(0, index.factor(BATCH, first, (arms[0], batches[1])))
    return Waterfall(
        where=where,
        arms=arms,
        batches=batches,
        arms_first=ways[0],
        batch_first=ways[1] if len(batches) > 1 else [],
        total=index.factor(TOGETHER, first, last),
        interaction=index.interaction(main, *ways) if len(batches) > 1 else None,
        left_out=[link for link in steps if link not in chain],
        aside=[arm for arm in in_order(cells) if arm not in arms],
    )


def steps_of(cells: pd.DataFrame) -> dict[str, str]:
    """The chain of what a setting measures."""
    return TRAINING_STEPS if cells["seq_len"].iloc[0] else STEPS


def in_order(cells: pd.DataFrame) -> list[str]:
    """The arms as they were listed."""
    return [str(arm) for arm in cells.sort_values("arm_index", kind="stable")["arm"].drop_duplicates()]


def links(cells: pd.DataFrame) -> dict[str, str]:
    """Link -> its arm, in the order of the chain; of several the one listed first, all with the sampler of the first arm."""
    first = cells.sort_values("arm_index", kind="stable")[ALIKE].iloc[0]
    found: dict[str, str] = {}
    for arm in in_order(cells):
        rows = cells[cells["arm"].eq(arm) & cells[ALIKE].eq(first).all(axis=1)]
        name = link(rows) if len(rows) else None
        if name:
            found.setdefault(name, arm)
    return {name: found[name] for name in steps_of(cells) if name in found}


def link(cells: pd.DataFrame) -> str | None:
    """Which link the cells of an arm are; what replays CUDA graphs is one, whichever way it came to them."""
    engine, plain = cells["engine"].iloc[0], cells["compile_mode"].iloc[0] == "off"
    if cells["seq_len"].iloc[0]:
        return "eager" if plain else "compiled"
    replays = bool(cells["graph_launches_per_step"].astype(float).gt(0).any())
    if engine == "cuda-graph" or (engine == "cached" and replays):
        return "graph"
    if engine == "cached":
        return "cached" if plain else "compiled"
    return str(engine) if plain and engine in STEPS else None


def common(cells: pd.DataFrame, chain: dict[str, str]) -> tuple[dict[str, str], list[int]]:
    """The most links that were measured at one batch size, and the smallest and the largest batch size that have them all."""
    measured = cells[cells["status"].isin(MEASURED) & cells["arm"].isin(list(chain.values()))]
    at = {int(batch): frozenset(rows["arm"]) for batch, rows in measured.groupby("batch_size")}
    if not at:
        return {}, []
    chosen = max(at.values(), key=lambda found: (len(found), sum(found <= other for other in at.values())))
    batches = [batch for batch, found in at.items() if chosen <= found]
    return {name: arm for name, arm in chain.items() if arm in chosen}, sorted({batches[0], batches[-1]})


class RatioIndex:
    """The launches of one setting, by arm and batch size, and the ratios between any two of them."""

    def __init__(self, cells: pd.DataFrame, launches_of: LaunchesOf) -> None:
        self.launches: dict[Place, list[LaunchRecord]] = {}
        self.judged: dict[Place, bool] = {}
        self.has_reliable_ratio: dict[Place, bool] = {}
        """also of the reference, which every ratio refers to"""
        for _, cell in cells.iterrows():
            place = str(cell["arm"]), int(cell["batch_size"])
            self.launches[place] = launches_of.get((point_of(cell), arm_of(cell)), [])
            self.judged[place] = cell["status"] in JUDGED
            self.has_reliable_ratio[place] = cell["arm_index"] == 0 or cell["speedup_status"] in JUDGED

    def logs(self, before: Place, after: Place) -> Logs:
        """Launch -> log of how much faster: pair by pair at one batch size, else of the launch's mean log throughputs."""
        launches = self.launches[before], self.launches[after]
        if before[1] == after[1]:
            return pairs(*launches)
        slow, fast = map(rates, launches)
        return {launch: [fast[launch] - slow[launch]] for launch in fast if launch in slow}

    def factor(self, step: str, before: Place, after: Place) -> Factor:
        """The ratio of two cells, with its interval over launches.

        The judgement follows what the ratio is made of: pairs at one batch size, else the cells' own throughputs.
        """
        logs, bias = list(self.logs(before, after).values()), self.bias(before, after)
        reliable = self.has_reliable_ratio if before[1] == after[1] else self.judged
        ratio = intervals.ratio(logs, bias.below, bias.above) if logs else None
        return Factor(step, before[0], after[0], before[1], after[1], ratio, reliable[before] and reliable[after])

    def bias(self, before: Place, after: Place) -> Bias:
        """What the interval of a ratio between two arms at one batch size allows for; nothing between batch sizes."""
        if before[1] != after[1] or not self.launches[before] or not self.launches[after]:
            return Bias()
        return bias_of(Cell(self.launches[before]), Cell(self.launches[after]))

    def arm_steps(self, chain: dict[str, str], batch: int) -> list[Factor]:
        """From each arm of the chain to the next, at one batch size."""
        steps = zip(chain.values(), list(chain.items())[1:], strict=False)
        names = STEPS | TRAINING_STEPS
        return [self.factor(names[name], (before, batch), (after, batch)) for before, (name, after) in steps]

    def interaction(self, main: str, small: list[Factor], large: list[Factor]) -> Factor | None:
        """What a change is worth at the largest batch size over what it is worth at the smallest, launch by launch."""
        ends = [each for each in (*small, *large) if each.step == main]
        if len(ends) < 2:
            return None
        places = [((each.before, each.from_batch), (each.after, each.to_batch)) for each in ends]
        low, high = (self.logs(*pair) for pair in places)
        logs = [[float(np.mean(high[launch]) - np.mean(low[launch]))] for launch in low if launch in high]
        small_bias, large_bias = (self.bias(*pair) for pair in places)
        below, above = large_bias.below + small_bias.above, large_bias.above + small_bias.below
        ratio, judged = intervals.ratio(logs, below, above) if logs else None, all(each.judged for each in ends)
        return Factor(ends[0].step, ends[0].before, ends[0].after, ends[0].from_batch, ends[1].from_batch, ratio, judged)


def pairs(before: list[LaunchRecord], after: list[LaunchRecord]) -> Logs:
    """Launch -> log of the time of one arm over that of another, per pair."""
    others = {each.launch: each for each in before}
    found = {each.launch: paired_logs(each, others.get(each.launch), call_times) for each in after}
    return {launch: logs for launch, logs in found.items() if logs}


def rates(launches: list[LaunchRecord]) -> dict[int, float]:
    """Launch -> mean over its repetitions of the log of tokens per second: output tokens, or in training those with loss."""
    found = {}
    for each in launches:
        repetitions = steady(each)
        logs = list(mean_logs(call_times(repetitions)).values())
        if logs:
            first = repetitions[0]
            tokens = (first.useful_tokens or 0) if each.point.trains else first.tokens
            found[each.launch] = math.log(tokens / first.calls) - float(np.mean(logs))
    return found

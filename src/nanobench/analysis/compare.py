"""Two recorded runs: how far they may be compared, and what changed from one to the other, cell by cell.

Runs that were not measured in turns differ by more than their intervals say: by the day, the temperature, the neighbours. So
intervals are wider and differences must be larger the less two runs have in common, and runs of two machines are not compared
in speed at all; the speedups within each run are, because the machine cancels in them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
from scipy import stats

from nanobench.analysis import machine_speed
from nanobench.analysis.machine_speed import Speeds
from nanobench.analysis.recorded_run import RecordedRun
from nanobench.errors import UserError
from nanobench.records import JUDGED
from nanobench.results import speedup_status, status
from nanobench.results.cell import Cell
from nanobench.results.metrics.formulas import rate
from nanobench.results.request import OF_ONE_RUN, resumed
from nanobench.results.run_info import UNCOMPARED, RunInfo
from nanobench.results.speedup_status import Bias
from nanobench.schema import Arm, Point
from nanobench.source_code import Source
from nanobench.stats import intervals
from nanobench.stats.two_samples import Difference, Sample, difference

HARDWARE = ("cpu", "cores", "cpu_quota", "gpus", "gpu_facts", "system")
"""Facts of the identity that belong to the machine; all others are software."""
SESSION = timedelta(hours=1)
"""Two runs are of one session where the second begins within this time after the end of the first."""
BETWEEN_SESSIONS = 0.02
"""Standard deviation of a throughput between sessions of one machine (a log), at least; docs/evidence.md."""
KINDS = ("throughput", "speedup")
"""What is compared of a cell: the first decides the verdict."""
DRIFT_SHARE, DRIFT_CELLS = 0.8, 5
"""Where so many of at least so many cells moved in one direction, the machine itself may have changed."""


class Relation(StrEnum):
    """What two runs have in common."""

    SAME_SESSION = "same_session"
    SAME_MACHINE = "same_machine"
    SOFTWARE_DIFF = "software_diff"
    CROSS_MACHINE = "cross_machine"


DELTA = {
    Relation.SAME_SESSION: 0.02,
    Relation.SAME_MACHINE: 0.05,
    Relation.SOFTWARE_DIFF: 0.05,
    Relation.CROSS_MACHINE: 0.05,
}
"""Relation -> the difference of a throughput (a share) below which nothing is said."""


class Change(StrEnum):
    """What became of a cell from BASE to NEW."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    AMBIGUOUS = "ambiguous"
    NOT_COMPARABLE = "not_comparable"


@dataclass(frozen=True)
class Row:
    """One cell that both runs have."""

    point: Point
    arm: Arm
    kind: str
    """throughput, or speedup: the ratio to the run's own reference"""
    change: Change
    ratio: float | None = None
    """of NEW to BASE; above 1 where NEW is faster"""
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    machine_speed: float | None = None
    """of NEW over BASE, by a loop of fixed length; the ratio is adjusted for it. None for a ratio that is not"""


@dataclass(frozen=True)
class Comparison:
    """What two runs say together."""

    relation: Relation
    differences: tuple[str, ...]
    """what differs in machine, software and code, one sentence each"""
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    """cells that only one of the runs has"""
    drift: str | None
    """why the machine itself may have changed"""

    @property
    def change(self) -> Change:
        """The verdict over all throughputs: slower where any is."""
        found = counts(self.rows).get(KINDS[0], Counter())
        for change in (Change.SLOWER, Change.FASTER, Change.AMBIGUOUS, Change.SAME):
            if found[change]:
                return change
        return Change.NOT_COMPARABLE

    @property
    def machine_speeds(self) -> list[float | None]:
        """Of NEW over BASE, for each throughput; None for one that is not adjusted for it."""
        return [row.machine_speed for row in self.rows if row.kind == KINDS[0]]

    @property
    def machine_speed(self) -> float | None:
        """Their median; None where no throughput is adjusted."""
        return intervals.median([speed for speed in self.machine_speeds if speed is not None])


def compare(base: RecordedRun, new: RecordedRun) -> Comparison:
    """Everything that can be said of two runs. Raises UserError for runs of different protocols or workloads."""
    refuse(base, new)
    relation = relation_of(base.info, new.info)
    points = len(fields(Point))
    both = sorted((key for key in base.cells if key in new.cells), key=lambda key: (*key[:points], new.cells[key].arm_index))
    pairs = [(base.cells[key], new.cells[key]) for key in both]
    same_loop = machine_speed.is_same_loop(base.info, new.info)
    speeds = [machine_speed.speeds(side) if same_loop else {} for side in zip(*pairs, strict=True)]
    rows = [row for pair in pairs for row in rows_of(*pair, speeds, relation, len(pairs))]
    missing = [
        f"only in {run.name}: {words_of(cell)}"
        for run, other in ((base, new), (new, base))
        for key, cell in run.cells.items()
        if key not in other.cells
    ]
    return Comparison(relation, tuple(differences(base.info, new.info)), tuple(rows), tuple(missing), drift_of(rows))


def refuse(base: RecordedRun, new: RecordedRun) -> None:
    """Raises UserError for runs that cannot be compared at all."""
    protocols = [each.info.protocol for each in (base, new)]
    if protocols[0] != protocols[1]:
        raise UserError(
            f"{base.name} was measured by protocol {protocols[0]}, {new.name} by protocol {protocols[1]}; measure one again"
        )
    for run in (base, new):
        if not run.launches:
            again = resumed(run.info.command, run.name)
            raise UserError(f"{run.name} has no finished trial{again and '; continue it with: ' + again}")


def words_of(cell: Cell) -> str:
    """A cell in words."""
    point = cell.point
    length = f"sequence {point.seq_len}" if point.trains else f"prompt {point.prompt_len}, new {point.new_tokens}"
    return f"{point.model}, batch {point.batch_size}, {length}, {cell.arm.label}"


# What two runs have in common
def relation_of(base: RunInfo, new: RunInfo) -> Relation:
    """From their machine, their software, and the time between them."""
    was, now = base.description.identity, new.description.identity
    if any(was.get(name) != now.get(name) for name in HARDWARE):
        return Relation.CROSS_MACHINE
    if any(was.get(name) != now.get(name) for name in {**was, **now} if name not in UNCOMPARED):
        return Relation.SOFTWARE_DIFF
    first, second = sorted((base, new), key=lambda info: info.started_at)
    ended = first.finished_at or first.started_at
    apart = datetime.fromisoformat(second.started_at) - datetime.fromisoformat(ended)
    same_host = base.description.state.get("hostname") == new.description.state.get("hostname")
    return Relation.SAME_SESSION if same_host and apart <= SESSION else Relation.SAME_MACHINE


def differences(base: RunInfo, new: RunInfo) -> Iterable[str]:
    """What differs in machine, software and code."""
    was, now = base.description.identity, new.description.identity
    for name in {**was, **now}:
        if name != "hash" and was.get(name) != now.get(name):
            yield f"{name}: {was.get(name)} -> {now.get(name)}"
    yield from code_differences(base, new)
    options = {**base.requested, **new.requested}
    for name in options:
        if name not in OF_ONE_RUN and base.requested.get(name) != new.requested.get(name):
            yield f"--{name.replace('_', '-')}: {said(base.requested.get(name))} -> {said(new.requested.get(name))}"


def said(value: object) -> str:
    """An option's value in words."""
    return "default" if value is None else str(value)


def code_differences(base: RunInfo, new: RunInfo) -> Iterable[str]:
    """The sources whose files differ, with their versions."""
    was, now = base.description.code, new.description.code
    for name in {**was, **now}:
        old, young = was.get(name), now.get(name)
        if old is None or young is None or dict(old.files) != dict(young.files):
            yield f"code of {name}: {' -> '.join(versions(old, young))}"


def versions(*sources: Source | None) -> list[str]:
    """The version of each source; with the hash of its files where all have the same, as for files that git ignores."""
    names = [source.version if source else "none" for source in sources]
    if len({*names}) == 1:
        return [f"{name} ({source.files_version})" for name, source in zip(names, sources, strict=True) if source]
    return names


# Cells
def rows_of(base: Cell, new: Cell, speeds: Sequence[Speeds], relation: Relation, cells: int) -> Iterable[Row]:
    """The throughput of a cell, where the machine is the same; and its speedup, on any two machines. `cells` are compared in
    all.
    """
    if relation is not Relation.CROSS_MACHINE:
        yield throughput(base, new, speeds, relation, cells)
    if not base.is_reference and not new.is_reference:
        yield speedup(base, new, relation, cells)


def throughput(base: Cell, new: Cell, speeds: Sequence[Speeds], relation: Relation, cells: int) -> Row:
    """Calls (or steps) per second of NEW over those of BASE, at an equal speed of the machine where that is known."""
    samples = [machine_speed.throughput(cell, known) for cell, known in zip((base, new), speeds, strict=True)]
    found = difference(samples[0], samples[1])
    is_adjusted = found is not None and found.is_adjusted
    for whose, cell in (("BASE", base), ("NEW", new)):
        judged = status.judge(cell)
        if not (judged.status in JUDGED or (is_adjusted and has_only_drifted(cell))):
            reason = f"{whose} is {judged.status}: {judged.reason}"
            return Row(new.point, new.arm, "throughput", Change.NOT_COMPARABLE, reason=reason)
    return row_of(new, "throughput", found, relation, cells)


def has_only_drifted(cell: Cell) -> bool:
    """Whether nothing but a changing speed of the machine disturbed a cell, which is what an adjustment allows for."""
    return {each.kind for each in status.judge(cell).disturbances} == {"spin_drift"} and not status.never_settles(cell)


def speedup(base: Cell, new: Cell, relation: Relation, cells: int) -> Row:
    """The speedup over the run's own reference, of NEW over BASE."""
    biases: list[Bias] = []
    for whose, cell in (("BASE", base), ("NEW", new)):
        found = speedup_status.judge(cell)
        if found is None or found.status not in JUDGED:
            reason = f"the ratio of {whose} is {found.status if found else 'missing'}: {found.reason if found else ''}"
            return Row(new.point, new.arm, "speedup", Change.NOT_COMPARABLE, reason=reason.strip(": "))
        biases.append(found.bias)
    samples = [Sample(intervals.launch_means(cell.speedup_logs)) for cell in (base, new)]
    below, above = biases[1].below + biases[0].above, biases[1].above + biases[0].below
    return row_of(new, "speedup", difference(samples[0], samples[1]), relation, cells, below, above)


def row_of(
    cell: Cell, kind: str, found: Difference | None, relation: Relation, cells: int, below: float = 0.0, above: float = 0.0
) -> Row:
    """A ratio with its interval: `faster` and `slower` lie beyond the difference that counts with their whole interval, `same`
    within it. `below` and `above` are what may have disturbed the arms differently.

    Between sessions on one machine each run has BETWEEN_SESSIONS beyond its own spread. The intervals of all `cells` together
    hold with 95 % (Bonferroni): one cell that is slower decides the exit code.
    """
    if found is None:
        return Row(cell.point, cell.arm, kind, Change.NOT_COMPARABLE, reason="a run has one launch; measure with two or more")
    # Of two machines a difference of the machines is what is looked for.
    between = BETWEEN_SESSIONS if relation in (Relation.SAME_MACHINE, Relation.SOFTWARE_DIFF) else 0.0
    tail = intervals.TAIL / cells
    half = math.hypot(found.half_width(tail), float(stats.norm.isf(tail)) * math.sqrt(2) * between)
    low, high = found.mean - half - below, found.mean + half + above
    limit = math.log1p(DELTA[relation])
    change = Change.AMBIGUOUS
    if low > limit:
        change = Change.FASTER
    elif high < -limit:
        change = Change.SLOWER
    elif -limit <= low and high <= limit:
        change = Change.SAME
    speed = None if found.of_covariates is None else math.exp(found.of_covariates)
    return Row(cell.point, cell.arm, kind, change, math.exp(found.mean), math.exp(low), math.exp(high), machine_speed=speed)


def drift_of(rows: Sequence[Row]) -> str | None:
    """Whether most cells moved in one direction, as they do where the machine changed and not the code."""
    moved = [row.ratio for row in rows if row.kind == "throughput" and row.ratio is not None]
    if len(moved) < DRIFT_CELLS:
        return None
    up = sum(ratio > 1 for ratio in moved)
    share = max(up, len(moved) - up) / len(moved)
    shift = float(np.median(moved)) - 1
    if share < DRIFT_SHARE or abs(shift) < BETWEEN_SESSIONS / 2:
        return None
    return (
        f"{share:.0%} of {len(moved)} cells moved in one direction (median {shift:+.1%}): the machine itself may have changed"
    )


def varying(rows: Iterable[Row]) -> list[str]:
    """The fields of points that differ within rows."""
    points = [row.point for row in rows]
    return [each.name for each in fields(Point) if len({getattr(point, each.name) for point in points}) > 1]


def counts(rows: Sequence[Row]) -> dict[str, Counter[Change]]:
    """Kind -> how many of its rows changed how; without kinds that no row has."""
    found = {kind: Counter(row.change for row in rows if row.kind == kind) for kind in KINDS}
    return {kind: changes for kind, changes in found.items() if changes}


def throughputs(base: RecordedRun, new: RecordedRun) -> list[tuple[str, str, float | None, float | None]]:
    """Cell and arm in words, and the tokens per second of both runs; None where a run has no reliable figure."""
    found: list[tuple[str, str, float | None, float | None]] = []
    for key in dict.fromkeys([*base.cells, *new.cells]):
        pair = [run.cells.get(key) for run in (base, new)]
        known = next(cell for cell in pair if cell is not None)
        found.append((words_of(known), known.arm.label, tokens_per_s(pair[0]), tokens_per_s(pair[1])))
    return found


def tokens_per_s(cell: Cell | None) -> float | None:
    """Of a cell with reliable figures."""
    if cell is None or status.judge(cell).status not in JUDGED:
        return None
    return rate("tokens")(cell.untimestamped)

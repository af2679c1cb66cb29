"""Candidates for the fastest setting: how they stand after some rounds of launches, and which of them leave.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"):
after each of its first launches, a candidate of the slower half leaves. After that a candidate leaves when the interval of its
ratio to the best one excludes 1. Launches of one round are paired.

To compile takes most of the time of a search. So each compiled arm is first launched at one point, where it is fastest
uncompiled; its gain there says at which other points it can win.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nanobench.records import MEASURED, LaunchRecord, Status, Verdict
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow, cells_of, row_of
from nanobench.results.metrics.formulas import rate
from nanobench.results.run_context import Machine
from nanobench.schema import Arm, Point
from nanobench.stats import intervals

HALVINGS = 2
"""Launches of a candidate after which it may leave in the slower half: further ones have intervals."""
NEAR = math.log(1.1)
"""Log ratio to the best within which a candidate of the slower half stays: a single launch is not more precise than that."""
MIN_LAUNCHES = 3
"""Shared launches from which on a ratio has an interval: two say next to nothing of how launches vary."""
GAIN_MARGIN = math.log(1.5)
"""Log ratio by which compiling may gain more at a point than where its arm was launched first."""
FINALISTS = 2
"""Candidates that halving leaves over: their interval alone distinguishes the winner from the runner-up."""
TOKENS = rate("tokens")


@dataclass(frozen=True)
class Candidate:
    """A setting: a point and an arm."""

    point: Point
    arm: Arm


@dataclass(frozen=True)
class Standing:
    """How a candidate stands."""

    candidate: Candidate
    row: CellRow
    """its cell"""
    logs: Mapping[int, float]
    """launch -> log of what is to be large"""
    failure: str | None
    """why it cannot win, whatever its speed"""
    speed: float | None = None
    """the mean log, as if it had been launched in all rounds; None without a launch"""

    @property
    def is_able(self) -> bool:
        """Whether it can win."""
        return self.failure is None


def standings(
    launches: Iterable[LaunchRecord], goal: str, limits: Mapping[str, float], machine: Machine | None = None
) -> list[Standing]:
    """The candidates, the best first; those that cannot win come last. `limits` has the largest value by column."""
    found = with_speeds([standing_of(cell, goal, limits) for cell in cells_of(launches, machine)])
    return sorted(found, key=lambda each: (not each.is_able, -each.speed if each.speed is not None else math.inf))


def with_speeds(found: Sequence[Standing]) -> list[Standing]:
    """Sets the speeds. The machine is faster in some rounds, and not all candidates are launched in all of them: so each is
    compared in the rounds that it shares with the one that has most launches.
    """
    base = max(found, key=lambda each: len(each.logs), default=None)
    return [replace(each, speed=speed_beside(base, each)) if base and each.logs else each for each in found]


def speed_beside(base: Standing, other: Standing) -> float:
    """The mean log of a candidate over all launches of `base`, by the ratio of the two where they share launches."""
    shared = set(base.logs) & set(other.logs)
    if not shared:
        return statistics.fmean(other.logs.values())
    behind = statistics.fmean(other.logs[launch] - base.logs[launch] for launch in shared)
    return statistics.fmean(base.logs.values()) + behind


def standing_of(cell: Cell, goal: str, limits: Mapping[str, float]) -> Standing:
    """How the candidate of a cell stands."""
    row, rows = row_of(cell), cell.point.batch_size if goal == "latency" else 1
    logs = {launch: math.log(TOKENS(found) / rows) for launch, found in cell.untimestamped_by_launch.items()}
    failure = reason_against(row, limits)
    if failure is None and not logs:
        failure = "no launch has a repetition that counts"
    return Standing(Candidate(cell.point, cell.arm), row, logs, failure)


def reason_against(row: CellRow, limits: Mapping[str, float]) -> str | None:
    """Why a cell cannot win: it was not measured, its output is not the model's, or it exceeds a limit."""
    if row["status"] not in MEASURED:
        return f"{row['status']}: {row['reason']}"
    if row["gate"] == Verdict.SYNTHETIC:
        return f"its output is not the model's: {row['synthetic']}"
    for name, most in limits.items():
        if row[name] is None:
            return f"{name} is unknown, so its limit cannot be checked"
        if row[name] > most:
            return f"{name} {row[name]:.4g} is above the limit of {most:.4g}"
    return None


def ratio(fast: Standing, slow: Standing, error: float = 1 - intervals.CONFIDENCE) -> intervals.Interval | None:
    """How many times as fast the first is, over the launches that both have, with an interval that is wrong with the
    probability `error` and needs three launches; None where they share none.
    """
    shared = sorted(set(fast.logs) & set(slow.logs))
    if not shared:
        return None
    found = intervals.ratio([[fast.logs[launch] - slow.logs[launch]] for launch in shared], error=error)
    return found if len(shared) >= MIN_LAUNCHES else replace(found, low=None, high=None)


def error_of_look(launches: int, rivals: int) -> float:
    """The error of one comparison, where those with all rivals after each launch together may have 5 % (Bonferroni)."""
    return (1 - intervals.CONFIDENCE) / max(1, launches - MIN_LAUNCHES + 1) / max(1, rivals)


@dataclass(frozen=True)
class Left:
    """Why a candidate left the race."""

    failure: str | None = None
    """it cannot win, whatever its speed"""
    behind: intervals.Interval | None = None
    """how many times as fast the best one is"""
    halved_after: int | None = None
    """the round after which it was in the slower half; None where the interval decided"""


def leaving(racing: Sequence[Standing], launch: int, launches: int) -> dict[Candidate, Left]:
    """The candidates that leave after a round, of those that have not left, the best first. There are at most `launches`
    rounds. Only one that was launched in this round can leave in the slower half.
    """
    left = {each.candidate: Left(failure=each.failure) for each in racing if not each.is_able}
    able = [each for each in racing if each.is_able]
    kept = max(FINALISTS, math.ceil(len(able) / 2))
    for place, each in enumerate(able[1:], 1):
        behind = ratio(able[0], each, error_of_look(launches, len(able) - 1))
        if behind is None:
            continue
        if excludes_one(behind):
            left[each.candidate] = Left(behind=behind)
        elif launch in each.logs and len(each.logs) <= HALVINGS and place >= kept and math.log(behind.value) > NEAR:
            left[each.candidate] = Left(behind=behind, halved_after=launch)
    return left


@dataclass(frozen=True)
class Compiled:
    """Which compiled candidates are worth a launch, by those that were launched so far."""

    candidates: Sequence[Candidate]
    standings: Mapping[Candidate, Standing]

    @cached_property
    def twins(self) -> dict[Candidate, Candidate]:
        """Compiled candidate -> the same setting uncompiled, where that is a candidate."""
        known = frozenset(self.candidates)
        pairs = ((each, uncompiled(each)) for each in self.candidates)
        return {each: twin for each, twin in pairs if twin != each and twin in known}

    @cached_property
    def first(self) -> dict[tuple[Arm, str], Candidate]:
        """Arm and dtype -> the candidate that is launched first: the one that was, or the one that is fastest uncompiled. An
        arm that was measured nowhere uncompiled has none.
        """
        found: dict[tuple[Arm, str], list[Candidate]] = {}
        for each, twin in self.twins.items():
            if self.speed(twin) is not None:
                found.setdefault(kind_of(each), []).append(each)
        return {kind: max(group, key=self.preference) for kind, group in found.items()}

    def preference(self, candidate: Candidate) -> tuple[bool, float]:
        """Which candidate of an arm is launched first: one that was already, else the one that is fastest uncompiled."""
        speed = self.speed(self.twins[candidate])
        return candidate in self.standings, -math.inf if speed is None else speed

    def speed(self, candidate: Candidate) -> float | None:
        """The speed of a candidate; None for one that was not measured."""
        found = self.standings.get(candidate)
        return found.speed if found else None

    def gain(self, candidate: Candidate) -> float | None:
        """The log ratio that compiling gains: in the launches of both where there are some, which share a process."""
        compiled, plain = self.standings.get(candidate), self.standings.get(self.twins[candidate])
        if compiled is None or plain is None:
            return None
        if paired := ratio(compiled, plain):
            return math.log(paired.value)
        return None if compiled.speed is None or plain.speed is None else compiled.speed - plain.speed

    def waits(self, candidate: Candidate) -> bool:
        """Whether others are launched first: the same setting uncompiled, or its arm elsewhere."""
        twin, first = self.twins.get(candidate), self.first.get(kind_of(candidate), candidate)
        if twin is None or candidate in self.standings:
            return False
        return twin not in self.standings or (first != candidate and first not in self.standings)

    def why_not(self, candidate: Candidate) -> str | None:
        """Why a candidate that does not wait is not launched; None for one that may win."""
        twin = self.twins.get(candidate)
        if twin is None or candidate in self.standings:
            return None
        if (known := self.standings.get(twin)) and known.row["status"] == Status.WRONG:
            return "not compiled: uncompiled it is wrong"
        first = self.first.get(kind_of(candidate))
        if first is None:
            return None
        speed, gain = self.speed(twin), self.gain(first)
        able = [each.speed for each in self.standings.values() if each.is_able and each.speed is not None]
        best = max(able, default=None)
        if speed is None or gain is None or best is None or speed + gain + GAIN_MARGIN >= best:
            return None
        where = f"batch {first.point.batch_size}, threads {first.point.threads}"
        behind = f"the best is {math.exp(best - speed):.3g}x as fast as it is uncompiled"
        return f"not compiled: {behind}, and compiling gained {math.exp(gain):.3g}x at {where}"


def kind_of(candidate: Candidate) -> tuple[Arm, str]:
    """What compiling is taken to gain the same for: an arm and a dtype."""
    return candidate.arm, candidate.point.dtype


def uncompiled(candidate: Candidate) -> Candidate:
    """The same setting without a compiler."""
    return replace(candidate, arm=replace(candidate.arm, compile_mode="off"))


def excludes_one(found: intervals.Interval | None) -> bool:
    """Whether the interval of a ratio lies above 1."""
    return found is not None and found.low is not None and found.low > 1


@dataclass(frozen=True)
class Ranking:
    """The end of a race."""

    standings: list[Standing]
    """all candidates: those that raced to the end, the best first; then those that left, the last to leave first"""
    left: Mapping[Candidate, Left]
    launches: int
    """of a candidate at most"""

    @property
    def able(self) -> list[Standing]:
        """The candidates that can win."""
        return [each for each in self.standings if each.is_able]

    @property
    def winner(self) -> Standing | None:
        """The best candidate; None where none can win."""
        return self.able[0] if self.able else None

    @property
    def runner_up(self) -> Standing | None:
        """The fastest of the others, whether it left or not; None where there is none."""
        return max(self.able[1:], key=lambda each: -math.inf if each.speed is None else each.speed, default=None)

    @property
    def rivals(self) -> list[Standing]:
        """The candidates that were not distinguished from the winner."""
        stayed = [each for each in self.able[1:] if each.candidate not in self.left]
        return [each for each in stayed if not excludes_one(self.ratio_to(each))]

    def ratio_to(self, other: Standing) -> intervals.Interval | None:
        """How many times as fast the winner is as another candidate, with an interval that holds for all that stayed and after
        each launch; None where the two share no launch.
        """
        stayed = sum(each.candidate not in self.left for each in self.able[1:])
        return ratio(self.winner, other, error_of_look(self.launches, stayed)) if self.winner else None

    @property
    def lead(self) -> intervals.Interval | None:
        """How many times as fast the winner is as the runner-up; None without both."""
        return self.ratio_to(self.runner_up) if self.runner_up else None

    @property
    def is_decided(self) -> bool:
        """Whether the winner differs from the runner-up, and from all that stayed to the end."""
        return excludes_one(self.lead) and not self.rivals


def rank(found: Iterable[Standing], left: Mapping[Candidate, Left], launches: int) -> Ranking:
    """The end of a race. Who stayed longer stands higher; then who is faster."""
    order = sorted(
        found,
        key=lambda each: (
            not each.is_able,
            each.candidate in left,
            -max(each.logs, default=0) if each.candidate in left else 0,
            -each.speed if each.speed is not None else math.inf,
        ),
    )
    return Ranking(order, left, launches)

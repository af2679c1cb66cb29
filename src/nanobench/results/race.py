"""Candidates for the fastest setting: how they stand after some rounds of launches, and which of them leave.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"):
after each of the first rounds the slower half leaves. After that a candidate leaves when the interval of its ratio to the best
one excludes 1. Launches of one round are paired.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanobench.records import MEASURED, LaunchRecord, Verdict
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow, cells_of, row_of
from nanobench.results.metrics.formulas import rate
from nanobench.results.run_context import Machine
from nanobench.schema import Arm, Point
from nanobench.stats import intervals

HALVINGS = 2
"""Rounds after which the slower half leaves: further ones have intervals."""
NEAR = math.log(1.1)
"""Log ratio to the best within which a candidate of the slower half stays: a single launch is not more precise than that."""
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

    @property
    def mean(self) -> float:
        """The mean log over its launches."""
        return sum(self.logs.values()) / len(self.logs)


def standings(
    launches: Iterable[LaunchRecord], goal: str, limits: Mapping[str, float], machine: Machine | None = None
) -> list[Standing]:
    """The candidates, the best first; those that cannot win come last. `limits` has the largest value by column."""
    found = [standing_of(cell, goal, limits) for cell in cells_of(launches, machine)]
    return sorted(found, key=lambda each: (each.failure is not None, -each.mean if each.logs else math.inf))


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
    probability `error`; None where they share none.
    """
    shared = sorted(set(fast.logs) & set(slow.logs))
    return intervals.ratio([[fast.logs[launch] - slow.logs[launch]] for launch in shared], error=error) if shared else None


def error_of_look(launches: int, rivals: int) -> float:
    """The error of one comparison, where those with all rivals after each launch together may have 5 % (Bonferroni)."""
    return (1 - intervals.CONFIDENCE) / max(1, launches - 1) / max(1, rivals)


@dataclass(frozen=True)
class Left:
    """Why a candidate left the race."""

    failure: str | None = None
    """it cannot win, whatever its speed"""
    behind: intervals.Interval | None = None
    """how many times as fast the best one is"""
    halved_after: int | None = None
    """the launch after which it was in the slower half; None where the interval decided"""


def leaving(racing: Sequence[Standing], rounds: int, launches: int) -> dict[Candidate, Left]:
    """The candidates that leave after so many rounds of at most `launches`. `racing` are those that have not left, the best
    first.
    """
    left = {each.candidate: Left(failure=each.failure) for each in racing if each.failure is not None}
    able = [each for each in racing if each.failure is None]
    kept = max(FINALISTS, math.ceil(len(able) / 2))
    for place, each in enumerate(able[1:], 1):
        behind = ratio(able[0], each, error_of_look(launches, len(able) - 1))
        if behind is None:
            continue
        if excludes_one(behind):
            left[each.candidate] = Left(behind=behind)
        elif rounds <= HALVINGS and place >= kept and math.log(behind.value) > NEAR:
            left[each.candidate] = Left(behind=behind, halved_after=rounds)
    return left


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
    def winner(self) -> Standing | None:
        """The best candidate; None where none can win."""
        able = [each for each in self.standings if each.failure is None]
        return able[0] if able else None

    @property
    def runner_up(self) -> Standing | None:
        """The second best one; None where there is none."""
        able = [each for each in self.standings if each.failure is None]
        return able[1] if len(able) > 1 else None

    @property
    def lead(self) -> intervals.Interval | None:
        """How many times as fast the winner is as the runner-up, with an interval that holds after each launch; None without
        both.
        """
        error = error_of_look(self.launches, 1)
        return ratio(self.winner, self.runner_up, error) if self.winner and self.runner_up else None

    @property
    def is_decided(self) -> bool:
        """Whether the two differ: the interval of their ratio excludes 1."""
        return excludes_one(self.lead)


def rank(found: Iterable[Standing], left: Mapping[Candidate, Left], launches: int) -> Ranking:
    """The end of a race. Who stayed longer stands higher; then who is faster."""
    order = sorted(
        found,
        key=lambda each: (
            each.failure is not None,
            each.candidate in left,
            -len(each.logs) if each.candidate in left else 0,
            -each.mean if each.logs else math.inf,
        ),
    )
    return Ranking(order, left, launches)

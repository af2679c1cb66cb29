"""The search for the fastest setting: a sweep over the full grid from which the slower settings leave, round by round."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from nanobench.errors import UserError
from nanobench.results import out_folder, race
from nanobench.results.race import Candidate, Left, Ranking, Standing
from nanobench.results.run_info import stopped_event
from nanobench.results.store import Run
from nanobench.schema import Arm, Point, Trial
from nanobench.sweep import device_lock, session
from nanobench.sweep.job import SILENT, Audience
from nanobench.sweep.runner import Sweep
from nanobench.sweep.tune_options import TuneOptions

FEWEST_STAGED = race.MIN_LAUNCHES + 2
"""Launches from which on compiled settings wait for others: the last of them begin in round 3, and need an interval too."""


class Tune(Sweep):
    """Launches of the settings that may still be the fastest, until the two fastest are distinguished or the time is up."""

    def __init__(self, options: TuneOptions, *facts: Any) -> None:
        super().__init__(*facts)
        self.goal, self.limits = options.goal, options.limits()
        self.candidates = [Candidate(point, arm) for point in self.plan.points for arm in self.plan.arms]
        self.left: dict[Candidate, Left] = {}
        self.waiting: set[Candidate] = set()
        self.skipped: dict[Candidate, str] = {}

    def standings(self) -> list[Standing]:
        """All settings that were launched, the best first."""
        return race.standings(self.launches, self.goal, self.limits, self.machine)

    def rounds(self) -> Iterator[list[Trial]]:
        """A launch of each point that has a setting in the race."""
        for launch in range(1, self.plan.launches + 1):
            self.choose_compiled()
            points = [point for point in self.plan.order(launch) if self.is_open(point)]
            self.ahead = [self.plan.trial(point, launch) for point in points]
            yield self.ahead
            racing = [each for each in self.standings() if each.candidate not in self.left]
            self.left |= race.leaving(racing, launch, self.plan.launches)
            still = len([each for each in racing if each.candidate not in self.left])
            if still < race.FINALISTS and not self.waiting:
                return
        self.note(stopped_event(self.why_undecided()))

    def why_undecided(self) -> str:
        """What the settings that remain lack: time or launches."""
        able = [each for each in self.standings() if each.is_able and each.candidate not in self.left]
        if self.is_late and any(self.plan.launches not in each.logs for each in able):
            return f"time is up after {self.spent_s() / 60:.1f} minutes; more --max-minutes distinguish more settings"
        return f"{self.plan.launches} launches did not distinguish the fastest settings"

    def choose_compiled(self) -> None:
        """Which compiled settings are not launched in this round, and which never."""
        if self.plan.launches < FEWEST_STAGED:
            return
        compiled = race.Compiled(self.candidates, {each.candidate: each for each in self.standings()})
        self.waiting = {each for each in self.candidates if compiled.waits(each)}
        reasons = {each: compiled.why_not(each) for each in self.candidates if each not in self.waiting}
        self.skipped = {each: reason for each, reason in reasons.items() if reason}

    def is_open(self, point: Point) -> bool:
        """Whether a point has a setting to launch, or to skip."""
        return any(not self.is_final(point, arm) for arm in self.plan.arms)

    def is_final(self, point: Point, arm: Arm) -> bool:
        """See Sweep.is_final. A setting that has left is not launched either, nor one that waits for others, nor, when time is
        up, one that was launched before.
        """
        candidate = Candidate(point, arm)
        if candidate in self.left or candidate in self.waiting or super().is_final(point, arm):
            return True
        return self.is_late and bool(self.launches_of[arm][point])

    def why_skipped(self, point: Point, arm: Arm) -> str | None:
        """See Sweep.why_skipped."""
        return self.skipped.get(Candidate(point, arm)) or super().why_skipped(point, arm)

    @property
    def is_late(self) -> bool:
        """Whether time is up."""
        return self.plan.max_minutes is not None and self.spent_s() > 60 * self.plan.max_minutes

    def left_s(self) -> float:
        """Seconds left at most: which settings remain, nobody knows."""
        limit_s = math.inf if self.plan.max_minutes is None else 60 * self.plan.max_minutes
        return max(0.0, min(super().left_s(), limit_s - self.spent_s()))

    def refuse_late(self, trial: Trial) -> None:
        """Refuses nothing: a first launch is never late, and others are final when time is up."""


@dataclass(frozen=True)
class Result:
    """A finished search."""

    ranking: Ranking
    run: Run
    settings: int
    """of the full grid"""


def run(options: TuneOptions, audience: Audience = SILENT) -> Result:
    """Holds the device, and searches. Raises UserError for what is wrong with the request, and where no setting can win."""
    folder, sweep, made = out_folder.choose(options.out, "tune"), options.as_sweep(), []
    with (
        device_lock.hold(device_lock.guess(options.device), options.wait, audience.waiting),
        session.first_workers(sweep, folder) as first,
    ):
        plan, description = session.make(sweep, first)
        plan = replace(plan, extra_launches=False)
        if len(plan.points) * len(plan.arms) < race.FINALISTS:
            raise UserError("tune compares settings, and this is one; give more --batch, --engine, --compile-mode or --threads")
        audience.planned(plan, description)
        kept = session.new_run(folder, "tune", options, plan, description)

        def search(*facts: Any) -> Tune:
            made.append(Tune(options, *facts))
            return made[0]

        with audience.measuring(kept, plan) as watch:
            session.measure(kept, plan, description, watch, first, kind=search)
    (tuned,) = made
    return Result(race.rank(tuned.standings(), tuned.left, plan.launches), kept, len(plan.points) * len(plan.arms))

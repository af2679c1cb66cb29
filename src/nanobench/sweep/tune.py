"""The search for the fastest setting: a sweep over the full grid from which the slower settings leave, round by round."""

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


class Tune(Sweep):
    """Launches of the settings that may still be the fastest, until the two fastest are distinguished or the time is up."""

    more_time = "more --max-minutes distinguish more settings"

    def __init__(self, options: TuneOptions, *facts: Any) -> None:
        super().__init__(*facts)
        self.goal, self.limits = options.goal, options.limits()
        self.candidates = [Candidate(point, arm) for point in self.plan.points for arm in self.plan.arms]
        self.left: dict[Candidate, Left] = {}
        self.waiting: set[Candidate] = set()
        self.hopeless: dict[Candidate, str] = {}

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
            self.left |= race.leaving(racing, self.plan.launches)
            still = len([each for each in racing if each.candidate not in self.left])
            if still < race.FINALISTS and not self.waiting:
                return
        self.note(stopped_event(f"{self.plan.launches} launches did not distinguish the fastest settings"))

    def choose_compiled(self) -> None:
        """Which compiled settings are not launched in this round, and which never."""
        if self.plan.launches <= race.FEWEST:
            return
        compilers = race.Compilers(self.candidates, {each.candidate: each for each in self.standings()})
        self.waiting = {each for each in self.candidates if compilers.waits(each)}
        reasons = {each: compilers.why_not(each) for each in self.candidates if each not in self.waiting}
        self.hopeless = {each: reason for each, reason in reasons.items() if reason}

    def is_open(self, point: Point) -> bool:
        """Whether a point has a setting to launch, or to give up."""
        return any(not self.is_final(point, arm) for arm in self.plan.arms)

    def is_final(self, point: Point, arm: Arm) -> bool:
        """See Sweep.is_final. A setting that has left is not launched again, and one that waits not yet."""
        candidate = Candidate(point, arm)
        return candidate in self.left or candidate in self.waiting or super().is_final(point, arm)

    def why_skipped(self, point: Point, arm: Arm) -> str | None:
        """See Sweep.why_skipped."""
        return self.hopeless.get(Candidate(point, arm)) or super().why_skipped(point, arm)

    def refuse_late(self, trial: Trial) -> None:
        """See Sweep.refuse_late. The first launch of a setting is never late."""
        racing = (arm for arm in trial.arms if not self.is_final(trial.point, arm))
        if all(self.launches_of[arm][trial.point] for arm in racing):
            super().refuse_late(trial)


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

"""Runs a plan: rounds of launches, each trial in a process of its own, what it left behind saved as soon as it ends.

What happened to an arm decides what is tried next: a cell that ran out of memory is not tried again, larger batches of it
are skipped, and an arm that crashed its process costs the other arms only a second process.
"""

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from threading import Lock

from nanobench.errors import UserError
from nanobench.records import ArmRecord, Description, Gate, JsonObject, LaunchRecord, Outcome, Status
from nanobench.results import derive, doctor
from nanobench.results.derive import CellRow
from nanobench.results.raw_files import Damaged
from nanobench.results.run_context import DriftCheck, Machine, Setting
from nanobench.results.run_info import (
    calibration_event,
    drift_check_event,
    no_calibration_event,
    planned_event,
    set_aside_event,
    stopped_event,
)
from nanobench.results.store import Run
from nanobench.roofline.limits import Limits
from nanobench.schema import Arm, Plan, Point, Trial
from nanobench.sweep import calibration, output_check, schedule, stopped
from nanobench.sweep.estimate import expected_s
from nanobench.sweep.executors.base import Executor, WorkerResult, at_once
from nanobench.sweep.flight import Flight, TimeIsUp
from nanobench.sweep.live_cells import LiveCells
from nanobench.sweep.machine import node_of
from nanobench.sweep.progress import Progress, Watch
from nanobench.sweep.split import ArmGroup, records_of, split

WRITE_SHARE = 0.05
"""Deriving and writing the cells while a sweep runs takes at most this share of its time."""


MakeExecutor = Callable[[], Executor]


class Sweep:
    """One run of a plan, with the launches that it has so far."""

    more_time = "more --max-minutes give more launches"
    """what helps where the time is up"""

    def __init__(self, run: Run, plan: Plan, description: Description, make_executor: MakeExecutor, watch: Watch) -> None:
        self.run, self.plan, self.description = run, plan, description
        self.make_executor, self.watch = make_executor, watch
        self.info = run.info()
        self.machine = self.info.machine
        self.launches: list[LaunchRecord] = []
        self.launches_of: dict[Arm, dict[Point, list[LaunchRecord]]] = defaultdict(lambda: defaultdict(list))
        self.ran_out: dict[Arm, list[Point]] = defaultdict(list)
        self.derived_from: tuple[int, Machine] | None = None
        self.keep(self.readable())
        self.cells = LiveCells(lambda point: derive.derive(self.launches_at(point), self.machine))
        if self.launches:
            self.write_all()
        self.written_at, self.writing_s = -math.inf, 0.0
        self.took_s: dict[Point, float] = {}
        self.expected_s = cache(lambda point, launch: expected_s(plan, point, launch, description))
        self.limits_now: dict[Setting, Limits] = {}
        self.pace, self.flight, self.showing = 1.0, Flight(), Lock()
        self.done, self.ahead = 0, [trial for trials in plan.rounds() for trial in trials]
        self.before_s, self.began = self.info.wall_s, time.monotonic()

    def readable(self) -> list[LaunchRecord]:
        """What the run has so far. A raw file that is damaged is set aside, so that its trial is measured again."""
        while True:
            try:
                return self.run.read_raw()
            except Damaged as damaged:
                doctor.set_aside(self.run, damaged.path)
                self.note(set_aside_event(damaged.path.name))

    def keep(self, launches: list[LaunchRecord]) -> None:
        """Adds launches to those that decide what is tried next."""
        self.launches.extend(launches)
        for each in launches:
            self.launches_of[each.arm][each.point].append(each)
            if each.outcome.status is Status.OOM:
                self.ran_out[each.arm].append(each.point)

    def measure(self) -> list[CellRow]:
        """Runs what is missing and returns the cells. Whatever interrupts it, the finished trials are on disk."""
        try:
            with self.flight:
                for trials in self.rounds():
                    self.measure_all(trials)
        except TimeIsUp as stop:
            self.note(stopped_event(str(stop)))
        return self.write_all()

    def write_all(self) -> list[CellRow]:
        """Derives all cells again, from what is known of the machine by now, and writes them; once for the same launches."""
        known = len(self.launches), self.machine
        if known != self.derived_from:
            self.run.write_cells(self.cells.replace(derive.derive(self.launches, self.machine)))
            self.derived_from = known
        return self.cells.look()

    def rounds(self) -> Iterator[Iterable[Trial]]:
        """The planned rounds, then those of what is launched again. Each item is decided by the results of all before it."""
        plan = self.plan
        if plan.adaptive:
            yield schedule.adaptive_round(plan, self.cells.look)
            chosen = {each.point for each in self.launches}
            self.ahead = [trial for trial in self.ahead if trial.point in chosen]
        # One item: a planned round begins while the last trials of the one before still run.
        yield (
            trial
            for launch in range(2 if plan.adaptive else 1, plan.launches + 1)
            for trial in schedule.planned_round(plan, launch, self.launches)
        )
        if self.info.finished_at:
            return
        if self.info.planned_s is None:
            self.note(planned_event(self.spent_s()))
        while (found := schedule.needs(plan, self.launches)).points:
            launch = 1 + max(each.launch for each in self.launches)
            self.ahead = [plan.trial(point, launch) for point in found.points]
            yield self.ahead
        self.note(stopped_event("; ".join(found.reasons) or None))

    def measure_all(self, trials: Iterable[Trial]) -> None:
        """Runs those trials that are missing, as many at once as the executor can, and waits for all of them."""
        begun = 0
        for trial in self.flight.in_turn(trials):
            if self.run.raw_file(trial).exists():
                self.count(trial)
                continue
            self.flight.wait_for_room()
            self.refuse_late(trial)
            if trial.launch > begun:
                begun = trial.launch
                self.begin_round(trial)
            self.start(trial)
        self.flight.land()

    def begin_round(self, trial: Trial) -> None:
        """Makes the executor and calibrates, before a round. An adaptive first round chooses each trial by those before it."""
        executor = self.flight.executor or self.make_executor()
        device = self.plan.points[0].device
        most = at_once(executor, device)
        room = 1 if self.plan.adaptive and trial.launch == 1 else most
        self.flight.begin(executor, room)
        if room > 1:
            self.limits_now.clear()
        if not self.flight.running:
            self.calibrate(executor, trial, self.checks_drift(most, device))

    def refuse_late(self, trial: Trial) -> None:
        """Raises TimeIsUp for a trial that would end after the sweep's time; never in the first round."""
        limited = trial.extra or (trial.launch > 1 and self.plan.max_minutes is not None)
        limit_s = schedule.limit_s(self.plan, self.info.planned_s or 0.0)
        if limited and self.spent_s() + self.took_s.get(trial.point, 0.0) > limit_s:
            spent = f"time is up after {self.spent_s() / 60:.1f} minutes, in launch {trial.launch}"
            raise TimeIsUp(f"{spent}; {self.more_time}")

    def spent_s(self) -> float:
        """Seconds of measuring so far, those before --resume included."""
        return self.before_s + time.monotonic() - self.began

    def count(self, trial: Trial) -> None:
        """Counts a trial as done."""
        self.done += 1
        self.ahead = [each for each in self.ahead if (each.launch, each.point) != (trial.launch, trial.point)]

    def note(self, event: JsonObject) -> None:
        """Adds an event to the run's journal."""
        self.run.append(event)
        self.info = self.info.with_event(**event)
        self.machine = self.info.machine

    def calibrate(self, executor: Executor, trial: Trial, checks_drift: bool) -> None:
        """The limits of this machine, where the run does not have them, and how they moved since they were measured.

        Several trials at once run on several devices or nodes: nothing says how the limits of each moved.
        """
        if self.plan.calibration == "off" or self.plan.gate_only:
            return
        identity, fresh = self.description.identity["hash"], self.plan.calibration == "fresh"
        for setting in calibration.settings(self.plan.points, self.plan.arms):
            try:
                if setting.name not in self.info.calibrations:
                    self.show(trial, {"phase": "calibrating", "arm": setting.name})
                    found = calibration.full(executor, identity, setting, self.run.scratch, fresh, trial.launch)
                    self.note(calibration_event(setting.name, found))
                    if reason := found.limits.missing():
                        self.note(no_calibration_event(f"{setting.name}: {reason}"))
                if setting.weights == "float" and checks_drift:
                    now = calibration.measured(executor, setting, self.run.scratch, True, trial.launch)
                    self.limits_now[setting] = now.limits
            except UserError as error:
                # A machine that is too small or too slow for it is measured all the same; only predictions are missing.
                if setting.name not in self.info.calibrations:
                    self.note(no_calibration_event(str(error)))

    def checks_drift(self, most: int, device: str) -> bool:
        """Whether trials have drift checks, where `most` run at once. On a GPU each starts CUDA again: not for one launch."""
        return most == 1 and not (device.startswith("cuda") and self.plan.launches == 1)

    def check_drift(self, trial: Trial, executor: Executor) -> None:
        """Keeps how the limits stood before and after a trial."""
        setting = Setting.of(trial.point)
        if setting not in self.limits_now:
            return
        try:
            after = calibration.measured(executor, setting, self.run.scratch, brief=True).limits
        except UserError:
            return
        self.note(drift_check_event(setting.name, DriftCheck(trial.point, self.limits_now[setting], after)))
        self.limits_now[setting] = after

    def start(self, trial: Trial) -> None:
        """Begins one launch of a point, with what is known at this moment of its arms."""
        racing = [arm for arm in trial.arms if not self.is_final(trial.point, arm)]
        reasons = {arm: reason for arm in racing if (reason := self.why_skipped(trial.point, arm))}
        arms = [arm for arm in racing if arm not in reasons]
        skipped = [
            LaunchRecord.of(trial, 0, ArmRecord(arm=arm, outcome=Outcome(status=Status.SKIPPED, reason=reason)))
            for arm, reason in reasons.items()
        ]
        groups, gates, begun = self.arm_groups(trial, arms), self.gates(trial.point), time.monotonic()
        executor = self.flight.executor
        assert executor is not None

        def finish(launches: list[LaunchRecord]) -> None:
            self.finish(trial, [*skipped, *launches], begun, executor)

        self.flight.start(trial, lambda: self.launch(trial, groups, gates, executor), finish)

    def finish(self, trial: Trial, launches: list[LaunchRecord], begun: float, executor: Executor) -> None:
        """Saves one launch of a point."""
        if launches:
            self.run.write_raw(trial, launches)
            self.keep(launches)
        self.check_drift(trial, executor)
        self.cells.change(trial.point)
        self.write_cells()
        self.took_s[trial.point] = time.monotonic() - begun
        self.pace = 0.5 * self.pace + 0.5 * self.took_s[trial.point] / self.expected_s(trial.point, trial.launch)
        self.count(trial)
        self.show(trial, None)

    def launches_at(self, point: Point) -> list[LaunchRecord]:
        """The launches of a point, those of each arm in their order."""
        return [each for found in self.launches_of.values() for each in found.get(point, ())]

    def write_cells(self) -> None:
        """Derives and writes the cells, unless that would take more than WRITE_SHARE of the time: who loads the run derives
        them again.
        """
        begun = time.monotonic()
        if begun - self.written_at < self.writing_s / WRITE_SHARE:
            return
        self.run.write_cells(self.cells.look())
        self.written_at = time.monotonic()
        self.writing_s = self.written_at - begun

    def launch(self, trial: Trial, groups: list[ArmGroup], gates: dict[str, Gate], executor: Executor) -> list[LaunchRecord]:
        """All arms of one launch, together where that works. It may run in a thread: it changes nothing here."""
        return [
            LaunchRecord.of(trial, process, record, node_of(result))
            for process, (done, result) in enumerate(self.processes(trial, groups, gates, executor))
            for record in records_of(done, result)
        ]

    def processes(
        self, trial: Trial, groups: list[ArmGroup], gates: dict[str, Gate], executor: Executor
    ) -> Iterator[tuple[ArmGroup, WorkerResult]]:
        """Runs each group of arms in a process, and gives the arms that are done with it."""
        folder, number = self.run.scratch / trial.key, 0
        while groups:
            group, *groups = groups
            result = self.run_group(trial, group, gates, executor, number)
            number += 1
            found = split(group, result)
            groups = [*found.next, *groups, *found.last]
            yield found.done, result
        self.keep_traces(trial)
        shutil.rmtree(folder, ignore_errors=True)

    def run_group(self, trial: Trial, group: ArmGroup, gates: dict[str, Gate], executor: Executor, number: int) -> WorkerResult:
        """Runs one group of arms in a process. Raises OSError where it failed because the disk is full."""
        part, folder = replace(trial, arms=group), self.run.scratch / trial.key / str(number)
        log, timeout_s = self.run.logs / f"{self.run.raw_file(trial).stem}.log", self.plan.timeout_s
        request = {"trial": asdict(part), "gates": {label: asdict(gate) for label, gate in gates.items()}}
        result = executor.run(request, folder, log, timeout_s, lambda report: self.show(trial, report))
        result = output_check.after(executor, part, result, folder, log, timeout_s)
        if any(each.outcome.status is Status.ERROR for each in records_of(group, result)):
            stopped.refuse_full(self.run.folder)
        return result

    def keep_traces(self, trial: Trial) -> None:
        """Moves the traces of a trial's arms to where the run keeps them."""
        for path in (self.run.scratch / trial.key).glob("*/trace-*.json"):
            self.run.traces.mkdir(exist_ok=True)
            path.replace(self.run.traces / f"{self.run.raw_file(trial).stem}-{path.parent.name}-{path.name}")

    def arm_groups(self, trial: Trial, arms: list[Arm]) -> list[ArmGroup]:
        """Arms that run in one process: all of them, except those that an earlier launch could only run apart."""
        groups: dict[int, list[Arm]] = defaultdict(list)
        for arm in arms:
            finished = [each.process for each in self.launches_of[arm][trial.point] if each.finished]
            groups[finished[-1] if finished else 0].append(arm)
        return [tuple(group) for _, group in sorted(groups.items())]

    def is_final(self, point: Point, arm: Arm) -> bool:
        """Whether an earlier launch ended in a way that another would only repeat."""
        return schedule.is_final(self.launches_of[arm][point])

    def why_skipped(self, point: Point, arm: Arm) -> str | None:
        """Why an arm need not be tried: it ran out of memory at a smaller batch of the same point."""
        for other in self.ran_out[arm]:
            if other.batch_size < point.batch_size and other == replace(point, batch_size=other.batch_size):
                return f"ran out of memory at batch {other.batch_size} already"
        return None

    def gates(self, point: Point) -> dict[str, Gate]:
        """The verdicts that earlier launches reached at a point, by arm."""
        known: dict[str, Gate] = {}
        for each in (each for each in self.launches_at(point) if each.outcome.digest):
            told = each.outcome
            assert told.gate is not None
            gate = Gate(told.gate, told.gate_note or "", told.gate_max_error, told.gate_tolerance, told.digest)
            known.setdefault(each.arm.label, gate)
        return known

    def show(self, trial: Trial, report: JsonObject | None) -> None:
        """Shows the progress to `watch`, for one thread at a time."""
        with self.showing:
            total = self.done + len(self.ahead)
            # A report comes in a thread of its own, where nothing may be derived.
            look = self.cells.look if report is None else lambda: self.cells.seen
            self.watch(Progress(trial, self.done, total, self.left_s, report, look))

    def left_s(self) -> float:
        """Seconds left: what a point took last time, or what it was expected to take at the pace seen so far."""
        each_s = (self.took_s.get(each.point, self.pace * self.expected_s(each.point, each.launch)) for each in self.ahead)
        return sum(each_s) / self.flight.room

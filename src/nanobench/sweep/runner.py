"""Runs a plan: rounds of launches, each trial in a process of its own, its rows saved before the next begins.

What happened to an arm decides what is tried next: a cell that ran out of memory is not tried again, larger batches of it
are skipped, and an arm that brought its process down costs the other arms nothing but a second process.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nanobench.errors import UserError
from nanobench.records import ArmRecord, Gate, Outcome, Status, raw_rows
from nanobench.results import derive
from nanobench.results.store import Run
from nanobench.schema import Arm, Point, Trial
from nanobench.sweep import calibration
from nanobench.sweep.calibration import Setting
from nanobench.sweep.estimate import expected_s
from nanobench.sweep.executors.base import Executor, WorkerResult
from nanobench.sweep.plan import Plan

Row = dict[str, Any]
FINAL = (Status.WRONG, Status.SKIPPED, Status.OOM, Status.TIMEOUT)
"""Outcomes that another launch would only repeat."""


@dataclass(frozen=True)
class Progress:
    """How far the sweep is, for whoever draws it."""

    launch: int
    trial: Trial
    done: int
    total: int
    left_s: float
    report: Row | None
    """what the worker said; None when the trial is finished"""
    cells: list[Row]


Watch = Callable[[Progress], None]
MakeExecutor = Callable[[int], Executor]


class Sweep:
    """One run of a plan, with the rows that it has so far."""

    def __init__(self, run: Run, plan: Plan, description: Row, make_executor: MakeExecutor, watch: Watch) -> None:
        self.run, self.plan, self.description = run, plan, description
        self.make_executor, self.watch = make_executor, watch
        self.rows = run.read_raw()
        self.machine = run.machine()
        self.cells = run.write_cells(derive.derive(self.rows, self.machine)) if self.rows else []
        self.took_s: dict[Point, float] = {}
        self.looks: dict[Setting, list[Row]] = {}
        self.pace = 1.0
        self.done, self.total = 0, plan.launches * len(plan.points)

    def measure(self) -> list[Row]:
        """Runs what is missing and returns the cells. Whatever interrupts it, the finished trials are on disk."""
        for launch, trials in enumerate(self.plan.rounds(), start=1):
            executor: Executor | None = None
            try:
                for trial in trials:
                    if self.run.raw_file(trial).exists():
                        self.done += 1
                        continue
                    if executor is None:
                        executor = self.make_executor(launch)
                        self.calibrate(executor)
                    self.finish(trial, executor)
            finally:
                if executor is not None:
                    executor.close()
        self.cells = self.run.write_cells(derive.derive(self.rows, self.machine))
        return self.cells

    def calibrate(self, executor: Executor) -> None:
        """Limits of this machine, where the run does not have them, and a first look at how they moved since."""
        if self.plan.calibration == "off" or self.plan.gate_only:
            return
        about = self.run.read_about()
        found, identity = about.setdefault("calibrations", {}), about["identity"]["hash"]
        for asked in calibration.settings(self.plan.points):
            try:
                if asked.name not in found:
                    fresh = self.plan.calibration == "fresh"
                    found[asked.name] = calibration.full(executor, identity, asked, self.run.scratch, fresh)
                self.looks[asked] = calibration.measured(executor, asked, self.run.scratch, brief=True)["limits"]
            except UserError as error:
                # A machine that is too small or too slow for it is measured all the same; only predictions are missing.
                about["calibration_note"] = str(error)
        self.run.write_about(about)

    def look(self, trial: Trial, executor: Executor) -> None:
        """Keeps how the limits stood before and after a trial."""
        asked = Setting.of(trial.point)
        if asked not in self.looks:
            return
        try:
            after = calibration.measured(executor, asked, self.run.scratch, brief=True)["limits"]
        except UserError:
            return
        about = self.run.read_about()
        looks = {"point": asdict(trial.point), "before": self.looks[asked], "after": after}
        about["calibrations"][asked.name]["looks"][trial.key] = looks
        self.run.write_about(about)
        self.looks[asked], self.machine = after, self.run.machine()

    def finish(self, trial: Trial, executor: Executor) -> None:
        """Measures one launch of a point and saves it."""
        start = time.monotonic()
        rows = self.launch(trial, executor)
        self.look(trial, executor)
        if rows:
            self.run.write_raw(trial, rows)
            self.rows.extend(rows)
            self.cells = self.run.write_cells(self.derived_again(trial.point))
        self.took_s[trial.point] = time.monotonic() - start
        expected = expected_s(self.plan, trial.point, trial.launch, self.description)
        self.pace = 0.5 * self.pace + 0.5 * self.took_s[trial.point] / expected
        self.done += 1
        self.show(trial, None)

    def derived_again(self, point: Point) -> list[Row]:
        """The cells, those of one point from its rows as they are now."""
        others = [cell for cell in self.cells if not is_at(cell, point)]
        here = derive.derive([row for row in self.rows if is_at(row, point)], self.machine)
        return derive.corrected(derive.in_order(others + here))

    def launch(self, trial: Trial, executor: Executor) -> list[Row]:
        """All arms of one launch, together where that works."""
        rows: list[Row] = []
        arms = []
        for arm in trial.arms:
            if self.is_final(trial.point, arm):
                continue
            known_oom = self.ran_out_below(trial.point, arm)
            if known_oom is None:
                arms.append(arm)
            else:
                rows.extend(raw_rows(trial, 0, ArmRecord(arm=arm, outcome=known_oom)))
        for process, (arm_group, result) in enumerate(self.processes(trial, self.arm_groups(trial, arms), executor)):
            rows.extend(row for record in records_of(arm_group, result) for row in raw_rows(trial, process, record))
        return rows

    def processes(
        self, trial: Trial, arm_groups: list[tuple[Arm, ...]], executor: Executor
    ) -> Iterator[tuple[tuple[Arm, ...], WorkerResult]]:
        """Runs each company of arms in a process. An arm that found no memory beside others is tried once more alone;
        an arm that brought the process down leaves the company, and the others are run again without it.
        """
        folder, number = self.run.scratch / trial.key, 0
        while arm_groups:
            arm_group = arm_groups.pop(0)
            result = executor.run(
                {"trial": asdict(replace(trial, arms=arm_group)), "gates": self.gates(trial.point)},
                folder / str(number),
                self.run.logs / f"{self.run.raw_file(trial).stem}.log",
                self.plan.timeout_s,
                lambda report: self.show(trial, report),
            )
            number += 1
            if result.record is None and result.running is not None:
                rest = tuple(arm for arm in arm_group if arm != arm_group[result.running])
                arm_group = (arm_group[result.running],)
                arm_groups = [rest, *arm_groups] if rest else arm_groups
                if rest and result.status is Status.OOM:
                    arm_groups, arm_group = [*arm_groups, arm_group], ()
            elif result.record is not None and len(arm_group) > 1:
                crowded = tuple(r.arm for r in records_of(arm_group, result) if r.outcome.status is Status.OOM)
                arm_groups += [(arm,) for arm in crowded]
                arm_group = tuple(arm for arm in arm_group if arm not in crowded)
            yield arm_group, result
        self.keep_traces(trial, folder)
        shutil.rmtree(folder, ignore_errors=True)

    def keep_traces(self, trial: Trial, folder: Path) -> None:
        """Moves the traces of a trial's arms to where the run keeps them."""
        for path in folder.glob("*/trace-*.json"):
            self.run.traces.mkdir(exist_ok=True)
            path.replace(self.run.traces / f"{self.run.raw_file(trial).stem}-{path.parent.name}-{path.name}")

    def arm_groups(self, trial: Trial, arms: list[Arm]) -> list[tuple[Arm, ...]]:
        """Arms that run in one process: all of them, except those that an earlier launch could only run apart."""
        process_of = dict.fromkeys(arms, 0)
        for row in self.rows:
            if row["kind"] == "outcome" and row["status"] == Status.OK and is_at(row, trial.point):
                process_of[arm_of(row)] = row["process"]
        groups = [tuple(arm for arm in arms if process_of[arm] == number) for number in sorted(set(process_of.values()))]
        return [group for group in groups if group]

    def is_final(self, point: Point, arm: Arm) -> bool:
        """Whether an earlier launch ended in a way that another would only repeat."""
        return any(row["status"] in FINAL for row in self.outcomes(arm) if is_at(row, point))

    def ran_out_below(self, point: Point, arm: Arm) -> Outcome | None:
        """Why an arm need not be tried: it ran out of memory at a smaller batch of the same point."""
        for row in self.outcomes(arm):
            smaller = replace(point, batch_size=row["batch_size"])
            if row["status"] == Status.OOM and row["batch_size"] < point.batch_size and is_at(row, smaller):
                return Outcome(status=Status.SKIPPED, reason=f"ran out of memory at batch {row['batch_size']} already")
        return None

    def outcomes(self, arm: Arm) -> Iterator[Row]:
        """What became of an arm so far, anywhere."""
        return (row for row in self.rows if row["kind"] == "outcome" and arm_of(row) == arm)

    def gates(self, point: Point) -> dict[str, Row]:
        """The verdicts that earlier launches reached at a point, by arm."""
        known: dict[str, Row] = {}
        for row in self.rows:
            if row["kind"] == "outcome" and row["digest"] and is_at(row, point):
                gate = Gate(row["gate"], row["gate_note"], row["gate_max_error"], row["gate_tolerance"], row["digest"])
                known.setdefault(arm_of(row).label, asdict(gate))
        return known

    def show(self, trial: Trial, report: Row | None) -> None:
        """Tells whoever watches."""
        self.watch(Progress(trial.launch, trial, self.done, self.total, self.left_s(), report, self.cells))

    def left_s(self) -> float:
        """Seconds left: what a point took last time, or what it was expected to take at the pace seen so far."""
        trials = [trial for trials in self.plan.rounds() for trial in trials][self.done :]
        return sum(
            self.took_s.get(t.point, self.pace * expected_s(self.plan, t.point, t.launch, self.description)) for t in trials
        )


def records_of(arm_group: tuple[Arm, ...], result: WorkerResult) -> list[ArmRecord]:
    """What one process says of these arms; if it died, what its end says."""
    if result.record is not None:
        records = [ArmRecord.from_json(record) for record in result.record["arms"]]
        return [record for record in records if record.arm in arm_group]
    return [ArmRecord(arm=arm, outcome=Outcome(status=result.status, reason=result.reason)) for arm in arm_group]


def is_at(row: Row, point: Point) -> bool:
    """Whether a raw row belongs to a point."""
    return all(row[name] == value for name, value in vars(point).items())


def arm_of(row: Row) -> Arm:
    """The arm of a raw row."""
    return Arm(**{field.name: row[field.name] for field in fields(Arm)})

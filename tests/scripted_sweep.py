"""A sweep whose workers answer from a script: the control process, its files and its journal are the real ones."""

import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nanobench.records import ArmRecord, Outcome, Repetition, Status
from nanobench.results import finder, store
from nanobench.results.run_info import RunInfo
from nanobench.schema import Arm, Plan, Trial
from nanobench.sweep import session
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.progress import Watch
from nanobench.sweep.runner import MakeExecutor, Sweep

TEMPLATE = store.Run(Path(__file__).parents[1] / "results" / "reference-cpu")
ARMS = (Arm(engine="uncached"), Arm(engine="cached"))


class Script:
    """Answers each trial at once. The same trial always gets the same answer."""

    def run(self, request: dict[str, Any], folder: Path, log: Path, timeout_s: float, progress: Any) -> WorkerResult:
        """See Executor.run."""
        trial = Trial.from_json(request["trial"])
        progress({"phase": "steady"})
        return WorkerResult({"arms": [self.record(trial, arm) for arm in trial.arms]})

    def record(self, trial: Trial, arm: Arm) -> dict[str, Any]:
        """An arm's repetitions."""
        drawn = random.Random(f"{trial.key} {arm.label}")
        repetitions = tuple(
            Repetition(kind="steady", repetition=n, block=n, wall_s=drawn.uniform(1, 1.1), tokens=12, calls=1)
            for n in range(10)
        )
        return asdict(ArmRecord(arm=arm, repetitions=repetitions, outcome=Outcome(status=Status.OK)))

    def close(self) -> None:
        """See Executor.close."""


def plan(batches: Sequence[int], launches: int) -> Plan:
    """Launches of two arms at some batch sizes."""
    template = TEMPLATE.info().plan
    points = tuple(replace(template.points[0], batch_size=batch) for batch in batches)
    same = {"identities": (), "check": False, "calibration": "off", "extra_launches": False, "max_minutes": None}
    return replace(template, points=points, arms=ARMS, launches=launches, **same)


def fresh(planned: Plan) -> RunInfo:
    """What a run of this plan knows before its first trial."""
    return replace(TEMPLATE.info(), plan=planned, wall_s=0.0, finished_at=None, planned_s=None, stopped=None)


def sweep(folder: Path, planned: Plan, make_executor: MakeExecutor = Script, watch: Watch = lambda progress: None) -> None:
    """Runs what is missing. Raises UserError where a file cannot be written."""
    run = store.Run(folder)
    if not run.info_file.exists():
        run = store.create(folder, fresh(planned))
    with session.stopping(run, planned):
        session.finish(Sweep(run, planned, run.info().description, make_executor, session.keeping_time(run, watch)))


def refuse_damage(folder: Path, planned: Plan, unbroken: Path) -> None:
    """Raises AssertionError where something is missing, twice, left over, or not as in a run that nothing happened to."""
    trials = {trial.key for trials in planned.rounds() for trial in trials}
    launches = store.Run(folder).read_raw()
    seen = [(each.point.batch_size, each.launch, each.arm.label) for each in launches]
    assert len(seen) == len(set(seen)) == len(trials) * len(ARMS), f"{len(seen)} launches of arms, {len(set(seen))} different"
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name == "scratch"]
    assert not left, f"left over: {left}"
    ours, theirs = (finder.load(each).drop(columns="run") for each in (folder, unbroken))
    assert ours.equals(theirs), "the tables differ"


def forked(work: Callable[[], Any], errors: Path | None = None) -> int:
    """The process that does some work and ends, with the code 1 and one line where it raised. It is a fork, so it starts at
    once; the process that forks must not have used pyarrow, whose threads a fork does not have.
    """
    pid = os.fork()
    if pid:
        return pid
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)

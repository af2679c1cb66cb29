"""Does a killed sweep lose or repeat anything? Kills at seeded random moments, each followed by a resume.

    python tests/bench/kills.py DIR scripted [KILLS] [SEED]    sweeps of 30 trials whose workers answer from a script (200)
    python tests/bench/kills.py DIR real [KILLS] [SEED]        a small sweep of the command line, or one of its workers (10)

After the last resume of a sweep, each trial must be there exactly once, no temporary file may be left, and with scripted
workers the table must equal that of a sweep that nobody killed. Prints how many kills each sweep took, and what was wrong.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from nanobench.records import ArmRecord, Outcome, Repetition, Status
from nanobench.results import store
from nanobench.schema import Arm, Plan, Trial
from nanobench.sweep import session
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.runner import Sweep, Watch

TEMPLATE = store.Run(Path(__file__).parents[2] / "results" / "reference-cpu")
BATCHES, LAUNCHES = (1, 2, 4, 8, 16, 32), 5
ARMS = (Arm(engine="uncached"), Arm(engine="cached"))
MARK = "NANOBENCH_KILLS"
REAL = ["kv-sweep", "--model", "gpt2-nano", "--batch", "1,2,4", "--launches", "4", "--max-seconds", "0.2", "--new-tokens", "4"]
REAL += ["--calibration", "off", "--no-plot", "--max-minutes", "planned"]


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


def plan(batches: Sequence[int] = BATCHES, launches: int = LAUNCHES) -> Plan:
    """Launches of two arms at some batch sizes."""
    template = TEMPLATE.info().plan
    points = tuple(replace(template.points[0], batch_size=batch) for batch in batches)
    same = {"identities": (), "check": False, "calibration": "off", "extra_launches": False, "max_minutes": None}
    return replace(template, points=points, arms=ARMS, launches=launches, **same)


def sweep(folder: Path, planned: Plan | None = None, watch: Watch = lambda progress: None) -> None:
    """Runs what is missing."""
    run, info, planned = store.Run(folder), TEMPLATE.info(), planned or plan()
    if not run.info_file.exists():
        run = store.create(folder, replace(info, plan=planned, wall_s=0.0, finished_at=None, planned_s=None, stopped=None))
    session.finish(Sweep(run, planned, info.description, lambda launch: Script(), session.keeping_time(run, watch)))


def forked(work: Callable[[], Any]) -> int:
    """The process that does some work and ends. It is a fork, so it starts at once; this process itself never uses pyarrow."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def refuse_faults(folder: Path, unbroken: Path) -> None:
    """Raises AssertionError where something is missing, twice, left over or different."""
    planned = {trial.key for trials in plan().rounds() for trial in trials}
    launches = store.Run(folder).read_raw()
    seen = [(each.point.batch_size, each.launch, each.arm.label) for each in launches]
    assert len(seen) == len(set(seen)) == len(planned) * len(ARMS), f"{len(seen)} launches of arms, {len(set(seen))} different"
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name == "scratch"]
    assert not left, f"left over: {left}"
    ours, theirs = (store.load(each).drop(columns="run") for each in (folder, unbroken))
    assert ours.equals(theirs), "the tables differ"


def killed(work: Callable[[], None], after_s: float) -> bool:
    """Kills a process after so many seconds; False if it had ended before. Raises AssertionError if it ended badly."""
    pid = forked(work)
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, "a sweep failed"
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def scripted(folder: Path, kills: int, drawn: random.Random) -> None:
    """Sweeps until so many kills have hit."""
    unbroken, hit, number = folder / "unbroken", 0, 0
    start = time.monotonic()
    assert os.waitpid(forked(lambda: sweep(unbroken)), 0)[1] == 0
    whole_s = time.monotonic() - start
    while hit < kills:
        number, before = number + 1, hit
        mine = folder / f"sweep-{number}"
        while killed(lambda mine=mine: sweep(mine), drawn.uniform(0, whole_s)):
            hit += 1
        assert os.waitpid(forked(lambda mine=mine: refuse_faults(mine, unbroken)), 0)[1] == 0, f"{mine} is damaged"
        print(f"sweep {number}: {hit - before} kills, whole", flush=True)
    print(f"{hit} kills over {number} sweeps of {len(BATCHES) * LAUNCHES} trials: each trial once, no file left, equal tables")


def real(folder: Path, kills: int, drawn: random.Random) -> None:
    """A sweep of the command line, killed as a whole or in one of its workers; then to its end."""
    out, hit, number = folder / "real", 0, 0
    mine = {**os.environ, MARK: str(os.getpid())}
    while True:
        number += 1
        words = ["--resume", str(out)] if (out / "run.json").exists() else ["--out", str(out)]
        line = [sys.executable, "-m", "nanobench", *(REAL if words[0] == "--out" else REAL[:1]), *words]
        with open(folder / f"{number}.log", "w") as log:
            process = subprocess.Popen(line, env=mine, stdout=log, stderr=log)
            if hit >= kills:
                break
            try:
                process.wait(timeout=drawn.uniform(3, 25))
            except subprocess.TimeoutExpired:
                workers = psutil.Process(process.pid).children(recursive=True)
                victim = drawn.choice([process.pid, *(each.pid for each in workers)])
                os.kill(victim, signal.SIGKILL)
                hit += 1
                print(f"kill {hit}: {'the command' if victim == process.pid else 'a worker'}", flush=True)
                if victim != process.pid:
                    process.terminate()
                process.wait(timeout=60)
    code = process.wait()
    time.sleep(1)
    left = [each.pid for each in psutil.process_iter() if mark_of(each) == mine[MARK] and each.pid != os.getpid()]
    launches = store.Run(out).read_raw()
    seen = [(each.point.batch_size, each.launch, each.arm.label) for each in launches]
    parts = [path.name for path in out.rglob("*.part")]
    print(f"{hit} kills, then exit code {code}; {len(seen)} launches of arms, {len(set(seen))} different (24 planned)")
    print(f"statuses {sorted({str(each.outcome.status) for each in launches})}; left: processes {left}, files {parts}")


def mark_of(process: psutil.Process) -> str | None:
    """The mark in a process's environment."""
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


if __name__ == "__main__":
    where, kind = Path(sys.argv[1]).resolve(), sys.argv[2]
    where.mkdir(parents=True)
    number_of_kills = int(sys.argv[3]) if len(sys.argv) > 3 else {"scripted": 200, "real": 10}[kind]
    {"scripted": scripted, "real": real}[kind](where, number_of_kills, random.Random(sys.argv[4] if len(sys.argv) > 4 else "1"))

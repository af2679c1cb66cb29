"""Two arms that cannot share a process, because their code or their environment differs, and still take turns.

Each side has workers of its own. The control process gives the turns: a side runs one repetition and then waits on its pipe,
where it uses no core, while the other runs. So a pair lies as close together in time as two arms of one process do.
Bulej et al. 2020, "Duet Benchmarking: Improving Measurement Accuracy in the Cloud".
"""

import math
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from nanobench.records import JsonObject
from nanobench.schema import WARM_UP_TURN, Arm, Trial
from nanobench.stats import intervals
from nanobench.sweep.executors.base import Executor, Progress, WorkerResult
from nanobench.sweep.side import Side

STOP: JsonObject = {"stop": True}
LEAST_PAIRS = 4
"""Pairs of a launch before its interval may end it."""


@dataclass
class Turns:
    """One side's worker, driven turn by turn. Its executor runs in a thread that only waits."""

    executor: Executor
    show: Progress
    reports: "SimpleQueue[JsonObject | None]" = field(default_factory=SimpleQueue)
    """what the worker says when it is ready for a turn; None when it ended"""
    answers: "SimpleQueue[JsonObject]" = field(default_factory=SimpleQueue)
    ended: bool = False
    result: "Future[WorkerResult] | None" = None

    def begin(self, pool: ThreadPoolExecutor, request: JsonObject, folder: Path, log: Path, timeout_s: float) -> None:
        """Starts the worker; `wait` returns when it asks for its first turn or has ended."""
        self.result = pool.submit(self.executor.run, request, folder, log, timeout_s, self.answer)
        self.result.add_done_callback(lambda done: self.reports.put(None))

    def answer(self, report: JsonObject) -> JsonObject | None:
        """Answers a report; one that asks for a turn is answered when the turn comes."""
        if report.get("phase") != "turn":
            return self.show(report)
        self.reports.put(report)
        return self.answers.get()

    def wait(self) -> JsonObject | None:
        """The worker's next request for a turn, with the repetition before it; None when it ended."""
        report = self.reports.get()
        self.ended = report is None
        return report

    def run(self, turn: JsonObject) -> float | None:
        """One repetition: its seconds per call. None where the side ended or ends with it."""
        if self.ended:
            return None
        self.answers.put({"turn": turn})
        report = self.wait()
        return report["wall_s"] / report["calls"] if report and report.get("wall_s") else None

    def warm_up(self) -> None:
        """Lets the worker run once, untimed."""
        if not self.ended:
            self.answers.put(WARM_UP_TURN)
            self.wait()

    def stop(self) -> WorkerResult:
        """Lets the worker finish, and returns its record."""
        assert self.result is not None
        if not self.ended:
            self.answers.put(STOP)
        return self.result.result()


@dataclass(frozen=True)
class Duet:
    """Meets Executor. Runs each arm of a trial on its side, in turns; a description on the first side."""

    sides: Mapping[str, tuple[Side, Executor]]
    """Arm.side -> what runs there, and where"""
    scratch: Path
    """keeps the weights of the first side"""
    pool: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)
    """threads that live as long as the executors: a fork server is killed when the thread that started it ends"""

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run. The record has the arms of both sides."""
        if "check" in request:
            return self.check(request["check"], folder, log, timeout_s, progress)
        if "trial" not in request:
            return self.executor_of(next(iter(self.sides))).run(request, folder, log, timeout_s, progress)
        trial = Trial.from_json(request["trial"])
        if len(trial.arms) == 1:
            part = {**request, "trial": asdict(self.part(trial, trial.arms[0], alone=True))}
            return self.executor_of(trial.arms[0].side).run(part, folder, log, timeout_s, progress)
        show = one_at_a_time(progress)
        turns = [Turns(self.executor_of(arm.side), show) for arm in trial.arms]
        try:
            has_weights = self.weights_of(trial).exists()
            places = list(range(len(turns)))
            # In every second launch NEW begins: neither side always starts on a machine that just idled.
            for index in places[::-1] if has_weights and trial.launch % 2 == 0 else places:
                part = {**request, "trial": asdict(self.part(trial, trial.arms[index]))}
                turns[index].begin(self.pool, part, folder / str(index), log, timeout_s)
                if not has_weights:
                    turns[index].wait()
            if has_weights:
                for side in turns:
                    side.wait()
            take_turns(trial, turns)
            results = [side.stop() for side in turns]
        except BaseException:
            for side in turns:
                side.answers.put(STOP)
            self.close()
            raise
        for index in range(len(turns)):
            if (left := folder / str(index) / "outputs-0.pt").exists():
                left.rename(folder / f"outputs-{index}.pt")
        return merged(results)

    def part(self, trial: Trial, arm: Arm, alone: bool = False) -> Trial:
        """One side's part of a trial. BASE leaves its weights in a file, and NEW takes them; both share the memory."""
        side, weights = self.sides[arm.side][0], self.weights_of(trial)
        is_base = arm.side == next(iter(self.sides))
        limit = trial.memory_limit_bytes
        return replace(
            trial,
            point=side.point(trial.point),
            arms=(arm,),
            turns=not alone,
            memory_limit_bytes=limit if limit is None or alone else limit // 2,
            weights_to=str(weights) if is_base else "",
            weights_from=str(weights) if not is_base and weights.exists() else "",
        )

    def weights_of(self, trial: Trial) -> Path:
        """The file of BASE's weights at a trial's point. NEW can begin beside BASE once it exists."""
        return self.scratch / f"across-{replace(trial, launch=1, arms=()).key}.pt"

    def check(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """Checks each arm's outputs on its side."""
        trial, answers = Trial.from_json(request["trial"]), []
        for index, each in enumerate(request["arms"]):
            arm = Arm(**each["arm"])
            part = {**request, "trial": asdict(self.part(trial, arm, alone=True)), "arms": [each]}
            result = self.executor_of(arm.side).run({"check": part}, folder / str(index), log, timeout_s, progress)
            if result.record is None:
                return result
            answers += result.record["arms"]
        return WorkerResult({"arms": answers})

    def executor_of(self, side: str) -> Executor:
        """Where a side runs."""
        return self.sides[side][1]

    def close(self) -> None:
        """See Executor.close."""
        for _, executor in self.sides.values():
            executor.close()
        self.pool.shutdown(wait=False)


def one_at_a_time(progress: Progress) -> Progress:
    """The same callback, for two threads."""
    lock = Lock()

    def show(report: JsonObject) -> JsonObject | None:
        with lock:
            return progress(report)

    return show


def take_turns(trial: Trial, sides: list[Turns]) -> None:
    """Blocks of one repetition of each side, in alternating order, until the interval is narrow enough or the time is up."""
    logs: list[float] = []
    spent_s = 0.0
    # The side that was ready first has waited for the other: once more, both have just run.
    for side in sides:
        side.warm_up()
    for block, order in enumerate(intervals.orders(len(sides), trial.key)):
        if any(side.ended for side in sides) or is_complete(trial, logs, spent_s):
            return
        turn = {"block": block, "prompt_seed": secrets.randbits(48), "recorded": secrets.randbelow(block + 1) == 0}
        times = {index: sides[index].run(turn) for index in order}
        known = [times[index] for index in range(len(sides))]
        spent_s += sum(each or 0.0 for each in known)
        if all(known):
            logs.append(math.log((known[0] or 1.0) / (known[-1] or 1.0)))


def is_complete(trial: Trial, logs: list[float], spent_s: float) -> bool:
    """Whether a launch has enough pairs."""
    if len(logs) < LEAST_PAIRS:
        return False
    return spent_s >= trial.max_seconds or intervals.half_width(logs) <= trial.target_ci


def merged(results: list[WorkerResult]) -> WorkerResult:
    """The records of both sides as one; where a side left none, how it ended, with the place of its arm."""
    for index, result in enumerate(results):
        if result.record is None:
            return replace(result, running=index)
    arms = [arm for result in results for arm in (result.record or {})["arms"]]
    return WorkerResult({"arms": arms})

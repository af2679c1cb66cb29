"""The arms of one trial in this process, and how the work of one of them ends without ending the others."""

import bisect
import gc
import math
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nanobench.errors import Skip
from nanobench.probes import compilation, memory
from nanobench.probes.leftovers import Leftovers
from nanobench.probes.shared_state import SharedState
from nanobench.records import ArmRecord, JsonObject, Outcome, Repetition, Status
from nanobench.schema import Trial
from nanobench.training import distributed
from nanobench.training.distributed import SINGLE_PROCESS, World
from nanobench.worker.workloads.base import Workload

REPORT_EVERY_S = 1.0
MOST_CORES = 1.1
"""Cores that an arm may use on a CPU, as a multiple of the point's threads."""
Report = Callable[[JsonObject], JsonObject | None]
"""Tells the control process how far the work is, and returns its answer."""


class Arms:
    """The arms of one trial: those still running (`live`) and the results of the others (`done`).

    The index of the running arm is in the file `running`, which survives a crash.
    """

    def __init__(self, trial: Trial, out: Path, report: Report, leftovers: Leftovers, world: World = SINGLE_PROCESS) -> None:
        self.trial, self.report, self.world, self.out, self.leftovers = trial, report, world, out, leftovers
        self.shared: list[Repetition] = []
        self.live: dict[int, Workload] = {}
        self.done: dict[int, tuple[list[Repetition], Outcome]] = {}
        self.steady: dict[int, list[Repetition]] = {index: [] for index in range(len(trial.arms))}
        self.running = os.open(out / "running" if world.is_rank_zero else os.devnull, os.O_WRONLY | os.O_CREAT, 0o644)
        self.reported_at = 0.0
        self.shared_state: SharedState | None = None

    def guard(self, index: int, work: Callable[[], Any], limited: bool = True) -> Any:
        """Runs an arm's work under the memory limit. An exception becomes the outcome of this arm and ends only this arm; so
        does a function of the clock that the arm has replaced.
        """
        os.pwrite(self.running, f"{index:<4}".encode(), 0)
        try:
            with memory.limited(limit_of(self.trial) if limited else None):
                result = work()
            self.leftovers.claim(index)
            wrong = self.tampered()
            if wrong is None:
                return result
            outcome = Outcome(status=Status.WRONG, reason=wrong)
        except Exception as error:
            outcome = outcome_of(error)
            if outcome.status is Status.ERROR:
                traceback.print_exc()
        if self.world.size > 1 and outcome.status is not Status.SKIPPED:
            distributed.abort(self.out, outcome.status, outcome.reason)
        self.end(index, outcome)
        return None

    def tampered(self) -> str | None:
        """What the work just done has changed that other arms or the clock depend on, or None."""
        if replaced := self.leftovers.replaced():
            return f"it replaced {replaced}, which times depend on"
        changed = self.shared_state.changed() if self.shared_state else None
        return f"it changed what all arms share: {changed}" if changed else None

    def end(self, index: int, outcome: Outcome) -> None:
        """Records an arm's outcome and frees its memory."""
        workload = self.live.pop(index, None)
        phases = workload.phases if workload else []
        self.done[index] = ([*self.shared, *phases, *self.steady[index]], outcome)
        del workload
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def end_cheats(self) -> None:
        """Ends every arm that left work running when the clock stopped, or used more cores than the point has threads."""
        found, point = self.leftovers.still_running(), self.trial.point
        for index in self.live:
            still = next((each.repetition for each in self.steady[index] if each.weights_moved is False), None)
            if still is not None:
                found.setdefault(index, f"no weight changed, or a parameter was frozen, in timed repetition {still + 1}")
            cores = cores_used(self.steady[index])
            if point.device == "cpu" and point.world_size == 1 and cores > MOST_CORES * point.threads:
                found.setdefault(index, f"it used {cores:.2g} cores, but the point has {point.threads} threads")
        for index, reason in self.world.broadcast(found).items():
            if index in self.live:
                self.end(index, Outcome(status=Status.WRONG, reason=reason))

    def report_progress(self, phase: str, index: int, always: bool = False, **progress: Any) -> None:
        """Reports to the parent, at most once per second unless `always`."""
        if always or time.monotonic() - self.reported_at >= REPORT_EVERY_S:
            self.report({"phase": phase, "arm": self.trial.arms[index].label, **progress})
            self.reported_at = time.monotonic()

    def assign_samples(self, samples: list[Repetition], note: str | None) -> None:
        """Assigns each sample to the arm that ran at its time, and the probes' note to each outcome."""
        spans = [
            (phase.started_at, index)
            for index, (phases, _) in self.done.items()
            for phase in phases
            if phase.started_at is not None and phase not in self.shared
        ]
        starts = sorted(spans)
        for sample in samples:
            before = bisect.bisect_right(starts, (sample.started_at, math.inf))
            if before:
                self.done[starts[before - 1][1]][0].append(sample)
        self.done = {index: (phases, replace(outcome, probe_note=note)) for index, (phases, outcome) in self.done.items()}

    def records(self) -> list[ArmRecord]:
        """The record of every finished arm, in the trial's order."""
        return [
            ArmRecord(arm=arm, repetitions=tuple(self.done[index][0]), outcome=self.done[index][1])
            for index, arm in enumerate(self.trial.arms)
            if index in self.done
        ]


def limit_of(trial: Trial) -> int | None:
    """Memory limit of this process in bytes: the ranks share the limit of a trial. None without a limit."""
    limit = trial.memory_limit_bytes
    return None if limit is None else limit // trial.point.world_size


def outcome_of(error: Exception) -> Outcome:
    """The outcome for an exception: its status, and its message on one line as the reason."""
    if isinstance(error, Skip):
        return Outcome(status=Status.SKIPPED, reason=str(error))
    message = compilation.summarize_error(str(error))
    reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return Outcome(status=Status.OOM if memory.is_out_of_memory(error) else Status.ERROR, reason=reason)


def cores_used(repetitions: list[Repetition]) -> float:
    """CPU seconds of all threads per second of timed work; 0 where that was not read."""
    read = [each for each in repetitions if each.process_cpu_s is not None and each.wall_s]
    return sum(each.process_cpu_s or 0.0 for each in read) / max(1e-9, sum(each.wall_s or 0.0 for each in read))

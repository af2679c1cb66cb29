"""One trial in this process: every arm is built, gated and warmed up, then all of them take turns.

Between repetitions it reports and waits for the answer, so that whatever its parent draws is never drawn beside one.
"""

import bisect
import functools
import gc
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nanobench.errors import Skip
from nanobench.probes import compilation, memory
from nanobench.probes.clock import Clock
from nanobench.probes.host import process_age_s
from nanobench.probes.instruments import Instruments, make_instruments
from nanobench.records import ArmRecord, Gate, Outcome, Repetition, Status, Verdict
from nanobench.schema import Arm, Trial
from nanobench.stats import intervals
from nanobench.training import distributed
from nanobench.training.distributed import ALONE, World
from nanobench.worker.workloads.base import TrialContext, Workload
from nanobench.worker.workloads.generate import Generation
from nanobench.worker.workloads.train import Training

IMPORT_S = process_age_s()
"""From the start of the interpreter to here; the children of a fork server share their server's."""
REPORT_EVERY_S = 1.0
LOOK_EVERY = 5
Report = Callable[[dict[str, Any]], None]


class Arms:
    """The arms of one trial: who is still running, what became of the others, and a note on disk of who runs now."""

    def __init__(self, trial: Trial, out: Path, report: Report, world: World = ALONE) -> None:
        self.trial, self.report, self.world, self.out = trial, report, world, out
        self.shared: list[Repetition] = []
        self.live: dict[int, Workload] = {}
        self.done: dict[int, tuple[list[Repetition], Outcome]] = {}
        self.steady: dict[int, list[Repetition]] = {index: [] for index in range(len(trial.arms))}
        self.running = os.open(out / "running" if world.is_rank_zero else os.devnull, os.O_WRONLY | os.O_CREAT, 0o644)
        self.reported_at = 0.0

    def guard(self, index: int, work: Callable[[], Any], limited: bool = True) -> Any:
        """Runs an arm's work under the memory limit. An exception ends this arm, becomes its outcome and spares the others."""
        os.pwrite(self.running, f"{index:<4}".encode(), 0)
        try:
            with memory.limited(limit_of(self.trial) if limited else None):
                return work()
        except Exception as error:
            outcome = outcome_of(error)
            if outcome.status is Status.ERROR:
                traceback.print_exc()
            if self.world.size > 1 and outcome.status is not Status.SKIPPED:
                distributed.abort(self.out, outcome.status, outcome.reason)
        self.end(index, outcome)
        return None

    def end(self, index: int, outcome: Outcome) -> None:
        """Takes an arm out and frees what it held."""
        workload = self.live.pop(index)
        self.done[index] = ([*self.shared, *workload.phases, *self.steady[index]], outcome)
        del workload
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def say(self, phase: str, index: int, always: bool = False, **progress: Any) -> None:
        """Reports, at most once a second."""
        if always or time.monotonic() - self.reported_at >= REPORT_EVERY_S:
            self.report({"phase": phase, "arm": self.trial.arms[index].label, **progress})
            self.reported_at = time.monotonic()

    def keep(self, samples: list[Repetition], note: str | None) -> None:
        """Gives each sample to the arm that ran at its time, and each outcome the probes' note."""
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
        """What is known of every arm, in the trial's order."""
        return [
            ArmRecord(arm=arm, repetitions=tuple(self.done[index][0]), outcome=self.done[index][1])
            for index, arm in enumerate(self.trial.arms)
            if index in self.done
        ]


def settled(trial: Trial) -> torch.device:
    """The trial's device, with its threads set and the compiler ready, for what follows may be under a limit."""
    device = distributed.device_of(trial.point.device)
    torch.set_num_threads(trial.point.threads)
    distributed.set_device(device)
    if device.type == "cpu" and any(arm.compile_mode != "off" for arm in trial.arms):
        compilation.warm_vec_isa_cache()
    return device


def limit_of(trial: Trial) -> int | None:
    """Bytes that this process may take: ranks share what a worker may."""
    limit = trial.memory_limit_bytes
    return None if limit is None else limit // trial.point.world_size


def context_of(trial: Trial, world: World) -> TrialContext:
    """What the arms of a trial share, with the model loaded."""
    return Training(trial, world) if trial.point.trains else Generation(trial)


def outcome_of(error: Exception) -> Outcome:
    """The status that an exception stands for, with its own words as the reason."""
    if isinstance(error, Skip):
        return Outcome(status=Status.SKIPPED, reason=str(error))
    brief = compilation.in_brief(str(error))
    reason = f"{type(error).__name__}: {brief}" if brief else type(error).__name__
    return Outcome(status=Status.OOM if memory.is_out_of_memory(error) else Status.ERROR, reason=reason)


def measure(
    trial: Trial, known: dict[str, Gate], out: Path, report: Report, instruments: Instruments | None = None
) -> list[ArmRecord]:
    """Gate, warm-up and interleaved pairs of all arms of one trial; `instruments` are the device's own unless given."""
    # Before the first use of CUDA, or the probe could not tell our own process from foreign ones.
    instruments = instruments or make_instruments(distributed.device_of(trial.point.device), distributed.folder_of(out))
    device = settled(trial)
    world = distributed.join(device)
    arms = Arms(trial, out, report if world.is_rank_zero else lambda progress: None, world)
    started_at, start = time.time(), time.perf_counter()
    try:
        with memory.limited(limit_of(trial)):
            context = context_of(trial, world)
            loaded = Repetition(kind="load", started_at=started_at, wall_s=time.perf_counter() - start)
            context.ready(gated=bool(known))
    except Exception as error:
        traceback.print_exc()
        instruments.close()
        if world.size > 1:
            outcome = outcome_of(error)
            distributed.abort(out, outcome.status, outcome.reason)
        return [ArmRecord(arm=arm, outcome=outcome_of(error)) for arm in trial.arms]
    instruments.ready()
    arms.shared = [Repetition(kind="import", wall_s=IMPORT_S), loaded]
    with torch.inference_mode(context.inference):
        prepare(trial, context, instruments.clock, known, arms)
        if not trial.gate_only:
            gc.freeze()
            gc.disable()
            run_blocks(trial, instruments, arms)
            gc.enable()
            sustain(trial, instruments, arms)
            profile(trial, out, arms)
    for index, workload in list(arms.live.items()):
        outcome = arms.guard(index, workload.outcome)
        if outcome is not None:
            arms.end(index, outcome)
    arms.keep(instruments.close(), instruments.note)
    return arms.records()


def prepare(trial: Trial, context: TrialContext, clock: Clock, known: dict[str, Gate], arms: Arms) -> None:
    """Builds, gates and warms up every arm; an arm that computes something else ends here and is never timed."""
    for index, arm in enumerate(trial.arms):
        arms.say("prepare", index, always=True)
        workload = context.arm(arm, clock)
        arms.live[index] = workload
        gate = arms.guard(index, functools.partial(prepared, trial, arm, workload, known.get(arm.label), arms.world))
        if gate is not None and gate.verdict is Verdict.WRONG:
            arms.end(index, workload.outcome())
    if not trial.gate_only:
        for index in list(arms.live):
            arms.guard(index, arms.live[index].warm_up)


def prepared(trial: Trial, arm: Arm, workload: Workload, known: Gate | None, world: World) -> Gate:
    """See Workload.prepare. What an arm compiles it finds again in later launches, and no other arm does: or its first call
    would be no cold one. Where nothing is timed all may find it.
    """
    if trial.gate_only or arm.compile_mode == "off":
        return workload.prepare(known)
    cache_key = cache_key_of(trial, arm)
    if trial.launch == 1:
        # A trial that was cut off, or in which this arm found no memory beside others, was here before.
        if world.is_rank_zero:
            shutil.rmtree(compilation.cache_of(cache_key), ignore_errors=True)
        world.barrier()
    with compilation.own_cache(cache_key):
        return workload.prepare(known)


def cache_key_of(trial: Trial, arm: Arm) -> str:
    """A name for an arm at a point in all launches."""
    return replace(trial, arms=(arm,), launch=1).key


def run_blocks(trial: Trial, instruments: Instruments, arms: Arms) -> None:
    """Runs every arm once a block until the pairs are narrow enough or time is up. The clock says which blocks carry marks."""
    spent_s, timestamp_interval = 0.0, instruments.clock.timestamp_interval
    for block, order in enumerate(intervals.orders(len(trial.arms), trial.key)):
        if not arms.live or arms.world.broadcast(enough(trial, arms, spent_s, block, timestamp_interval)):
            return
        timestamped = block % timestamp_interval == 0
        for index in order:
            if index not in arms.live:
                continue
            arms.say("steady", index, block=block, spent_s=spent_s, budget_s=trial.max_seconds)
            repeat = functools.partial(arms.live[index].repeat, len(arms.steady[index]), block, timestamped)
            timed = arms.guard(index, functools.partial(instruments.observe, repeat))
            if timed is not None:
                arms.steady[index].append(timed)
                spent_s += timed.wall_s


def sustain(trial: Trial, instruments: Instruments, arms: Arms) -> None:
    """In the first launch, where a probe needs it: each arm for some seconds by itself, for counters that are slow to renew."""
    if trial.launch > 1 or not instruments.sustained_s:
        return
    for index in list(arms.live):
        arms.say("sustained", index, always=True)
        work = functools.partial(arms.live[index].sustain, instruments.sustained_s)
        done = arms.guard(index, functools.partial(instruments.observe, work))
        if done is not None:
            arms.steady[index].append(done)


def profile(trial: Trial, out: Path, arms: Arms) -> None:
    """In the first launch, after all that is timed: counts what each arm dispatches. The profiler's memory is not the arm's."""
    if trial.launch > 1:
        return
    for index in list(arms.live):
        trace = out / f"trace-{index}.json" if trial.trace and arms.world.is_rank_zero else None
        arms.guard(index, functools.partial(arms.live[index].profile, trace), limited=False)


def enough(trial: Trial, arms: Arms, spent_s: float, blocks: int, timestamp_interval: int) -> bool:
    """Whether the launch may stop: after its least pairs, when time is up or every contrast is within the target."""
    timestamped = -(-blocks // timestamp_interval) if timestamp_interval > 1 else 0
    pairs = blocks - timestamped
    least = 2 if spent_s < 2.0 * max(1, blocks) else 1
    if pairs < least:
        return False
    if spent_s >= trial.max_seconds:
        return True
    return pairs % LOOK_EVERY == 0 and all(
        intervals.half_width(logs) <= trial.target_ci for logs in contrasts(arms, timestamp_interval)
    )


def contrasts(arms: Arms, timestamp_interval: int) -> list[list[float]]:
    """Log time ratios of every live arm to the first, pair by pair; of a lone arm its own log times."""
    times = {
        index: {
            r.block: r.wall_s / r.calls
            for r in arms.steady[index]
            if r.wall_s and (timestamp_interval == 1 or not r.timestamped)
        }
        for index in sorted(arms.live)
    }
    first, *others = times.values()
    logs = [[math.log(first[block] / other[block]) for block in first if block in other] for other in others]
    return logs or [[math.log(seconds) for seconds in first.values()]]

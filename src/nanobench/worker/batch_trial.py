"""One trial of a batch size: all arms of a point run side by side in one process, as a sweep will measure them.

Each arm takes one call or optimizer step (which compiles), one warm-up, and then timed ones for half a second.
"""

import gc
from pathlib import Path

import torch

from nanobench.errors import Skip
from nanobench.probes import memory
from nanobench.probes.clock import Clock, make_clock
from nanobench.records import JsonObject, Repetition, Status
from nanobench.schema import Trial
from nanobench.training import distributed
from nanobench.worker.arms import limit_of, outcome_of
from nanobench.worker.trial import make_context, prepare_device
from nanobench.worker.workloads.base import TrialContext, Workload

TIMED_S = 0.5
"""Seconds of timed work over all arms."""


def run_batch_trial(trial: Trial, out: Path) -> JsonObject:
    """Runs all arms of a trial side by side.

    Returns status `ok` with tokens per second over all arms (`tok_s`) and the peak memory of all ranks (`peak_bytes`), or the
    status and the reason of the failure.
    """
    device = prepare_device(trial)
    world = distributed.join(device)
    try:
        with memory.limited(limit_of(trial)):
            context, clock = make_context(trial, world), make_clock(device)
            context.reserve_gate_memory()
            with torch.inference_mode(context.inference):
                workloads = begin_arms(context, trial, clock)
                # The second call is not timed either: a compiler may still be busy.
                for workload in workloads:
                    workload.time("warmup", 0, None)
                timed: list[Repetition] = []
                while world.broadcast(total_s(timed) < TIMED_S):
                    timed += [workload.time("warmup", 1, None) for workload in workloads]
    except Exception as error:
        outcome = outcome_of(error)
        if world.size > 1:
            distributed.abort(out, outcome.status, outcome.reason)
        return {"status": outcome.status, "reason": outcome.reason}
    return {
        "status": Status.OK,
        "tok_s": sum(repetition.tokens for repetition in timed) / total_s(timed),
        "peak_bytes": sum(world.all_gather(peak_bytes(device))),
    }


def total_s(repetitions: list[Repetition]) -> float:
    """Seconds of all repetitions."""
    return sum(repetition.wall_s or 0.0 for repetition in repetitions)


def begin_arms(context: TrialContext, trial: Trial, clock: Clock) -> list[Workload]:
    """The arms, each built and run once; arms that this device cannot run are left out. Raises Skip if none can run."""
    workloads, reason = [], Skip()
    for arm in trial.arms:
        workload = None
        try:
            workload = context.make_workload(arm, clock)
            workload.begin()
            workloads.append(workload)
        except Skip as skip:
            # A copy without the traceback, which would keep the arm's model alive.
            reason = Skip(str(skip))
            workload = None
            gc.collect()
    if not workloads:
        raise reason
    return workloads


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process: reserved by the allocator on a GPU, resident on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else memory.rss_peak_bytes()

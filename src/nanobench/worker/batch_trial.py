"""One try of a batch size: the arms as they will be measured take two full steps, or calls, and then some that are timed."""

import gc
from pathlib import Path
from typing import Any

import torch

from nanobench.errors import Skip
from nanobench.probes import memory
from nanobench.probes.clock import Clock, make_clock
from nanobench.records import Repetition, Status
from nanobench.schema import Trial
from nanobench.training import distributed
from nanobench.worker.trial import context_of, limit_of, outcome_of, settled
from nanobench.worker.workloads.base import TrialContext, Workload

TIMED_S = 0.5


def attempt(trial: Trial, out: Path) -> dict[str, Any]:
    """Whether all arms of a trial find their memory together, with tokens per second and the peak; else the status and why."""
    device = settled(trial)
    world = distributed.join(device)
    try:
        with memory.limited(limit_of(trial)):
            context, clock = context_of(trial, world), make_clock(device)
            context.reserve_gate_memory()
            with torch.inference_mode(context.inference):
                workloads = begun(context, trial, clock)
                # The second is full too, and not timed: a compiler may still be busy beside it.
                for workload in workloads:
                    workload.time("warmup", 0, None, timestamped=False)
                done: list[Repetition] = []
                while world.broadcast(sum(each.wall_s or 0.0 for each in done) < TIMED_S):
                    done += [workload.time("warmup", 1, None, timestamped=False) for workload in workloads]
    except Exception as error:
        outcome = outcome_of(error)
        if world.size > 1:
            distributed.abort(out, outcome.status, outcome.reason)
        return {"status": outcome.status, "reason": outcome.reason}
    wall_s = sum(each.wall_s or 0.0 for each in done)
    return {
        "status": Status.OK,
        "tok_s": sum(each.tokens for each in done) / wall_s,
        "peak_bytes": sum(world.all_gather(peak_bytes(device))),
    }


def begun(context: TrialContext, trial: Trial, clock: Clock) -> list[Workload]:
    """The arms that have run once, less those that cannot run here. Raises Skip where none can."""
    workloads, reason = [], Skip()
    for arm in trial.arms:
        workload = context.arm(arm, clock)
        try:
            workload.begin()
            workloads.append(workload)
        except Skip as skip:
            # Its traceback holds the model that it was raised beside.
            reason = Skip(str(skip))
            del workload
            gc.collect()
    if not workloads:
        raise reason
    return workloads


def peak_bytes(device: torch.device) -> int:
    """The most that this process held: reserved on a GPU, resident on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else memory.rss_peak_bytes()

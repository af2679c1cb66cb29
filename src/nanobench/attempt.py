"""One try of a batch size: the arms as they will be measured take two full steps, or calls, and then some that are timed."""

import gc
from pathlib import Path
from typing import Any

import torch

from nanobench import ranks
from nanobench.errors import Skip
from nanobench.probes import memory
from nanobench.probes.clock import Clock, make_clock
from nanobench.record import Repetition, Status
from nanobench.schema import Trial
from nanobench.trial import limit_of, outcome_of, settled, stage_of
from nanobench.workloads.base import Stage, Workload

TIMED_S = 0.5


def attempt(trial: Trial, out: Path) -> dict[str, Any]:
    """Whether all arms of a trial find their memory together, with tokens per second and the peak; else the status and why."""
    device = settled(trial)
    world = ranks.join(device)
    try:
        with memory.limited(limit_of(trial)):
            stage, clock = stage_of(trial, world), make_clock(device)
            stage.rehearse()
            with torch.inference_mode(stage.inference):
                workloads = begun(stage, trial, clock)
                # The second is full too, and not timed: a compiler may still be busy beside it.
                for workload in workloads:
                    workload.time("warmup", 0, None, marked=False)
                done: list[Repetition] = []
                while world.decided(sum(each.wall_s or 0.0 for each in done) < TIMED_S):
                    done += [workload.time("warmup", 1, None, marked=False) for workload in workloads]
    except Exception as error:
        outcome = outcome_of(error)
        if world.size > 1:
            ranks.give_up(out, outcome.status, outcome.reason)
        return {"status": outcome.status, "reason": outcome.reason}
    wall_s = sum(each.wall_s or 0.0 for each in done)
    return {
        "status": Status.OK,
        "tok_s": sum(each.tokens for each in done) / wall_s,
        "peak_bytes": sum(world.heard(peak_bytes(device))),
    }


def begun(stage: Stage, trial: Trial, clock: Clock) -> list[Workload]:
    """The arms that have run once, less those that cannot run here. Raises Skip where none can."""
    workloads, reason = [], Skip()
    for arm in trial.arms:
        workload = stage.arm(arm, clock)
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

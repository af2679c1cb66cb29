"""One try of a batch size: the arm as it will be measured takes two full steps, or calls, and then some that are timed."""

from pathlib import Path
from typing import Any

import torch

from nanobench import ranks
from nanobench.probes import memory
from nanobench.probes.clock import make_clock
from nanobench.record import Status
from nanobench.schema import Trial
from nanobench.trial import limit_of, outcome_of, stage_of

TIMED_S = 0.5


def attempt(trial: Trial, out: Path) -> dict[str, Any]:
    """Whether the trial's only arm finds its memory, with tokens per second and the peak; else the status and the reason."""
    device = ranks.device_of(trial.point.device)
    torch.set_num_threads(trial.point.threads)
    ranks.settle_on(device)
    world = ranks.join(device)
    try:
        with memory.limited(limit_of(trial)):
            stage = stage_of(trial, world)
            stage.ready(gated=True)
            workload = stage.arm(trial.arms[0], make_clock(device))
            with torch.inference_mode(stage.inference):
                workload.begin()
                # The second is full too, and not timed: a compiler may still be busy beside it.
                workload.time("warmup", 0, None, marked=False)
                done = [workload.time("warmup", 1, None, marked=False)]
                while world.decided(sum(each.wall_s or 0.0 for each in done) < TIMED_S):
                    done.append(workload.time("warmup", len(done) + 1, None, marked=False))
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


def peak_bytes(device: torch.device) -> int:
    """The most that this process held: reserved on a GPU, resident on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else memory.rss_peak_bytes()

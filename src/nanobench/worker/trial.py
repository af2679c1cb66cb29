"""One trial in this process: every arm is built, gated and warmed up, then the arms take turns.

The worker reports between repetitions and waits for the answer, so the parent never updates its display during a repetition.
"""

import functools
import gc
import math
import secrets
import shutil
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from nanobench.probes import compilation, memory
from nanobench.probes.clock import Clock
from nanobench.probes.host import process_age_s
from nanobench.probes.instruments import Instruments, make_instruments
from nanobench.probes.leftovers import Leftovers
from nanobench.probes.shared_state import SharedState
from nanobench.records import ArmRecord, Gate, Repetition, Verdict
from nanobench.schema import WARM_UP_TURN, Arm, Trial
from nanobench.stats import intervals
from nanobench.training import distributed
from nanobench.training.distributed import World
from nanobench.worker.arms import Arms, Report, limit_of, outcome_of
from nanobench.worker.workloads.base import Block, TrialContext, Workload
from nanobench.worker.workloads.generation import Generation
from nanobench.worker.workloads.train import Training

IMPORT_S = process_age_s()
"""Seconds from the start of the interpreter to here; children of a fork server have their server's value."""
NO_ARM = -1
CHECK_EVERY_PAIRS = 5
"""The precision is checked after every so many pairs."""


def prepare_device(trial: Trial) -> torch.device:
    """Selects the trial's device and sets its threads; on a CPU it also initializes inductor, before any memory limit."""
    device = distributed.rank_device(trial.point.device)
    torch.set_num_threads(trial.point.threads)
    distributed.set_device(device)
    if device.type == "cpu" and any(arm.compile_mode != "off" for arm in trial.arms):
        compilation.warm_vec_isa_cache()
    return device


def make_context(trial: Trial, world: World) -> TrialContext:
    """The state that the arms of a trial share; loads the model."""
    return Training(trial, world) if trial.point.trains else Generation(trial)


def measure(
    trial: Trial, known: dict[str, Gate], out: Path, report: Report, instruments: Instruments | None = None
) -> list[ArmRecord]:
    """Gates, warms up and times all arms of one trial, in interleaved pairs.

    `known` has the gate verdicts of an earlier launch by arm label. `instruments` default to those of the device.
    """
    # Before the first use of CUDA: else the probe cannot distinguish this process from foreign ones.
    instruments = instruments or make_instruments(distributed.rank_device(trial.point.device), distributed.rank_folder(out))
    device = prepare_device(trial)
    world = distributed.join(device)
    leftovers = Leftovers(instruments.clock)
    arms = Arms(trial, out, report if world.is_rank_zero else lambda progress: None, leftovers, world)
    started_at, start = time.time(), time.perf_counter()
    try:
        with memory.limited(limit_of(trial)):
            context = make_context(trial, world)
            loaded = Repetition(kind="load", started_at=started_at, wall_s=time.perf_counter() - start)
            context.ready(gated=all(arm.label in known for arm in trial.arms))
    except Exception as error:
        traceback.print_exc()
        instruments.close()
        if world.size > 1:
            outcome = outcome_of(error)
            distributed.abort(out, outcome.status, outcome.reason)
        return [ArmRecord(arm=arm, outcome=outcome_of(error)) for arm in trial.arms]
    leftovers.claim(NO_ARM)
    arms.shared_state = SharedState(*context.modules)
    instruments.ready()
    arms.shared = [Repetition(kind="import", wall_s=IMPORT_S), loaded]
    with torch.inference_mode(context.inference):
        prepare_arms(trial, context, instruments.clock, known, arms)
        if not trial.gate_only:
            gc.freeze()
            gc.disable()
            if trial.turns:
                run_turns(instruments, arms)
            else:
                run_blocks(trial, instruments, arms)
            gc.enable()
            arms.end_cheats()
            save_outputs(out, arms)
            sustain(trial, known, instruments, arms)
            profile(trial, known, out, arms)
    for index, workload in list(arms.live.items()):
        outcome = arms.guard(index, workload.outcome)
        if outcome is not None:
            arms.end(index, outcome)
    arms.assign_samples(instruments.close(), instruments.note)
    return arms.records()


def save_outputs(out: Path, arms: Arms) -> None:
    """Writes what each arm put out next to the record, for the check after the launch."""
    for index in list(arms.live):
        if arms.world.is_rank_zero:
            arms.guard(index, functools.partial(arms.live[index].save_outputs, outputs_file(out, index)), limited=False)


def outputs_file(out: Path, index: int) -> Path:
    """The file with the outputs of one arm."""
    return out / f"outputs-{index}.pt"


def prepare_arms(trial: Trial, context: TrialContext, clock: Clock, known: dict[str, Gate], arms: Arms) -> None:
    """Builds, gates and warms up every arm. An arm whose gate verdict is `wrong` ends here and is never timed."""
    for index, arm in enumerate(trial.arms):
        arms.report_progress("prepare", index, always=True)
        workload = arms.guard(index, functools.partial(context.make_workload, arm, clock))
        if workload is None:
            continue
        arms.live[index] = workload
        gate = arms.guard(index, functools.partial(prepare_arm, trial, arm, workload, known.get(arm.label), arms.world))
        if gate is not None and gate.verdict is Verdict.WRONG:
            arms.end(index, workload.outcome())
    if not trial.gate_only:
        for index in list(arms.live):
            arms.guard(index, arms.live[index].warm_up)


def prepare_arm(trial: Trial, arm: Arm, workload: Workload, known: Gate | None, world: World) -> Gate:
    """See Workload.prepare. A compiled arm has an inductor cache of its own, which its later launches reuse: with a shared
    cache its first call would not be cold. A gate-only trial times nothing and uses the shared cache.
    """
    if trial.gate_only or arm.compile_mode == "off":
        return workload.prepare(known)
    cache_key = cache_key_of(trial, arm)
    if known is None or trial.launch == 1:
        # Left from an interrupted trial, or from one in which this arm ran out of memory next to others.
        if world.is_rank_zero:
            shutil.rmtree(compilation.cache_of(cache_key), ignore_errors=True)
        world.barrier()
    with compilation.own_cache(cache_key):
        return workload.prepare(known)


def cache_key_of(trial: Trial, arm: Arm) -> str:
    """The name of an arm's compile cache at a point, the same in all launches."""
    return replace(trial, arms=(arm,), launch=1, extra=False).key


def run_blocks(trial: Trial, instruments: Instruments, arms: Arms) -> None:
    """Runs every arm once per block until the intervals are narrow enough or the time is used up.

    One block in `clock.timestamp_interval` is timestamped at every token; the other blocks give the pairs.
    """
    spent_s, timestamp_interval = 0.0, instruments.clock.timestamp_interval
    for block, order in enumerate(intervals.orders(len(trial.arms), trial.key)):
        if not arms.live or arms.world.broadcast(is_complete(trial, arms, spent_s, block, timestamp_interval)):
            return
        # Each block so far is the recorded one with the same probability.
        drawn = (secrets.randbits(48), secrets.randbelow(block + 1) == 0)
        turn = Block(block, block % timestamp_interval == 0, *arms.world.broadcast(drawn))
        for index in order:
            if index in arms.live:
                arms.report_progress("steady", index, block=block, spent_s=spent_s, budget_s=trial.max_seconds)
                timed = run_repetition(index, turn, instruments, arms)
                spent_s += (timed.wall_s or 0.0) if timed else 0.0


def run_repetition(index: int, turn: Block, instruments: Instruments, arms: Arms) -> Repetition | None:
    """One timed repetition of an arm; None where the arm ended."""
    arms.guard(index, functools.partial(arms.live[index].lay_out, turn))
    if index not in arms.live:
        return None
    repeat = functools.partial(arms.live[index].repeat, len(arms.steady[index]), turn)
    timed: Repetition | None = arms.guard(index, functools.partial(instruments.observe, repeat))
    if timed is not None:
        arms.steady[index].append(timed)
    return timed


def run_turns(instruments: Instruments, arms: Arms) -> None:
    """The arm runs a repetition each time that the control process gives it a turn, and waits on its pipe in between: another
    process runs the arm that it is compared with. See `sweep/duet.py`.
    """
    last: Repetition | None = None
    while 0 in arms.live:
        answer = arms.report({"phase": "turn", "wall_s": last and last.wall_s, "calls": last and last.calls})
        if answer == WARM_UP_TURN:
            arms.guard(0, functools.partial(arms.live[0].time, "warmup", 0, None))
            continue
        if not answer or "turn" not in answer:
            return
        turn = answer["turn"]
        timestamped = turn["block"] % instruments.clock.timestamp_interval == 0
        last = run_repetition(0, Block(turn["block"], timestamped, turn["prompt_seed"], turn["recorded"]), instruments, arms)


def new_arms(trial: Trial, known: dict[str, Gate], arms: Arms) -> list[int]:
    """The live arms whose first launch this is: no earlier one has gated them."""
    return [index for index in arms.live if trial.launch == 1 or trial.arms[index].label not in known]


def sustain(trial: Trial, known: dict[str, Gate], instruments: Instruments, arms: Arms) -> None:
    """In an arm's first launch, if a probe needs it: runs it alone for some seconds, for counters that update slowly."""
    if not trial.sustain or not instruments.sustained_s:
        return
    for index in new_arms(trial, known, arms):
        arms.report_progress("sustained", index, always=True)
        # Not observed: the counters of the probes are those of the long run alone.
        count = arms.guard(index, functools.partial(arms.live[index].count_sustained, instruments.sustained_s))
        if count is None:
            continue
        work = functools.partial(arms.live[index].sustain, count)
        done = arms.guard(index, functools.partial(instruments.observe, work))
        if done is not None:
            arms.steady[index].append(done)


def profile(trial: Trial, known: dict[str, Gate], out: Path, arms: Arms) -> None:
    """In an arm's first launch, after all timed work: profiles it, without the memory limit because of the profiler."""
    for index in new_arms(trial, known, arms):
        trace = out / f"trace-{index}.json" if trial.trace and arms.world.is_rank_zero else None
        arms.guard(index, functools.partial(arms.live[index].profile, trace), limited=False)


def is_complete(trial: Trial, arms: Arms, spent_s: float, blocks: int, timestamp_interval: int) -> bool:
    """Whether the launch may stop: enough pairs, and either no time left or every interval within the target."""
    timestamped = -(-blocks // timestamp_interval) if timestamp_interval > 1 else 0
    pairs = blocks - timestamped
    minimum = 2 if spent_s < 2.0 * max(1, blocks) else 1
    if pairs < minimum:
        return False
    if spent_s >= trial.max_seconds:
        return True
    return pairs % CHECK_EVERY_PAIRS == 0 and all(
        intervals.half_width(logs) <= trial.target_ci for logs in contrasts(arms, timestamp_interval)
    )


def contrasts(arms: Arms, timestamp_interval: int) -> list[list[float]]:
    """Per live arm but the first, log(time of the first / time of the arm) of each pair; for a single arm its log times."""
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

"""The base of all workloads: phases, warm-up, timed repetitions in which nothing may compile, and timestamps."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any

import torch

from nanobench.engines._compiler import Compiler
from nanobench.probes import compilation, memory
from nanobench.probes.clock import Clock, timestamp_cost_s
from nanobench.probes.nvtx import nvtx_ranges
from nanobench.records import Gate, Repetition, Status, Verdict
from nanobench.schema import Arm
from nanobench.training.distributed import SINGLE_PROCESS, World
from nanobench.worker.workloads.base import Block

WARMUP_S = 0.5
MIN_REPETITION_S = 0.02
TIMER_SLACK = 0.01
LEFT_EAGER = "compile mode {!r} left functions to run eagerly ({}): {}"


class Timed(ABC):
    """One arm. A repetition is `calls` generate calls or optimizer steps, which a subclass defines in `time`."""

    gate: Gate
    """the verdict on this arm, after the gate has run"""
    across: Gate | None = None
    """A/B comparison: the verdict on this side's model, compared with the other's"""
    min_calls = 1

    def __init__(self, arm: Arm, clock: Clock, device: torch.device, nvtx: bool = False, world: World = SINGLE_PROCESS) -> None:
        self.arm, self.clock, self.device, self.world = arm, clock, device, world
        self.nvtx_range = nvtx_ranges(nvtx)
        self.phases: list[Repetition] = []
        self.calls = 1
        self.compiler = Compiler(arm.compile_mode, device.type)
        self.compilation = compilation.Compilation()
        self.dispatched: dict[str, Any] = {}
        self.retries_before = 0

    @abstractmethod
    def time(self, kind: str, repetition: int, block: Block | None) -> Repetition:
        """See Workload.time."""

    def lay_out(self, block: Block | None) -> None:  # noqa: B027
        """See Workload.lay_out."""

    @abstractmethod
    def build(self) -> None:
        """Builds the engine or trainer and allocates its memory."""

    @abstractmethod
    def judge(self, digest: str) -> None:
        """Runs the gate and sets `gate`; `digest` identifies the results of the first call."""

    def apply_gate(self, digest: str, known: Gate | None) -> None:
        """Reuses the verdict of an earlier launch if the digests are equal, else runs the gate and frees its memory."""
        if known is not None and known.digest == digest:
            self.gate = known
            return
        with self.nvtx_range("gate"), memory.release_freed():
            self.record_phase("gate", lambda: self.judge(digest))

    def begin(self) -> None:
        """See Workload.begin."""
        # An engine may compile while it is built.
        tally = compilation.CompileCounters() if self.compiler.compiles else None
        self.record_phase("build", self.build)
        self.first_call(tally)

    def record_phase(self, kind: str, work: Callable[[], None]) -> None:
        """Runs `work` and appends its duration to `phases`."""
        started_at, start = time.time(), self.clock.now()
        work()
        self.clock.sync()
        self.phases.append(Repetition(kind=kind, started_at=started_at, wall_s=self.clock.now() - start))

    def first_call(self, tally: compilation.CompileCounters | None) -> None:
        """The first call at the measured shape: it compiles, fills the allocator and selects kernels.

        `tally` counts from before the build of a compiled arm. Raises RuntimeError for one that would run eagerly, completely
        or in part.
        """
        self.phases.append(self.time("first_call", 0, None))
        if tally is None:
            return
        mode = self.arm.compile_mode
        if not tally.graphs:
            raise RuntimeError(f"compile mode {mode!r} compiled no graph: the arm would run eagerly")
        if tally.eager:
            raise RuntimeError(LEFT_EAGER.format(mode, tally.eager, tally.cause))
        self.compilation = compilation.Compilation(tally.graphs, self.recompiles(), tally.breaks)

    def recompiles(self) -> int:
        """The number of times that this arm's functions were compiled again."""
        return compilation.recompiles_of(self.compiler.code_names)

    def warm_up(self) -> None:
        """Runs at the measured shape for at least half a second and one repetition (two on CUDA).

        The first call counts as a repetition if nothing is compiled and a repetition is one call.
        """
        done = [] if self.compiler.compiles else [phase for phase in self.phases if phase.kind == "first_call"]
        done = done if self.min_calls == 1 else []
        self.calls, minimum = self.min_calls, 2 if self.clock.enqueues else 1
        with self.nvtx_range("warm-up"):
            while self.world.broadcast(len(done) < minimum or sum(phase.wall_s or 0.0 for phase in done) < WARMUP_S):
                done.append(self.time("warmup", len(done), None))
                self.phases.append(done[-1])
        self.retries_before = memory.alloc_retries(self.device) or 0
        self.calls *= self.world.broadcast(math.ceil(MIN_REPETITION_S / (done[-1].wall_s or MIN_REPETITION_S)))

    def repeat(self, repetition: int, block: Block) -> Repetition:
        """See Workload.repeat."""
        if not self.compiler.compiles:
            return self.time("steady", repetition, block)
        tally = compilation.CompileCounters()
        timed = self.time("steady", repetition, block)
        if not any(self.world.all_gather(bool(tally.graphs))):
            return timed
        self.compilation = replace(self.compilation, recompiles=self.recompiles())
        return replace(timed, valid=False, reason="recompiled in the steady phase")

    def count_sustained(self, seconds: float) -> int:
        """See Workload.count_sustained."""
        once = self.time("sustained", 0, None)
        count: int = self.world.broadcast(math.ceil(seconds / (once.wall_s or seconds)))
        return count

    def sustain(self, count: int) -> Repetition:
        """See Workload.sustain."""
        calls, self.calls = self.calls, self.calls * count
        try:
            return self.time("sustained", 0, None)
        finally:
            self.calls = calls

    def clock_stopped(self) -> None:  # noqa: B027
        """Called right after the clock stopped, for what has to be copied aside."""

    def run(self, work: Callable[[list[Any], bool], None], block: Block | None, **facts: Any) -> Repetition:
        """Times `work(timestamps, timestamped)` from an idle device to an idle device.

        If `timestamped`, `work` appends its timestamps to the list. `facts` are further fields of the repetition.
        """
        clock, timestamped = self.clock, block is not None and block.timestamped
        clock.sync()
        self.world.barrier()
        started_at, cpu_s = time.time(), process_time()
        start, timestamps = clock.now(), [clock.timestamp()]
        work(timestamps, timestamped)
        timestamps.append(clock.timestamp())
        enqueue_s = clock.now() - start
        clock.sync()
        elapsed_s, cpu_s = clock.now() - start, process_time() - cpu_s
        self.clock_stopped()
        wall_s = max(self.world.all_gather(elapsed_s))
        times = clock.resolve(timestamps)
        waited = not clock.enqueues or times[-1] <= wall_s * (1 + TIMER_SLACK)
        return Repetition(
            block=None if block is None else block.number,
            calls=self.calls,
            timestamped=timestamped,
            started_at=started_at,
            wall_s=wall_s,
            process_cpu_s=None if clock.enqueues else cpu_s,
            device_s=times[-1] if clock.enqueues else None,
            enqueue_s=enqueue_s if clock.enqueues else None,
            token_times_s=tuple(times[1:-1]) if timestamped else None,
            valid=waited,
            reason=None if waited else "the timer stopped before the device did",
            **facts,
        )

    def common_outcome(self) -> dict[str, Any]:
        """The fields of an outcome that every workload has: gate, cost of a timestamp, memory of the process."""
        gate, wrong = self.gate, self.gate.verdict is Verdict.WRONG
        return {
            "status": Status.WRONG if wrong else Status.OK,
            "reason": gate.note if wrong else None,
            "gate": gate.verdict,
            "gate_note": gate.note,
            "gate_max_error": gate.max_error,
            "gate_tolerance": gate.tolerance,
            "digest": gate.digest,
            "across": self.across and self.across.verdict,
            "across_note": self.across and self.across.note,
            "timestamp_cost_s": timestamp_cost_s(self.clock),
            "rss_peak_bytes": memory.rss_peak_bytes(),
            "alloc_retries": self.alloc_retries(),
        }

    def alloc_retries(self) -> int | None:
        """Retries of CUDA's allocator since the end of the warm-up; None on a CPU."""
        so_far = memory.alloc_retries(self.device)
        return None if so_far is None else so_far - self.retries_before

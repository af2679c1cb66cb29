"""What the workloads of all arms have in common: phases, a warm-up, repetitions in which nothing may compile, marks in time."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from nanobench.engines._compiler import Compiler
from nanobench.probes import compilation, memory
from nanobench.probes.clock import Clock, timestamp_cost_s
from nanobench.probes.nvtx import spans
from nanobench.records import Gate, Repetition, Status, Verdict
from nanobench.schema import Arm
from nanobench.training.distributed import ALONE, World

WARMUP_S = 0.5
MIN_REPETITION_S = 0.02
TIMER_SLACK = 0.01
LEFT_EAGER = "compile mode {!r} left functions to run eagerly ({}): {}"


class Timed(ABC):
    """One arm. `calls` generate calls, or optimizer steps, make a repetition; a member says what they are in `time`."""

    gate: Gate
    """the verdict on this arm, once it has one"""
    least_calls = 1

    def __init__(self, arm: Arm, clock: Clock, device: torch.device, nvtx: bool = False, world: World = ALONE) -> None:
        self.arm, self.clock, self.device, self.world = arm, clock, device, world
        self.span = spans(nvtx)
        self.phases: list[Repetition] = []
        self.calls = 1
        self.compiler = Compiler(arm.compile_mode, device.type)
        self.compilation = compilation.Compilation()
        self.dispatched: dict[str, Any] = {}
        self.retries_before = 0

    @abstractmethod
    def time(self, kind: str, repetition: int, block: int | None, timestamped: bool) -> Repetition:
        """One repetition."""

    @abstractmethod
    def build(self) -> None:
        """Makes what runs, and allocates what it needs once."""

    @abstractmethod
    def judge(self, digest: str) -> None:
        """Asks the gate for a verdict on this arm, which is kept under the digest of its first call."""

    def settle(self, digest: str, known: Gate | None) -> None:
        """Takes an earlier launch's verdict where this one began alike, or asks the gate, which takes nothing from the arm."""
        if known is not None and known.digest == digest:
            self.gate = known
            return
        with self.span("gate"), memory.given_back():
            self.phase("gate", lambda: self.judge(digest))

    def begin(self) -> None:
        """Builds, and runs once."""
        self.phase("build", self.build)
        self.first_call()

    def phase(self, kind: str, work: Callable[[], None]) -> None:
        """Runs `work` and keeps how long it took."""
        started_at, start = time.time(), self.clock.now()
        work()
        self.clock.sync()
        self.phases.append(Repetition(kind=kind, started_at=started_at, wall_s=self.clock.now() - start))

    def first_call(self) -> None:
        """The first call at the measured shape: it compiles, fills the allocator and chooses kernels."""
        if not self.compiler.compiles:
            self.phases.append(self.time("first_call", 0, None, timestamped=False))
            return
        tally, mode = compilation.Tally(), self.arm.compile_mode
        self.phases.append(self.time("first_call", 0, None, timestamped=False))
        if not tally.graphs:
            raise RuntimeError(f"compile mode {mode!r} compiled no graph: the arm would run eagerly")
        if tally.eager:
            raise RuntimeError(LEFT_EAGER.format(mode, tally.eager, tally.cause))
        self.compilation = compilation.Compilation(tally.graphs, self.recompiles(), tally.breaks)

    def recompiles(self) -> int:
        """How often this arm's functions were compiled again so far."""
        return compilation.recompiles_of(self.compiler.code_names)

    def warm_up(self) -> None:
        """At the measured shape, for half a second and one repetition (two on CUDA) at least.

        The first call counts as one where nothing compiled and a repetition is one call.
        """
        done = [] if self.compiler.compiles else [phase for phase in self.phases if phase.kind == "first_call"]
        done = done if self.least_calls == 1 else []
        self.calls, least = self.least_calls, 2 if self.clock.enqueues else 1
        with self.span("warm-up"):
            while self.world.broadcast(len(done) < least or sum(phase.wall_s or 0.0 for phase in done) < WARMUP_S):
                done.append(self.time("warmup", len(done), None, timestamped=False))
                self.phases.append(done[-1])
        self.retries_before = memory.alloc_retries(self.device) or 0
        self.calls *= self.world.broadcast(math.ceil(MIN_REPETITION_S / (done[-1].wall_s or MIN_REPETITION_S)))

    def repeat(self, repetition: int, block: int, timestamped: bool) -> Repetition:
        """See Workload.repeat."""
        if not self.compiler.compiles:
            return self.time("steady", repetition, block, timestamped)
        tally = compilation.Tally()
        timed = self.time("steady", repetition, block, timestamped)
        if not any(self.world.all_gather(bool(tally.graphs))):
            return timed
        self.compilation = replace(self.compilation, recompiles=self.recompiles())
        return replace(timed, valid=False, reason="recompiled in the steady phase")

    def sustain(self, seconds: float) -> Repetition:
        """See Workload.sustain."""
        once = self.time("sustained", 0, None, timestamped=False)
        plain, self.calls = self.calls, self.calls * self.world.broadcast(math.ceil(seconds / (once.wall_s or seconds)))
        try:
            return self.time("sustained", 0, None, timestamped=False)
        finally:
            self.calls = plain

    def run(self, work: Callable[[list[Any], bool], None], timestamped: bool, **facts: Any) -> Repetition:
        """Times `work`, from an idle device to an idle device; where marked, it puts its marks behind the one it is given."""
        clock = self.clock
        clock.sync()
        self.world.barrier()
        started_at, start, timestamps = time.time(), clock.now(), [clock.timestamp()]
        work(timestamps, timestamped)
        timestamps.append(clock.timestamp())
        enqueue_s = clock.now() - start
        clock.sync()
        wall_s = max(self.world.all_gather(clock.now() - start))
        times = clock.resolve(timestamps)
        waited = not clock.enqueues or times[-1] <= wall_s * (1 + TIMER_SLACK)
        return Repetition(
            calls=self.calls,
            timestamped=timestamped,
            started_at=started_at,
            wall_s=wall_s,
            device_s=times[-1] if clock.enqueues else None,
            enqueue_s=enqueue_s if clock.enqueues else None,
            token_times_s=tuple(times[1:-1]) if timestamped else None,
            valid=waited,
            reason=None if waited else "the timer stopped before the device did",
            **facts,
        )

    def verdict(self) -> dict[str, Any]:
        """What an outcome says of the gate, the marks and the process, whatever the workload."""
        found, wrong = self.gate, self.gate.verdict is Verdict.WRONG
        return {
            "status": Status.WRONG if wrong else Status.OK,
            "reason": found.note if wrong else None,
            "gate": found.verdict,
            "gate_note": found.note,
            "gate_max_error": found.max_error,
            "gate_tolerance": found.tolerance,
            "digest": found.digest,
            "timestamp_cost_s": timestamp_cost_s(self.clock),
            "rss_peak_bytes": memory.rss_peak_bytes(),
            "alloc_retries": self.alloc_retries(),
        }

    def alloc_retries(self) -> int | None:
        """Retries of CUDA's allocator since the warm-up; None on a CPU."""
        so_far = memory.alloc_retries(self.device)
        return None if so_far is None else so_far - self.retries_before

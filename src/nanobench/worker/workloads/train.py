"""Training: whole optimizer steps over numbered batches, the same for every arm."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from nanobench import registry
from nanobench.gates import training as training_gate
from nanobench.gates.training import Expected
from nanobench.models import _sdpa as sdpa
from nanobench.models.base import Adapter
from nanobench.probes import compilation, memory, profiler
from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition
from nanobench.schema import GRAPH_MODES, Arm, Point, Trial
from nanobench.training.data import BatchStream, Corpus, Step, TokenCounts
from nanobench.training.distributed import ALONE, World, device_of
from nanobench.training.trainer import Trainer
from nanobench.worker.workloads.timed import Timed

POOL = 4
"""Different steps that a launch repeats. In the sft phases all of them are one repetition, so that repetitions are alike."""
GATED = 1_000_000
"""The number of the first step of the gate: no launch is timed on it."""


class Train(Timed):
    """One arm: its own copy of the model, its optimizer, and the steps that it repeats."""

    def __init__(
        self,
        adapter: Adapter,
        phase: BatchStream,
        expect: Callable[[], Expected | None],
        point: Point,
        arm: Arm,
        clock: Clock,
        launch: int,
        nvtx: bool = False,
        world: World = ALONE,
    ) -> None:
        super().__init__(arm, clock, phase.device, nvtx, world)
        self.adapter, self.steps, self.expect, self.point = adapter, phase, expect, point
        self.first_number = POOL * launch
        self.least_calls = 1 if point.phase == "pretrain" else POOL
        self.memory: dict[str, Any] = {}

    def prepare(self, known: Gate | None) -> Gate:
        """See Workload.prepare. The full gate is run unless this launch begins with the loss of one that passed it."""
        self.begin()
        self.settle(f"{self.phases[-1].loss:.3g}", known)
        self.trainer.reset(self.adapter)
        self.pool = [self.number(self.first_number + number) for number in range(POOL)]
        return self.gate

    def begin(self) -> None:
        """Builds, runs once and forgets that it did: other arms begin beside an optimizer that has seen nothing."""
        super().begin()
        self.trainer.reset(self.adapter)

    def build(self) -> None:
        """Copies the model, makes the optimizer, and draws the steps of the gate."""
        sdpa.refuse_elsewhere(self.arm.attention, self.device.type)
        self.trainer = Trainer(copy.deepcopy(self.adapter), self.point, self.arm, self.compiler, self.world)
        self.gated = self.pool = [self.number(GATED + number) for number in range(training_gate.STEPS)]

    def number(self, number: int) -> Step:
        """This rank's part of a numbered step."""
        return self.steps.step(number, self.world.rank, self.world.size)

    def judge(self, digest: str) -> None:
        """See Timed.judge."""
        expected = self.expect()
        trajectory = training_gate.run_steps(self.trainer, self.gated, self.adapter)
        verdict = training_gate.judge(trajectory, expected) if expected is not None else None
        found = self.world.broadcast(verdict)
        assert found is not None
        self.gate = replace(found, digest=digest)

    def measure_memory(self) -> None:
        """The peaks of torch's allocator in a forward pass and in a whole step, and what is held besides."""
        trainer, step = self.trainer, self.pool[0]
        batch = step.batches[0]
        with sdpa.only(self.arm.attention):
            loss, forward_bytes = memory.allocator_peak(lambda: trainer.loss(batch.tokens_BT, batch.targets_BT), self.device)
            loss.backward()
        gradient_bytes = memory.tensor_bytes([each.grad for each in trainer.parameters])
        trainer.optimizer.zero_grad(set_to_none=True)
        del loss
        _, step_bytes = memory.allocator_peak(lambda: trainer.step(step), self.device)
        weight_bytes, optimizer_bytes = (memory.tensor_bytes(each) for each in (self.adapter.module, trainer.optimizer.state))
        self.memory = {
            "gradient_bytes": gradient_bytes,
            "optimizer_bytes": optimizer_bytes,
            "activation_bytes": forward_bytes,
            "peak_memory_bytes": weight_bytes + optimizer_bytes + step_bytes,
        }

    def time(self, kind: str, repetition: int, block: int | None, timestamped: bool) -> Repetition:
        """`calls` optimizer steps; the pool's, round and round."""
        first = 0 if block is None or self.least_calls > 1 else block * self.calls
        steps = [self.pool[(first + number) % len(self.pool)] for number in range(self.calls)]
        losses: list[torch.Tensor] = []

        def work(timestamps: list[Any], timestamped: bool) -> None:
            for step in steps:
                losses.append(self.trainer.step(step))
                if timestamped:
                    timestamps.append(self.clock.timestamp())

        load = reduce(add, (step.load for step in steps), TokenCounts(0, 0, 0, 0))
        timed = self.run(work, timestamped, kind=kind, repetition=repetition, block=block, **vars(load))
        loss = sum(self.world.all_gather(losses[-1].item()))
        timed = replace(timed, loss=loss if math.isfinite(loss) else None)
        return timed if math.isfinite(loss) else replace(timed, valid=False, reason=f"the loss is {loss}")

    def profile(self, trace: Path | None) -> None:
        """Counts what a step dispatches and weighs it, untimed; keeps Chrome's trace of it where asked for."""
        self.measure_memory()
        found = profiler.count(lambda: self.trainer.step(self.pool[0]), self.device, trace)
        if not found.graph_launches:
            sdpa.check(self.arm.attention, found.names, self.compiler.compiles)
        self.dispatched = {
            "operations_per_step": float(found.operations),
            "kernels_per_step": float(found.kernels),
            "graph_launches_per_step": float(found.graph_launches),
            "gpu_busy_fraction": found.busy,
        }
        if self.arm.compile_mode in GRAPH_MODES and not found.graph_launches:
            raise RuntimeError(f"{self.arm.compile_mode} replayed no CUDA graph: {compilation.graph_skips()}")

    def outcome(self) -> Outcome:
        """See Workload.outcome."""
        if self.compiler.compiles:
            # In the gate and in the warm-up too: that is where shapes change for the first time.
            self.compilation = replace(self.compilation, recompiles=self.recompiles())
        return Outcome(
            **self.verdict(),
            weight_bytes=memory.tensor_bytes(self.adapter.module),
            **self.memory,
            **self.dispatched,
            **vars(self.compilation),
        )


def load(point: Point, seed: int) -> Adapter:
    """The model of a point on its device in float32; with random weights from the seed unless it brings its own."""
    torch.manual_seed(seed)
    adapter: Adapter = registry.find("models", point.model)()
    adapter.module.to(device=device_of(point.device), dtype=torch.float32)
    return adapter


class Training:
    """See Stage."""

    inference = False

    def __init__(self, trial: Trial, world: World = ALONE) -> None:
        point = trial.point
        self.trial, self.world, self.adapter = trial, world, load(point, trial.seed)
        corpus = Corpus.of(point, self.adapter.shape.vocab_size, trial.seed)
        device, parts = next(self.adapter.module.parameters()).device, point.grad_accum * point.world_size
        self.phase = BatchStream(point.phase, corpus, point.batch_size, point.seq_len, trial.seed, device, parts)
        self.expected: Expected | None = None

    def ready(self, gated: bool) -> None:
        """Where an arm will ask the gate the plain loop runs now: its float64 takes the memory that arms then take."""
        if not gated:
            # What fails here fails again for each arm that asks, and becomes its outcome.
            with contextlib.suppress(Exception), memory.given_back():
                self.expect()

    def reserve_gate_memory(self) -> None:
        """The plain loop over a few rows, twice, as its optimizer's state comes with its first step."""
        if self.world.is_rank_zero:
            few = replace(self.phase, batch_size=min(training_gate.ROWS, self.phase.batch_size), parts=1)
            with memory.given_back():
                training_gate.reference_loop(self.adapter, [few.step(0), few.step(1)], self.trial.point, "float64")

    def expect(self) -> Expected | None:
        """What the plain loop makes of the gate's steps, computed once; None on a rank that does not lead."""
        if self.expected is None and self.world.is_rank_zero:
            whole = [self.phase.step(GATED + number) for number in range(training_gate.STEPS)]
            self.expected = training_gate.expect(self.adapter, whole, self.trial.point)
        return self.expected

    def arm(self, arm: Arm, clock: Clock) -> Train:
        """See Stage."""
        trial = self.trial
        return Train(self.adapter, self.phase, self.expect, trial.point, arm, clock, trial.launch, trial.nvtx, self.world)

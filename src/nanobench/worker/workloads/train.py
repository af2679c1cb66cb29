"""Training: complete optimizer steps over numbered batches, which are the same for every arm."""

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
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nanobench import registry
from nanobench.gates import across
from nanobench.gates import training as training_gate
from nanobench.gates.training import Expected, Recording
from nanobench.models import _sdpa as sdpa
from nanobench.models.base import Adapter
from nanobench.probes import compilation, memory, profiler
from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition
from nanobench.schema import GRAPH_MODES, Arm, Point, Trial
from nanobench.training.data import BatchStream, Corpus, Step, TokenCounts
from nanobench.training.distributed import SINGLE_PROCESS, World, rank_device
from nanobench.training.trainer import Trainer
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.timed import Timed

POOL = 4
"""Different steps that a launch repeats. In the sft phases one repetition takes all of them, so that repetitions are equal."""
FIRST_GATE_STEP = 1_000_000
"""The number of the gate's first step; no launch is timed on it."""


class Train(Timed):
    """One training arm: a copy of the model, an optimizer, and the steps that it repeats."""

    def __init__(
        self,
        adapter: Adapter,
        stream: BatchStream,
        compute_expected: Callable[[str], Expected | None],
        point: Point,
        arm: Arm,
        clock: Clock,
        launch: int,
        nvtx: bool = False,
        world: World = SINGLE_PROCESS,
        keeps_outputs: bool = True,
    ) -> None:
        super().__init__(arm, clock, stream.device, nvtx, world)
        self.keeps_outputs = keeps_outputs and world.is_rank_zero
        self.recording: Recording | None = None
        self.before: tuple[torch.Tensor, dict[str, Any]] | None = None
        self.norms: list[float] = []
        self.adapter, self.stream, self.compute_expected, self.point = adapter, stream, compute_expected, point
        self.first_number = POOL * launch
        self.min_calls = 1 if point.phase == "pretrain" else POOL
        self.memory: dict[str, Any] = {}
        self.data_s: float | None = None
        self.weight_bytes: int | None = None

    def prepare(self, known: Gate | None) -> Gate:
        """See Workload.prepare. The gate runs unless this launch has the same first loss as one that passed it."""
        self.begin()
        self.apply_gate(f"{self.phases[-1].loss:.3g}", known)
        self.trainer.reset(self.adapter)
        self.pool, self.data_s = self.make_pool()
        return self.gate

    def make_pool(self) -> tuple[list[Step], float]:
        """The steps of this launch, and how many seconds one of them took to be made and copied to the device."""
        start = self.clock.now()
        pool = [self.step(self.first_number + number) for number in range(POOL)]
        self.clock.sync()
        return pool, (self.clock.now() - start) / POOL

    def begin(self) -> None:
        """See Workload.begin. Resets the trainer, so that the next arm is built next to an empty optimizer state."""
        super().begin()
        self.trainer.reset(self.adapter)

    def build(self) -> None:
        """See Timed.build. Copies the model, builds the optimizer, and generates the steps of the gate."""
        sdpa.check_request(self.arm.attention, self.device.type, self.adapter, self.compiler.compiles, trains=True)
        own = copy.deepcopy(self.adapter)
        self.trainer = Trainer(own, self.point, self.arm, self.compiler, self.world)
        self.weight_bytes = memory.tensor_bytes(own.module)
        self.gate_steps = self.pool = [self.step(FIRST_GATE_STEP + number) for number in range(training_gate.STEPS)]

    def step(self, number: int) -> Step:
        """This rank's part of a numbered step."""
        return self.stream.step(number, self.world.rank, self.world.size)

    def judge(self, digest: str) -> None:
        """See Timed.judge."""
        expected, by_float32 = self.compute_expected(self.arm.param_dtype), self.compute_expected("float32")
        trajectory = training_gate.run_steps(self.trainer, self.gate_steps, self.adapter)
        verdict = training_gate.judge(trajectory, expected) if expected is not None else None
        if verdict is not None and self.arm.is_lossy and by_float32 is not None:
            verdict = training_gate.judge_lossy(verdict, trajectory, by_float32.trajectory)
        shared = self.world.broadcast(verdict)
        assert shared is not None
        self.gate = replace(shared, digest=digest)

    def measure_memory(self) -> None:
        """Measures the allocator's peaks in a forward pass and in a step, and the bytes of gradients and optimizer state."""
        trainer, step = self.trainer, self.pool[0]
        batch = step.batches[0]
        with sdpa.use_backend(self.arm.attention):
            loss, forward_bytes = memory.allocator_peak(lambda: trainer.loss(batch.tokens_BT, batch.targets_BT), self.device)
            loss.backward()
        gradient_bytes = memory.tensor_bytes([each.grad for each in trainer.parameters])
        trainer.optimizer.zero_grad(set_to_none=True)
        del loss
        _, step_bytes = memory.allocator_peak(lambda: trainer.step(step), self.device)
        optimizer_bytes = memory.tensor_bytes(trainer.optimizer.state)
        # What graphs of inductor hold is in their own memory: the allocator sees nothing of a replay.
        is_seen = self.arm.compile_mode not in GRAPH_MODES
        self.memory = {
            "gradient_bytes": gradient_bytes,
            "optimizer_bytes": optimizer_bytes,
            "activation_bytes": forward_bytes if is_seen else None,
            "peak_memory_bytes": (self.weight_bytes or 0) + optimizer_bytes + step_bytes if is_seen else None,
        }

    def time(self, kind: str, repetition: int, block: Block | None) -> Repetition:
        """`calls` optimizer steps, taken from the pool in turn."""
        first = 0 if block is None or self.min_calls > 1 else block.number * self.calls
        places = [(first + number) % len(self.pool) for number in range(self.calls)]
        steps, losses = [self.pool[place] for place in places], list[torch.Tensor]()

        def work(timestamps: list[Any], timestamped: bool) -> None:
            for step in steps:
                losses.append(self.trainer.step(step))
                if timestamped:
                    timestamps.append(self.clock.timestamp())

        counts = reduce(add, (step.counts for step in steps), TokenCounts(0, 0, 0, 0))
        timed = self.run(work, block, kind=kind, repetition=repetition, **vars(counts))
        loss = sum(self.world.all_gather(losses[-1].item()))
        moved = None if block is None else self.weight_norms() != self.norms and not self.is_frozen()
        timed = replace(timed, loss=loss if math.isfinite(loss) else None, weights_moved=moved)
        if self.before is not None:
            numbers = [self.first_number + place for place in places]
            self.recording = Recording(numbers, loss, self.before[0], self.weights(), self.before[1])
            self.before = None
        return timed if math.isfinite(loss) else replace(timed, valid=False, reason=f"the loss is {loss}")

    def lay_out(self, block: Block | None) -> None:
        """See Workload.lay_out: the steps lie there already; the state before a recorded repetition is kept."""
        if block is not None and block.is_recorded and self.keeps_outputs:
            self.before = self.record_state()
        self.norms = self.weight_norms()

    def weight_norms(self) -> list[float]:
        """The L2 norm of each parameter; they are the same bits only if no weight has changed."""
        weights = [each.detach() for each in self.trainer.parameters]
        return [float(norm) for norm in torch._foreach_norm(weights, dtype=torch.float32)]

    def is_frozen(self) -> bool:
        """Whether a parameter gets no gradient any more: the backward pass would do less."""
        return not all(each.requires_grad for each in self.trainer.parameters)

    def weights(self) -> torch.Tensor:
        """All weights in one vector on the host, outside the private memory of the process."""
        return memory.shared(training_gate.flatten(self.trainer.parameters))

    def record_state(self) -> tuple[torch.Tensor, dict[str, Any]] | None:
        """Weights and optimizer state on the host; None where there is no memory for them."""
        self.recording = None
        # Not the method of a plug-in's own class, which would tell it that this repetition is recorded.
        state = torch.optim.Optimizer.state_dict(self.trainer.optimizer)["state"]
        try:
            return self.weights(), tree_map_only(torch.Tensor, lambda each: memory.shared(each.detach().cpu()), state)
        except (OSError, RuntimeError, MemoryError):
            return None

    def save_outputs(self, path: Path) -> bool:
        """See Workload.save_outputs."""
        if self.recording is not None:
            torch.save(vars(self.recording), path)
        return self.recording is not None

    def profile(self, trace: Path | None) -> None:
        """See Workload.profile. Profiles one step, and measures its memory."""
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
            # Including those in the gate and in the warm-up, where shapes change for the first time.
            self.compilation = replace(self.compilation, recompiles=self.recompiles())
        return Outcome(
            **self.common_outcome(),
            weight_bytes=self.weight_bytes,
            data_s=self.data_s,
            **self.memory,
            **self.dispatched,
            **vars(self.compilation),
        )


def load(point: Point, seed: int) -> Adapter:
    """The model of a point on its device in float32.

    Its weights are random from the seed, unless its build() loads weights.
    """
    torch.manual_seed(seed)
    adapter: Adapter = registry.find("models", point.model)()
    adapter.module.to(device=rank_device(point.device), dtype=torch.float32)
    return adapter


class Training:
    """The TrialContext of training: the model, the batches and the gate's reference."""

    inference = False

    def __init__(self, trial: Trial, world: World = SINGLE_PROCESS) -> None:
        point = trial.point
        self.trial, self.world, self.adapter = trial, world, load(point, trial.seed)
        shape = self.adapter.shape
        corpus = Corpus.of(point, shape.vocab_size, trial.seed)
        device, parts = next(self.adapter.module.parameters()).device, point.grad_accum * point.world_size
        self.stream = BatchStream(point.phase, corpus, point.batch_size, point.seq_len, trial.seed, device, parts, shape)
        self.expected: dict[str, Expected] = {}
        self.taken = across.take_from(trial, self.adapter)
        self.across: Gate | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """See TrialContext.modules."""
        return [self.adapter.module]

    def ready(self, gated: bool) -> None:
        """See TrialContext.ready. Runs the gate's reference loop in float64 before the arms take the memory that it needs."""
        if not gated:
            # An error here is raised again for each arm that needs the reference, and becomes its outcome.
            kinds = {arm.param_dtype for arm in self.trial.arms} & {self.trial.point.dtype}
            for param_dtype in ("float32", *(kinds - {"float32"})):
                with contextlib.suppress(Exception), memory.release_freed():
                    self.compute_expected(param_dtype)
        self.across = across.exchange(self.trial, self.adapter, self.taken, gated, self.results)

    def results(self) -> dict[str, Tensor]:
        """What the reference loop computes, for a comparison with another model."""
        expected = self.compute_expected("float32")
        assert expected is not None
        return {
            "losses": torch.tensor(expected.trajectory.losses, dtype=torch.float64),
            "gradients": expected.trajectory.gradients,
        }

    def reserve_gate_memory(self) -> None:
        """See TrialContext.reserve_gate_memory. Two steps over a few rows: the first one allocates the optimizer state."""
        if self.world.is_rank_zero:
            few_rows = replace(self.stream, batch_size=min(training_gate.ROWS, self.stream.batch_size), parts=1)
            with memory.release_freed():
                training_gate.reference_loop(self.adapter, [few_rows.step(0), few_rows.step(1)], self.trial.point, "float64")

    def compute_expected(self, param_dtype: str) -> Expected | None:
        """The reference loop's result for the gate's steps, computed once; None on all ranks but rank 0."""
        if param_dtype not in self.expected and self.world.is_rank_zero:
            steps = [self.stream.step(FIRST_GATE_STEP + number) for number in range(training_gate.STEPS)]
            self.expected[param_dtype] = training_gate.expect(self.adapter, steps, self.trial.point, param_dtype)
        return self.expected.get(param_dtype)

    def make_workload(self, arm: Arm, clock: Clock) -> Train:
        """See TrialContext.make_workload."""
        trial = self.trial
        stream, compute = self.stream, self.compute_expected
        launch, nvtx = trial.launch, trial.nvtx
        workload = Train(self.adapter, stream, compute, trial.point, arm, clock, launch, nvtx, self.world, trial.check)
        workload.across = self.across
        return workload

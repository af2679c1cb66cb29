"""What the arms of a trial share that train: a model in its first state, numbered steps, and a plain loop's course."""

import contextlib
from dataclasses import replace

import torch

from nanobench import lookup, training_gate
from nanobench.batches import Corpus, Phase
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.probes.clock import Clock
from nanobench.ranks import ALONE, World, device_of
from nanobench.schema import Arm, Point, Trial
from nanobench.training_gate import Expected
from nanobench.workloads.train import GATED, Train


def load(point: Point, seed: int) -> Adapter:
    """The model of a point on its device in float32; with random weights from the seed unless it brings its own."""
    torch.manual_seed(seed)
    adapter: Adapter = lookup.find("models", point.model)()
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
        self.phase = Phase(point.phase, corpus, point.batch_size, point.seq_len, trial.seed, device, parts)
        self.expected: Expected | None = None

    def ready(self, gated: bool) -> None:
        """Where an arm will ask the gate the plain loop runs now: its float64 takes the memory that arms then take."""
        if not gated:
            # What fails here fails again for each arm that asks, and becomes its outcome.
            with contextlib.suppress(Exception), memory.given_back():
                self.expect()

    def rehearse(self) -> None:
        """The plain loop over a few rows, twice, as its optimizer's state comes with its first step."""
        if self.world.leads:
            few = replace(self.phase, batch_size=min(training_gate.ROWS, self.phase.batch_size), parts=1)
            with memory.given_back():
                training_gate.plain(self.adapter, [few.step(0), few.step(1)], self.trial.point, "float64")

    def expect(self) -> Expected | None:
        """What the plain loop makes of the gate's steps, computed once; None on a rank that does not lead."""
        if self.expected is None and self.world.leads:
            whole = [self.phase.step(GATED + number) for number in range(training_gate.STEPS)]
            self.expected = training_gate.expect(self.adapter, whole, self.trial.point)
        return self.expected

    def arm(self, arm: Arm, clock: Clock) -> Train:
        """See Stage."""
        trial = self.trial
        return Train(self.adapter, self.phase, self.expect, trial.point, arm, clock, trial.launch, trial.nvtx, self.world)

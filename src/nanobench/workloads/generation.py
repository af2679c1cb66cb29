"""What the arms of a trial share that generate: a model without gradients, and the reference that they are held against."""

import contextlib

import torch

from nanobench import lookup
from nanobench.gate import Reference
from nanobench.models import linear
from nanobench.models.base import Adapter
from nanobench.probes.clock import Clock
from nanobench.schema import Arm, Point, Trial
from nanobench.workloads.generate import Generate


def load(point: Point, seed: int) -> Adapter:
    """The model of a point on its device, in its dtype, ready for inference; with random weights from the seed unless it
    brings its own.
    """
    torch.manual_seed(seed)
    adapter: Adapter = lookup.find("models", point.model)()
    adapter.module.to(device=point.device, dtype=getattr(torch, point.dtype)).eval().requires_grad_(False)
    return adapter


class Generation:
    """See Stage."""

    inference = True

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.adapter = load(trial.point, trial.seed)
        self.reference = Reference(self.adapter, trial.point, trial.seed)

    def ready(self, gated: bool) -> None:
        """Where no arm was gated in an earlier launch the reference is computed now, before packed weights take the memory
        that the wider model needs.
        """
        if not gated:
            # What fails here fails again for each arm that asks, and becomes its outcome.
            with contextlib.suppress(Exception), torch.inference_mode():
                self.reference.compute()
        linear.pack(self.adapter.module)

    def rehearse(self) -> None:
        """See Stage. The reference is of a few rows only: all of it."""
        with torch.inference_mode():
            self.reference.compute()
        linear.pack(self.adapter.module)

    def arm(self, arm: Arm, clock: Clock) -> Generate:
        """See Stage."""
        return Generate(self.adapter, self.reference, self.trial.point, arm, clock, self.trial.nvtx)

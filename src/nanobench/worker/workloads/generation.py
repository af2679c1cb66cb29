"""What the generation arms of a trial share: the model, the gate's reference, and the models of lossy arms."""

import contextlib
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from nanobench.gates import across
from nanobench.gates.generation import Reference
from nanobench.models import _lossy as lossy
from nanobench.models import _packed_linear as packed_linear
from nanobench.models.base import Adapter
from nanobench.probes.clock import Clock
from nanobench.records import Gate
from nanobench.schema import Arm, Trial
from nanobench.worker.workloads.generate import Approximation, Generate, load
from nanobench.worker.workloads.prompts import prompts_of, text_of


@dataclass(frozen=True)
class Lossy:
    """The model of the lossy arms of one kind, and what their gate expects."""

    adapter: Adapter
    reference: Reference
    error: Exception | None = None
    """why there is no such model: raised again by each arm that needs it"""


class Generation:
    """The TrialContext of generation: the model and the gate's reference, and those of lossy arms."""

    inference = True

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.adapter = load(trial.point, trial.seed)
        self.taken = across.take_from(trial, self.adapter)
        self.across: Gate | None = None
        self.prompts = prompts_of(self.adapter, trial.point, torch.device(trial.point.device))
        self.untimed_BT = self.prompts.untimed(trial.seed)
        self.reference = Reference(self.adapter, trial.point, trial.seed, self.untimed_BT)
        self.lossy: dict[tuple[str, str], Lossy] = {}

    @property
    def modules(self) -> list[nn.Module]:
        """See TrialContext.modules."""
        return [self.adapter.module, *(each.adapter.module for each in self.lossy.values() if each.error is None)]

    def ready(self, gated: bool) -> None:
        """See TrialContext.ready. Computes the reference before the weights are packed: the model in the wider dtype needs the
        memory that the packed weights take afterwards.
        """
        if not gated:
            # An error here is raised again for each arm that needs the reference, and becomes its outcome.
            with contextlib.suppress(Exception), torch.inference_mode():
                self.reference.compute()
        with torch.inference_mode():
            self.across = across.exchange(self.trial, self.adapter, self.taken, gated, self.reference.results)
        packed_linear.pack(self.adapter.module)
        self.make_lossy()

    def make_lossy(self) -> None:
        """Makes the models of lossy arms, each once."""
        for arm in self.trial.arms:
            if arm.is_lossy and kind_of(arm) not in self.lossy:
                self.lossy[kind_of(arm)] = self.lossy_of(arm)

    def lossy_of(self, arm: Arm) -> Lossy:
        """The model of a lossy arm, made outside of inference mode: its tensors count changes in place."""
        trial = self.trial
        truth = partial(lossy.expected, self.adapter, arm)
        reference = Reference(self.adapter, trial.point, trial.seed, self.untimed_BT, truth)
        try:
            adapter = lossy.measured(self.adapter, arm)
        except Exception as error:
            return Lossy(self.adapter, reference, error)
        packed_linear.share_packed(self.adapter.module, adapter.module)
        return Lossy(adapter, reference)

    def reserve_gate_memory(self) -> None:
        """See TrialContext.reserve_gate_memory. The reference has only a few rows: it is computed completely."""
        with torch.inference_mode():
            self.reference.compute()
        packed_linear.pack(self.adapter.module)
        self.make_lossy()

    def make_workload(self, arm: Arm, clock: Clock) -> Generate:
        """See TrialContext.make_workload."""
        trial, found = self.trial, self.lossy[kind_of(arm)] if arm.is_lossy else Lossy(self.adapter, self.reference)
        workload = Generate(found.adapter, found.reference, trial.point, arm, clock, trial.nvtx, trial.check, self.prompts)
        workload.across = self.across
        if arm.is_lossy:
            workload.approximates = Approximation(self.reference, text_of(self.prompts, trial.point), trial.max_kl, found.error)
        return workload


def kind_of(arm: Arm) -> tuple[str, str]:
    """What arms with the same model have in common."""
    return arm.weights, arm.kv_cache

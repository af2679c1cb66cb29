"""A trainer: takes whole optimizer steps over one model. Forward, loss, backward, clip, optimizer, zero_grad."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.models import _sdpa as sdpa
from nanobench.models.base import Adapter
from nanobench.schema import Arm, Point
from nanobench.training.data import Step
from nanobench.training.distributed import ALONE, World

CLIP = 1.0
"""Largest norm of all gradients together."""


class Loss(nn.Module):
    """A model and its loss as one module, so that its gradients can be averaged over ranks; weights are float32, and in a
    narrower dtype the forward pass runs under torch's autocast.
    """

    def __init__(self, adapter: Adapter, dtype: str, compiler: Compiler, shapes_vary: bool) -> None:
        super().__init__()
        self.adapter, self.dtype, self.model = adapter, dtype, adapter.module
        self.compute = compiler(self._compute, dynamic=None if shapes_vary else False)

    def _compute(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with precision(tokens_BT.device.type, self.dtype):
            return self.adapter.forward(tokens_BT, targets_BT)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean loss over the targets that carry it, a scalar."""
        return self.compute(tokens_BT, targets_BT)


def precision(device: str, dtype: str) -> AbstractContextManager[Any]:
    """Autocast where the dtype is narrower than float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, dtype=getattr(torch, dtype))


class Trainer:
    """Owns a model and an optimizer. Raises Skip for checkpointing where the model's blocks cannot be found."""

    def __init__(self, adapter: Adapter, point: Point, arm: Arm, compiler: Compiler, world: World = ALONE) -> None:
        self.attention, self.world = arm.attention, world
        adapter.module.float().train().requires_grad_(True)
        self.parameters = list(adapter.module.parameters())
        build = registry.find("optimizers", point.optimizer)
        self.optimizer: torch.optim.Optimizer = build(self.parameters, fused=arm.optimizer_kernel == "fused")
        if arm.checkpointing != "off":
            for block in blocks(adapter.module, adapter.shape.n_layer):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        self.loss: nn.Module = Loss(adapter, point.dtype, compiler, shapes_vary=point.phase == "sft-dynamic")
        if world.size > 1:
            self.loss = DistributedDataParallel(self.loss, broadcast_buffers=False)

    def step(self, step: Step) -> Tensor:
        """One optimizer step; returns this rank's part of the mean loss over all useful tokens, a scalar on the device."""
        total = torch.zeros((), device=self.parameters[0].device)
        with sdpa.only(self.attention):
            for number, batch in enumerate(step.batches, start=1):
                with self.averaging(number == len(step.batches)):
                    loss = self.loss(batch.tokens_BT, batch.targets_BT) * (batch.useful / step.load.useful_tokens)
                    # Ranks' gradients are averaged, and the loss's mean is over the tokens of all.
                    (loss * self.world.size).backward()
                total += loss.detach()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def averaging(self, last: bool) -> AbstractContextManager[Any]:
        """Ranks speak to each other once a step, behind its last batch."""
        wrapped = isinstance(self.loss, DistributedDataParallel)
        return self.loss.no_sync() if wrapped and not last else nullcontext()  # type: ignore[operator]

    def reset(self, start: Adapter) -> None:
        """Weights as in a model of the same kind, and an optimizer that has seen nothing."""
        with torch.no_grad():
            for each, first in zip(self.parameters, start.module.parameters(), strict=True):
                each.copy_(first)
        self.optimizer.state.clear()


def blocks(module: nn.Module, layers: int) -> Iterator[nn.Module]:
    """The blocks of a network: the members of its one list that has as many of them as the shape has layers."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == layers]
    if len(lists) != 1:
        raise Skip(f"checkpointing needs one list of {layers} blocks, and {type(module).__name__} has {len(lists)}")
    return iter(lists[0])

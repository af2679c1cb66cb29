"""A trainer: takes whole optimizer steps over one model. Forward, loss, backward, clip, optimizer, zero_grad."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanobench import lookup
from nanobench.batches import Batch
from nanobench.engines.base import Compiler
from nanobench.errors import Skip
from nanobench.models.base import Adapter

CLIP = 1.0
"""Largest norm of all gradients together."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How steps are taken. Weights, gradients and the optimizer's state are float32; in a narrower dtype the forward pass
    and the loss run under torch's autocast.
    """

    dtype: str = "float32"
    optimizer: str = "adamw"
    fused: bool = True
    checkpointing: bool = False
    accumulate: int = 1
    """parts of a batch whose gradients are added up before the optimizer's step"""


class Trainer:
    """Owns a model and an optimizer. Raises Skip for checkpointing where the model's blocks cannot be found."""

    def __init__(self, adapter: Adapter, recipe: Recipe, compiler: Compiler, shapes_vary: bool) -> None:
        self.adapter, self.recipe = adapter, recipe
        adapter.module.float().train().requires_grad_(True)
        self.parameters = list(adapter.module.parameters())
        self.optimizer: torch.optim.Optimizer = lookup.find("optimizers", recipe.optimizer)(self.parameters, fused=recipe.fused)
        if recipe.checkpointing:
            for block in blocks(adapter.module, adapter.shape.n_layer):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        self.loss = compiler(self._loss, dynamic=None if shapes_vary else False)

    def _loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with self.precision(tokens_BT.device.type):
            return self.adapter.forward(tokens_BT, targets_BT)

    def precision(self, device: str) -> AbstractContextManager[Any]:
        """Autocast where the dtype is narrower than float32."""
        if self.recipe.dtype == "float32":
            return nullcontext()
        return torch.autocast(device, dtype=getattr(torch, self.recipe.dtype))

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step; returns the mean loss over the batch's useful tokens, a scalar on the device."""
        total = torch.zeros((), device=batch.tokens_BT.device)
        for part in batch.split(self.recipe.accumulate):
            loss = self.loss(part.tokens_BT, part.targets_BT) * (part.useful / batch.useful)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def blocks(module: nn.Module, layers: int) -> Iterator[nn.Module]:
    """The blocks of a network: the members of its one list that has as many of them as the shape has layers."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == layers]
    if len(lists) != 1:
        raise Skip(f"checkpointing needs one list of {layers} blocks, and {type(module).__name__} has {len(lists)}")
    return iter(lists[0])

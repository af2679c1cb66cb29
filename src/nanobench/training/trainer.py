"""The trainer: one optimizer step is forward, loss, backward, gradient clipping, optimizer.step() and zero_grad()."""

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
from nanobench.schema import GRAPH_MODES, Arm, Point
from nanobench.training.data import Step
from nanobench.training.distributed import SINGLE_PROCESS, World
from nanobench.training.parameters import find_blocks, trainable

CLIP = 1.0
"""Maximum L2 norm of all gradients together."""


class Loss(nn.Module):
    """A model and its loss as one module, as DistributedDataParallel needs it.

    With float32 weights the forward pass in a narrower dtype runs under torch.autocast; `dtype` is that of autocast.
    """

    def __init__(self, adapter: Adapter, dtype: str, compiler: Compiler, shapes_vary: bool) -> None:
        super().__init__()
        self.adapter, self.dtype, self.model = adapter, dtype, adapter.module
        self.compute = compiler(self._compute, dynamic=None if shapes_vary else False)

    def _compute(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with autocast(tokens_BT.device.type, self.dtype):
            return self.adapter.forward(tokens_BT, targets_BT)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean loss over the targets that are not IGNORED, a scalar."""
        return self.compute(tokens_BT, targets_BT)


def autocast(device: str, dtype: str) -> AbstractContextManager[Any]:
    """torch.autocast if the dtype is narrower than float32, else nothing."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, dtype=getattr(torch, dtype))


class Trainer:
    """Owns a model and an optimizer. Raises Skip for an arm that needs parts which this model does not have."""

    def __init__(self, adapter: Adapter, point: Point, arm: Arm, compiler: Compiler, world: World = SINGLE_PROCESS) -> None:
        refuse_overwritten_gradients(point, arm)
        refuse_wider_compute(point, arm)
        self.attention, self.world = arm.attention, world
        adapter.module.to(getattr(torch, arm.param_dtype))
        self.parameters = trainable(adapter)
        build = registry.find("optimizers", point.optimizer)
        self.optimizer: torch.optim.Optimizer = build(self.parameters, fused=arm.optimizer_kernel == "fused")
        if arm.checkpointing != "off":
            for block in find_blocks(adapter.module, adapter.shape.n_layer):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if arm.cross_entropy != "full":
            choose_cross_entropy(adapter, arm.cross_entropy)
        dtype = point.dtype if arm.param_dtype == "float32" else "float32"
        self.loss: nn.Module = Loss(adapter, dtype, compiler, shapes_vary=point.phase == "sft-dynamic")
        if world.size > 1:
            self.loss = DistributedDataParallel(self.loss, broadcast_buffers=False)

    def step(self, step: Step) -> Tensor:
        """One optimizer step. Returns this rank's part of the mean loss over the useful tokens of all ranks, a scalar."""
        total = torch.zeros((), device=self.parameters[0].device)
        with sdpa.use_backend(self.attention):
            for number, batch in enumerate(step.batches, start=1):
                with self.gradient_sync(number == len(step.batches)):
                    loss = self.loss(batch.tokens_BT, batch.targets_BT) * (batch.useful / step.counts.useful_tokens)
                    # DDP averages gradients over ranks; the mean of the loss is over the tokens of all ranks.
                    (loss * self.world.size).backward()
                total += loss.detach()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def gradient_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        """Ranks average their gradients once per step, in the backward pass of its last batch."""
        is_distributed = isinstance(self.loss, DistributedDataParallel)
        return self.loss.no_sync() if is_distributed and not is_last else nullcontext()  # type: ignore[operator]

    def reset(self, start: Adapter) -> None:
        """Copies the weights of `start`, a model of the same kind, and clears the optimizer state."""
        with torch.no_grad():
            for parameter, initial in zip(self.parameters, start.module.parameters(), strict=True):
                parameter.copy_(initial)
        self.optimizer.state.clear()


def choose_cross_entropy(adapter: Adapter, kind: str) -> None:
    """Sets how a model computes its loss. Raises Skip for one that has its own way."""
    if not hasattr(adapter, "cross_entropy"):
        raise Skip(f"{adapter.shape.architecture} computes its loss in its own way; use --cross-entropy full")
    adapter.cross_entropy = kind


def refuse_wider_compute(point: Point, arm: Arm) -> None:
    """Raises Skip for parameters that are narrower than the dtype of the point: they compute in their own."""
    if arm.param_dtype not in ("float32", point.dtype):
        raise Skip(f"{arm.param_dtype} parameters compute in {arm.param_dtype}; give --dtype {arm.param_dtype}")


def refuse_overwritten_gradients(point: Point, arm: Arm) -> None:
    """Raises Skip where a graph would be replayed before the optimizer has read the gradients that it wrote last.

    They are in the graph's own memory (pytorch#169545, pytorch#96693).
    """
    if arm.compile_mode in GRAPH_MODES and point.grad_accum > 1:
        raise Skip(
            f"{arm.compile_mode} replays a CUDA graph over the gradients of the batch before; "
            "with --grad-accum use --compile-mode default"
        )

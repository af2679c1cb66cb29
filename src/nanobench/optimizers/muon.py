"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) for the matrices of the blocks, AdamW for all else.

Muon moves a matrix along its momentum, made orthogonal by five Newton-Schulz iterations in bfloat16. nanochat splits the
parameters in the same way.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nanobench.errors import Skip
from nanobench.optimizers import adamw
from nanobench.registry.arguments import NotNegative, Positive


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers as one: state, groups and steps are those of both."""

    rounds = True
    """its steps are rounded more coarsely than the weights: the gate measures by how much"""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.share()

    def share(self) -> None:
        """Both optimizers work on the state and the groups of this one."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes a state that was saved."""
        super().__setstate__(state)
        self.share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of both. Returns what the closure returns."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss


def build(
    parameters: Iterable[Tensor],
    *,
    fused: bool,
    lr: Positive = 0.02,
    adamw_lr: Positive = 3e-4,
    weight_decay: NotNegative = 0.1,
) -> MuonWithAdamW:
    """Muon with momentum 0.95 (Nesterov) and learning rate `lr`, AdamW with `adamw_lr`; `fused` is about AdamW's kernel.

    A matrix is Muon's unless its `is_embedding_or_output_parameter` is true. Raises Skip where torch has no Muon (before 2.9).
    """
    if not hasattr(torch.optim, "Muon"):
        raise Skip(f"torch {torch.__version__} has no Muon; install torch 2.9 or newer")
    matrices, others = list[Tensor](), list[Tensor]()
    for each in parameters:
        is_hidden = each.ndim == 2 and not getattr(each, "is_embedding_or_output_parameter", False)
        (matrices if is_hidden else others).append(each)
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(torch.optim.Muon(matrices, lr=lr, momentum=0.95, weight_decay=weight_decay))
    if others:
        parts.append(adamw.build(others, fused=fused, lr=adamw_lr, weight_decay=weight_decay))
    return MuonWithAdamW(parts)

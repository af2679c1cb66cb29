"""Plain SGD without momentum: it has no state, so it is the cheapest optimizer."""

from collections.abc import Iterable

import torch
from torch import Tensor

from nanobench.registry.arguments import Positive


def build(parameters: Iterable[Tensor], *, fused: bool, lr: Positive = 1e-2) -> torch.optim.SGD:
    """SGD: one kernel over all parameters if `fused`, else torch's foreach implementation."""
    return torch.optim.SGD(parameters, lr=lr, fused=fused, foreach=not fused)

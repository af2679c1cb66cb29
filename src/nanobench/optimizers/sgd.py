"""Plain gradient descent: no state, so the least that an optimizer can cost."""

from collections.abc import Iterable

import torch
from torch import Tensor


def build(parameters: Iterable[Tensor], *, fused: bool, lr: float = 1e-2) -> torch.optim.SGD:
    """One kernel over all parameters where `fused`, else torch's list-wise operations."""
    return torch.optim.SGD(parameters, lr=lr, fused=fused, foreach=not fused)

"""AdamW (Loshchilov and Hutter 2019), with two moments per parameter: the usual optimizer of GPTs."""

from collections.abc import Iterable

import torch
from torch import Tensor

from nanobench.registry.arguments import NotNegative, Positive


def build(
    parameters: Iterable[Tensor],
    *,
    fused: bool,
    lr: Positive = 3e-4,
    weight_decay: NotNegative = 0.1,
) -> torch.optim.AdamW:
    """AdamW with betas 0.9 and 0.95: one kernel over all parameters if `fused`, else torch's foreach implementation."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=fused, foreach=not fused)

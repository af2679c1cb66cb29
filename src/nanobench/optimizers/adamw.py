"""AdamW (Loshchilov and Hutter 2019): two moments per parameter, the optimizer of most GPTs."""

from collections.abc import Iterable

import torch
from torch import Tensor


def build(parameters: Iterable[Tensor], *, fused: bool, lr: float = 3e-4, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """One kernel over all parameters where `fused`, else torch's list-wise operations. Moments decay by 0.9 and 0.95."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=fused, foreach=not fused)

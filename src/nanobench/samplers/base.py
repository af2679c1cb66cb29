"""The contract that every sampler meets. `build(**arguments)` makes one."""

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Chooses a token per row, on the device, without a host synchronisation."""

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """Tokens [B, 1] from logits [B, V]."""
        ...

"""Greedy: the most probable token; on a tie the first."""

import torch
from torch import Tensor

from nanobench.samplers.base import Sampler


def greedy(logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tokens [B, 1] from logits [B, V]; does not use the generator."""
    return logits_BV.argmax(dim=-1, keepdim=True)


def build() -> Sampler:
    """The greedy sampler."""
    return greedy

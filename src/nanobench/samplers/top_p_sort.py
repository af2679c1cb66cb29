"""Top-p, the usual way: sort the whole vocabulary, cut it where its probabilities first reach p, draw from what is left."""

import torch
from torch import Tensor

from nanobench.samplers.base import sample, nucleus


class TopP:
    """What both top-p samplers draw from; this one by sorting."""

    def __init__(self, p: float, temperature: float) -> None:
        self.p, self.temperature = p, temperature

    def softmax(self, logits_BV: Tensor) -> Tensor:
        """Softmax probabilities [B, V] of all tokens."""
        return torch.softmax(logits_BV / self.temperature, dim=-1)

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """[B, V]"""
        kept_BV = nucleus(self.softmax(logits_BV), self.p)
        return kept_BV / kept_BV.sum(-1, keepdim=True)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(nucleus(self.softmax(logits_BV.float()), self.p), generator)


def build(*, p: float = 0.9, temperature: float = 0.8) -> TopP:
    """p = 0.9 at temperature 0.8."""
    return TopP(p, temperature)

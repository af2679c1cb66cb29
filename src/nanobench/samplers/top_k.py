"""Top-k: a token by its probability among the k most likely ones (Fan et al. 2018)."""

import torch
from torch import Tensor

from nanobench.samplers.base import sample


class TopK:
    """Tokens as likely as the k-th stay with it, so that a tie is not cut by its order."""

    def __init__(self, k: int, temperature: float) -> None:
        self.k, self.temperature = k, temperature

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """[B, V]"""
        least_B1 = logits_BV.topk(min(self.k, logits_BV.shape[-1]), dim=-1).values[:, -1:]
        kept_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
        return torch.softmax(kept_BV / self.temperature, dim=-1)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(self.probabilities(logits_BV.float()), generator)


def build(*, k: int = 50, temperature: float = 0.8) -> TopK:
    """The 50 most likely, at temperature 0.8."""
    return TopK(k, temperature)

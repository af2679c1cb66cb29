"""Top-k sampling: from the k most probable tokens (Fan et al. 2018, "Hierarchical Neural Story Generation")."""

import torch
from torch import Tensor

from nanobench.registry.arguments import Count, Positive
from nanobench.samplers.base import sample


class TopK:
    """Keeps all tokens that are as probable as the k-th, so that a tie is not cut arbitrarily."""

    def __init__(self, k: int, temperature: float) -> None:
        self.k, self.temperature = k, temperature

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """Softmax over the kept tokens, 0 for the others, [B, V]."""
        kth_B1 = logits_BV.topk(min(self.k, logits_BV.shape[-1]), dim=-1).values[:, -1:]
        kept_BV = logits_BV.masked_fill(logits_BV < kth_B1, float("-inf"))
        return torch.softmax(kept_BV / self.temperature, dim=-1)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(self.probabilities(logits_BV.float()), generator)


def build(*, k: Count = 50, temperature: Positive = 0.8) -> TopK:
    """Top-k sampling, by default with k = 50 at temperature 0.8."""
    return TopK(k, temperature)

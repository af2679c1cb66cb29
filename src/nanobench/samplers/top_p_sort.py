"""Top-p sampling with a sort: sort the vocabulary, keep the most probable tokens that together reach p, sample from them."""

import torch
from torch import Tensor

from nanobench.registry.arguments import Positive, Share
from nanobench.samplers.base import nucleus, sample


class TopP:
    """Top-p sampling by sorting; also the base of the rejection sampler, which has the same probabilities."""

    def __init__(self, p: float, temperature: float) -> None:
        self.p, self.temperature = p, temperature

    def softmax(self, logits_BV: Tensor) -> Tensor:
        """Softmax probabilities [B, V] of all tokens."""
        return torch.softmax(logits_BV / self.temperature, dim=-1)

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """The nucleus, normalized, [B, V]."""
        kept_BV = nucleus(self.softmax(logits_BV), self.p)
        return kept_BV / kept_BV.sum(-1, keepdim=True)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(nucleus(self.softmax(logits_BV.float()), self.p), generator)


def build(*, p: Share = 0.9, temperature: Positive = 0.8) -> TopP:
    """Top-p sampling, by default with p = 0.9 at temperature 0.8."""
    return TopP(p, temperature)

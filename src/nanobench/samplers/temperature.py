"""Temperature sampling: tokens with the probabilities softmax(logits / temperature)."""

import torch
from torch import Tensor

from nanobench.registry.arguments import Positive
from nanobench.samplers.base import sample


class Temperature:
    """Samples from the whole vocabulary."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """softmax(logits / temperature), [B, V]."""
        return torch.softmax(logits_BV / self.temperature, dim=-1)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(self.probabilities(logits_BV.float()), generator)


def build(*, temperature: Positive = 0.8) -> Temperature:
    """Temperature sampling, by default at 0.8."""
    return Temperature(temperature)

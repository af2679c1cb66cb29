"""Temperature: a token by its softmax probability, sharpened below 1 and flattened above."""

import torch
from torch import Tensor

from nanobench.samplers.base import sample


class Temperature:
    """softmax(logits / temperature), nothing cut off."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """[B, V]"""
        return torch.softmax(logits_BV / self.temperature, dim=-1)

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        return sample(self.probabilities(logits_BV.float()), generator)


def build(*, temperature: float = 0.8) -> Temperature:
    """Temperature 0.8."""
    return Temperature(temperature)

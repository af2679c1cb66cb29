"""Temperature sampling by the Gumbel-max rule: the largest of logits plus noise, which a compiler can do in one pass."""

import torch
from torch import Tensor

from nanobench.registry.arguments import Positive
from nanobench.samplers.temperature import Temperature


class TemperatureGumbel(Temperature):
    """The same distribution as `temperature`, without a softmax and without cumulative sums.

    argmax(logits / temperature + Gumbel noise) has the probabilities softmax(logits / temperature), and minus the logarithm of
    an exponential number is Gumbel noise. Gumbel 1954; Maddison et al. 2014, "A* Sampling".
    """

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler."""
        scaled_BV = logits_BV.float() / self.temperature
        noise_BV = -torch.empty_like(scaled_BV).exponential_(generator=generator).log()
        return (scaled_BV + noise_BV).argmax(-1, keepdim=True)


def build(*, temperature: Positive = 0.8) -> TemperatureGumbel:
    """Temperature sampling, by default at 0.8."""
    return TemperatureGumbel(temperature)

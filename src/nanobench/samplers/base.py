"""The contract of a sampler, and the random sampling that they share. `build(**arguments)` makes one."""

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Chooses a token per row, on the device, without a host synchronization.

    A random sampler has a method `probabilities(logits_BV) -> [B, V]`, which the gate compares with the frequencies of its
    tokens. A sampler without it is not gated.
    """

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """Tokens [B, 1] from logits [B, V]."""
        ...


def sample(weights_BV: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tokens [B, 1] with probabilities proportional to their weights [B, V], by inversion of the cumulative sum.

    `torch.multinomial` would check its input on the host.
    """
    sums_BV = weights_BV.cumsum(-1)
    totals_B1 = sums_BV[:, -1:]
    # Not torch.rand: it accepts no generator, not even None, if the number of rows is symbolic under torch.compile.
    uniform_B1 = torch.empty_like(totals_B1).uniform_(generator=generator)
    # The product may round up to the total, but there is no token after the last weight.
    threshold_B1 = torch.minimum(uniform_B1 * totals_B1, torch.nextafter(totals_B1, torch.zeros_like(totals_B1)))
    token_B1 = torch.searchsorted(sums_BV, threshold_B1, right=True)
    if not weights_BV.is_cuda:
        return token_B1
    # A parallel sum may grow by a rounding over a weight of 0, so that its token would be drawn.
    return torch.where(weights_BV.gather(1, token_B1) > 0, token_B1, weights_BV.argmax(-1, keepdim=True))


def nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities [B, V] of the smallest set of most probable tokens that reaches `top_p`; 0 for the others.

    A token is in the set if all strictly more probable tokens together have less than `top_p`, so ties are kept or dropped
    together. Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    sorted_BV, _ = probs_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    smallest_B1 = sorted_BV.masked_fill(before_BV >= top_p, 1.0).amin(-1, keepdim=True)
    return probs_BV.masked_fill(probs_BV < smallest_B1, 0.0)

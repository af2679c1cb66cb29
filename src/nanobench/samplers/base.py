"""The contract that every sampler meets, and the draw that they share. `build(**arguments)` makes one."""

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Chooses a token per row, on the device, without a host synchronisation.

    One that draws at random says from what in a method `probabilities(logits_BV) -> [B, V]`; only then can the gate hold its
    tokens against them.
    """

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """Tokens [B, 1] from logits [B, V]."""
        ...


def sample(weights_BV: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tokens [B, 1], each with a chance in proportion to its weight, by inversion of the cumulative sum.

    `torch.multinomial` would look at its result on the host.
    """
    sums_BV = weights_BV.cumsum(-1)
    totals_B1 = sums_BV[:, -1:]
    # Not torch.rand: it takes no generator, not even None, where a compiler has made the number of rows a symbol.
    chance_B1 = torch.empty_like(totals_B1).uniform_(generator=generator)
    # Below the total even where the product rounds up to it: behind the last weight there is no token.
    at_B1 = torch.minimum(chance_B1 * totals_B1, torch.nextafter(totals_B1, torch.zeros_like(totals_B1)))
    return torch.searchsorted(sums_BV, at_B1, right=True)


def nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """Holtzman et al. 2020: probabilities of the most likely tokens that together first reach `top_p`, the others 0.

    A token belongs to them where all that are strictly likelier have less than `top_p`; so equal ones stay or go together.
    """
    sorted_BV, _ = probs_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    least_B1 = sorted_BV.masked_fill(before_BV >= top_p, 1.0).amin(-1, keepdim=True)
    return probs_BV.masked_fill(probs_BV < least_B1, 0.0)

"""Top-p without sorting: draw, look whether the token belongs to the nucleus, and draw again above it where it doesn't.

The rejection of FlashInfer's sampling kernels ("Sorting-Free GPU Kernels for LLM Sampling", 2025). A token belongs to the
nucleus where all strictly likelier ones have less than p. One that doesn't is a pivot: neither it nor a less likely one can
belong, so the next round draws above it. A first draw belongs with a chance of p, so few rounds are needed.
"""

import torch
from torch import Tensor

from nanobench.samplers.base import sample
from nanobench.samplers.top_p_sort import TopP

ROUNDS = 16
"""Where the host may not ask. Each round leaves half of the mass outside the nucleus on average; who is left then gets the
likeliest token, which always belongs."""


class TopPRejection(TopP):
    """The same distribution as `top-p-sort`, a pass over the vocabulary per round."""

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler. A CPU knows without waiting which rows are done; a GPU's host must not ask, and runs all rounds."""
        probs_BV = self.softmax(logits_BV.float())
        token_B1, pivot_B1 = probs_BV.argmax(-1, keepdim=True), torch.zeros_like(probs_BV[:, :1])
        if logits_BV.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.sample_until_accepted(probs_BV, token_B1, pivot_B1, generator)
        open_B1 = torch.ones_like(token_B1, dtype=torch.bool)
        for _ in range(ROUNDS):
            drawn_B1, chance_B1, belongs_B1 = self.propose(probs_BV, pivot_B1, generator)
            token_B1 = torch.where(open_B1 & belongs_B1, drawn_B1, token_B1)
            open_B1 = open_B1 & ~belongs_B1
            # Only where a row is open: above the likeliest token there is nothing to draw.
            pivot_B1 = torch.where(open_B1, chance_B1, pivot_B1)
        return token_B1

    def propose(self, probs_BV: Tensor, pivot_B1: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """A token above the pivot for each row, its probability, and whether it belongs."""
        drawn_B1 = sample(probs_BV.masked_fill(probs_BV <= pivot_B1, 0.0), generator)
        chance_B1 = probs_BV.gather(1, drawn_B1)
        above_B1 = probs_BV.masked_fill(probs_BV <= chance_B1, 0.0).sum(-1, keepdim=True)
        return drawn_B1, chance_B1, above_B1 < self.p

    def sample_until_accepted(self, probs_BV: Tensor, token_B1: Tensor, pivot_B1: Tensor, generator: torch.Generator | None) -> Tensor:
        """Rounds over the rows that are still open."""
        open_R = torch.arange(len(probs_BV))
        while len(open_R):
            drawn_R1, chance_R1, belongs_R1 = self.propose(probs_BV[open_R], pivot_B1[open_R], generator)
            token_B1[open_R], pivot_B1[open_R] = drawn_R1, chance_R1
            open_R = open_R[~belongs_R1.squeeze(1)]
        return token_B1


def build(*, p: float = 0.9, temperature: float = 0.8) -> TopPRejection:
    """p = 0.9 at temperature 0.8."""
    return TopPRejection(p, temperature)

"""Top-p sampling without a sort: sample a token, accept it if it is in the nucleus, else sample again above its probability.

This is the rejection sampling of FlashInfer's kernels ("Sorting-Free GPU Kernels for LLM Sampling", 2025). A token is in the
nucleus if all strictly more probable tokens together have less than p. The probability of a rejected token is the new pivot:
neither it nor a less probable token can be in the nucleus, so the next round samples above it. The first token is accepted
with probability p or more, so few rounds are needed.
"""

import torch
from torch import Tensor

from nanobench.registry.arguments import Positive, Share
from nanobench.samplers.base import sample
from nanobench.samplers.top_p_sort import TopP

ROUNDS = 16
"""Rounds without host synchronization. On average each round halves the probability mass outside the nucleus; a row without
an accepted token gets the most probable token, which is always in the nucleus.
"""


class TopPRejection(TopP):
    """The same distribution as `top-p-sort`, with a few passes over the vocabulary per round."""

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler. On a CPU only rows without an accepted token continue; on a GPU that would need a synchronization."""
        probs_BV = self.softmax(logits_BV.float())
        token_B1, pivot_B1 = probs_BV.argmax(-1, keepdim=True), torch.zeros_like(probs_BV[:, :1])
        if logits_BV.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.sample_until_accepted(probs_BV, token_B1, pivot_B1, generator)
        pending_B1 = torch.ones_like(token_B1, dtype=torch.bool)
        for _ in range(ROUNDS):
            proposed_B1, prob_B1, accepted_B1 = self.propose(probs_BV, pivot_B1, generator)
            token_B1 = torch.where(pending_B1 & accepted_B1, proposed_B1, token_B1)
            pending_B1 = pending_B1 & ~accepted_B1
            # Only in pending rows: above the most probable token there is nothing to sample.
            pivot_B1 = torch.where(pending_B1, prob_B1, pivot_B1)
        return token_B1

    def propose(self, probs_BV: Tensor, pivot_B1: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """For each row a token above the pivot, its probability, and whether it is in the nucleus; each [B, 1]."""
        token_B1 = sample(probs_BV.masked_fill(probs_BV <= pivot_B1, 0.0), generator)
        prob_B1 = probs_BV.gather(1, token_B1)
        above_B1 = probs_BV.masked_fill(probs_BV <= prob_B1, 0.0).sum(-1, keepdim=True)
        return token_B1, prob_B1, above_B1 < self.p

    def sample_until_accepted(
        self, probs_BV: Tensor, token_B1: Tensor, pivot_B1: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Rounds over the pending rows R, until all have an accepted token [B, 1]."""
        pending_R = torch.arange(len(probs_BV))
        while len(pending_R):
            proposed_R1, prob_R1, accepted_R1 = self.propose(probs_BV[pending_R], pivot_B1[pending_R], generator)
            token_B1[pending_R], pivot_B1[pending_R] = proposed_R1, prob_R1
            pending_R = pending_R[~accepted_R1.squeeze(1)]
        return token_B1


def build(*, p: Share = 0.9, temperature: Positive = 0.8) -> TopPRejection:
    """Top-p sampling, by default with p = 0.9 at temperature 0.8."""
    return TopPRejection(p, temperature)

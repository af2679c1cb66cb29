"""Speculative decoding: a cheap draft proposes tokens, and one pass of the model over all of them decides how many are kept.

A step writes the accepted tokens and one more. Greedy output is that of plain decoding. With a random sampler a drafted token
is accepted with probability min(1, p / q), and the token after the accepted ones is sampled from what p has more than q, so the
output has the distribution of plain sampling.
Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".

All rows advance together, by as many tokens as the row that accepts the fewest. This keeps the distribution, because a row that
stops early goes on as if its draft had been shorter; but the acceptance falls with the number of rows.

With synthetic acceptance, chance decides how many tokens each row accepts. The passes, the caches and the rule's own work stay
the same, so that the cost can be studied with random weights; but accepted tokens are not the model's.
"""

from typing import Annotated

import torch
from torch import Tensor

from nanobench.engines._acceptance import Chance, GreedyPass, SampledPass, Tally, Verified
from nanobench.engines._compiler import Compiler
from nanobench.engines._drafts import make_draft
from nanobench.engines.base import allocate_tokens, make_generator, part_ignored
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.registry.arguments import Range
from nanobench.roofline.speculation import Drafting
from nanobench.samplers.base import Sampler
from nanobench.samplers.greedy import greedy
from nanobench.schema import LOOKUP, Point
from nanobench.stats.drafts import DraftCounts


class Speculative:
    """Shows no logits, because a step writes several tokens; so it is gated by its tokens."""

    logits_BV = None
    reads_host = "how many tokens are accepted decides how long the next pass is"

    def __init__(
        self,
        adapter: Adapter,
        sampler: Sampler,
        point: Point,
        compiler: Compiler,
        draft: str,
        draft_len: int,
        accept: float | None,
    ) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler, self.draft_len = adapter, sampler, draft_len
        self.probabilities = getattr(sampler, "probabilities", None)
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        if not hasattr(self.cache, "attend_to"):
            raise Skip("speculative needs a static cache that is read up to a length")
        self.generator = make_generator(weights, compiler)
        self.draft = make_draft(draft, adapter, sampler, point, self.generator)
        self.drafting = Drafting(draft_len, self.draft.shape, accept)
        self.synthetic = None if accept is None else f"synthetic acceptance {accept:g}"
        self.chance = None if accept is None else Chance(accept)
        self.tally, self.part_begins = Tally(draft_len), part_ignored
        self.tokens_BN = allocate_tokens(point, weights)
        self.pos_N = torch.arange(point.total_len, device=weights.device)
        self.prompt_len = self.newest = 0
        self.model_places: list[int] = []

    def logits(self, tokens_BT: Tensor, start: int, last_only: bool) -> Tensor:
        """Logits of tokens that begin at a position, of all of them or the last."""
        end = start + tokens_BT.shape[1]
        self.cache.attend_to(end, masked=False)
        logits_BTV, self.cache = self.adapter.forward_cached(tokens_BT, self.pos_N[start:end], self.cache, last_only=last_only)
        return logits_BTV

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill. The draft reads the prompt too."""
        self.prompt_len = self.newest = prompt_BT.shape[1]
        self.tokens_BN[:, : self.newest] = prompt_BT
        logits_B1V = self.logits(prompt_BT, 0, last_only=True)
        self.tokens_BN[:, self.newest : self.newest + 1] = self.sampler(logits_B1V[:, -1], self.generator)
        self.draft.begin(prompt_BT)
        self.model_places = [0]

    def step(self) -> int:
        """See Engine.step."""
        first = self.newest + 1
        number = min(self.draft_len, self.tokens_BN.shape[1] - first - 1)
        token_B1, probs_BKV = self.tokens_BN[:, self.newest : first], None
        drafted_BK = token_B1[:, :0]
        if number:
            self.part_begins("draft")
            drafted_BK, probs_BKV = self.draft.propose(self.tokens_BN, self.newest, number)
        self.part_begins("verification")
        verified = self.verify(token_B1, drafted_BK, probs_BKV)
        accepted: list[int] = verified.accepted_B.tolist()
        if self.chance is None:
            kept = min(accepted)
            next_B1 = verified.next_token(kept)
        else:
            if self.newest == self.prompt_len:
                self.chance.begin(self.tokens_BN[0, : self.prompt_len].tolist())
            accepted = self.chance.accepted(len(accepted), number)
            kept = min(accepted)
            next_B1 = verified.own_token(kept)
        self.tokens_BN[:, first : first + kept] = drafted_BK[:, :kept]
        self.tokens_BN[:, first + kept : first + kept + 1] = next_B1
        self.newest += kept + 1
        self.model_places.append(self.newest - self.prompt_len)
        self.draft.keep(self.newest)
        self.tally.add(number, kept, accepted)
        return kept + 1

    def verify(self, token_B1: Tensor, drafted_BK: Tensor, probs_BKV: Tensor | None) -> Verified:
        """What the model says of drafted tokens, in one pass over the newest token and them."""
        logits_BTV = self.logits(torch.cat((token_B1, drafted_BK), dim=1), self.newest, last_only=False)
        if self.probabilities is None:
            return GreedyPass(logits_BTV, drafted_BK)
        target_BTV = self.probabilities(logits_BTV.flatten(0, 1).float()).view(logits_BTV.shape)
        return SampledPass(target_BTV, drafted_BK, probs_BKV, self.generator)

    def draft_counts(self) -> DraftCounts:
        """See Engine: what became of drafted tokens since the last call."""
        return self.tally.take()


def build(
    adapter: Adapter,
    sampler: Sampler,
    point: Point,
    compiler: Compiler,
    *,
    draft: str = LOOKUP,
    draft_len: Annotated[int, Range(at_least=1, at_most=64)] = 4,
    accept: Annotated[float, Range(at_least=0, at_most=1)] | None = None,
) -> Speculative:
    """Drafts with `lookup` (what followed the same two tokens before) or with the model of that name, `draft_len` at a time.

    `accept` is the probability of synthetic acceptance; None for the exact rule.
    """
    if compiler.compiles:
        raise Skip("speculative is not compiled: the number of tokens of a pass changes from step to step")
    if sampler is not greedy and not hasattr(sampler, "probabilities"):
        raise Skip("speculative needs the probabilities of a sampler, and this one does not give them")
    return Speculative(adapter, sampler, point, compiler, draft, draft_len, accept)

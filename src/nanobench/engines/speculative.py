"""Speculative decoding: a cheap draft proposes tokens, and one pass of the model over all of them decides how many are kept.

A step writes the accepted tokens and one more. Greedy output is that of plain decoding. With a random sampler a drafted token
is accepted with probability min(1, p / q), and the token after the accepted ones is sampled from what p has more than q, so the
output has the distribution of plain sampling.
Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".

All rows advance together, by as many tokens as the row that accepts the fewest. This keeps the distribution, because a row that
stops early goes on as if its draft had been shorter; but the acceptance falls with the number of rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines._drafts import LOOKUP, make_draft
from nanobench.engines.base import allocate_tokens, make_generator
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler, sample
from nanobench.samplers.greedy import greedy
from nanobench.schema import Point

MOST = 64
"""Tokens of a draft."""


class Speculative:
    """Shows no logits, because a step writes several tokens; so it is gated by its tokens."""

    logits_BV = None
    reads_host = "how many tokens are accepted decides how long the next pass is"

    def __init__(
        self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler, draft: str, draft_len: int
    ) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler, self.draft_len = adapter, sampler, draft_len
        self.probabilities = getattr(sampler, "probabilities", None)
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        if not hasattr(self.cache, "attend_to"):
            raise Skip("speculative needs a static cache that is read up to a length")
        self.generator = make_generator(weights, compiler)
        self.draft = make_draft(draft, adapter, sampler, point, self.generator)
        self.tokens_BN = allocate_tokens(point, weights)
        self.pos_N = torch.arange(point.total_len, device=weights.device)
        self.newest = 0

    def logits(self, tokens_BT: Tensor, start: int, last_only: bool) -> Tensor:
        """Logits of tokens that begin at a position, of all of them or the last."""
        end = start + tokens_BT.shape[1]
        self.cache.attend_to(end, masked=False)
        logits_BTV, self.cache = self.adapter.forward_cached(tokens_BT, self.pos_N[start:end], self.cache, last_only=last_only)
        return logits_BTV

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill. The draft reads the prompt too."""
        self.newest = prompt_BT.shape[1]
        self.tokens_BN[:, : self.newest] = prompt_BT
        logits_B1V = self.logits(prompt_BT, 0, last_only=True)
        self.tokens_BN[:, self.newest : self.newest + 1] = self.sampler(logits_B1V[:, -1], self.generator)
        self.draft.begin(prompt_BT)

    def step(self) -> int:
        """See Engine.step."""
        first = self.newest + 1
        number = min(self.draft_len, self.tokens_BN.shape[1] - first - 1)
        token_B1, probs_BKV = self.tokens_BN[:, self.newest : first], None
        drafted_BK = token_B1[:, :0]
        if number:
            drafted_BK, probs_BKV = self.draft.propose(self.tokens_BN, self.newest, number)
        logits_BTV = self.logits(torch.cat((token_B1, drafted_BK), dim=1), self.newest, last_only=False)
        if self.probabilities is None:
            new_BN = accept_greedy(logits_BTV, drafted_BK)
        else:
            target_BTV = self.probabilities(logits_BTV.flatten(0, 1).float()).view(logits_BTV.shape)
            new_BN = accept_sampled(target_BTV, drafted_BK, probs_BKV, self.generator)
        written = new_BN.shape[1]
        self.tokens_BN[:, first : first + written] = new_BN
        self.newest += written
        self.draft.keep(self.newest)
        return written


def accept_greedy(logits_BTV: Tensor, drafted_BK: Tensor) -> Tensor:
    """The target's own tokens: as many as every row drafted rightly, and one more."""
    chosen_BT = logits_BTV.argmax(-1)
    right_BK = (chosen_BT[:, :-1] == drafted_BK).long().cumprod(1)
    return chosen_BT[:, : int(right_BK.sum(1).min()) + 1]


def accept_sampled(
    target_BTV: Tensor, drafted_BK: Tensor, probs_BKV: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Drafted tokens that every row accepts, and one more token.

    `target_BTV` are the target's probabilities after each token, `probs_BKV` those that the draft drew with; None for a draft
    that follows from the text, which has probability 1.
    """
    number = drafted_BK.shape[1]
    if probs_BKV is None:
        probs_BKV = F.one_hot(drafted_BK, target_BTV.shape[-1]).to(target_BTV)
    wanted_BK = target_BTV[:, :number].gather(-1, drafted_BK[..., None]).squeeze(-1)
    offered_BK = probs_BKV.gather(-1, drafted_BK[..., None]).squeeze(-1)
    uniform_BK = torch.empty_like(wanted_BK).uniform_(generator=generator)
    accepted_B = (uniform_BK * offered_BK < wanted_BK).long().cumprod(1).sum(1)
    kept = int(accepted_B.min())
    if kept == number:
        return torch.cat((drafted_BK, sample(target_BTV[:, number], generator)), dim=1)
    other_B1 = sample((target_BTV[:, kept] - probs_BKV[:, kept]).clamp_min(0.0), generator)
    next_B1 = torch.where((accepted_B > kept)[:, None], drafted_BK[:, kept : kept + 1], other_B1)
    return torch.cat((drafted_BK[:, :kept], next_B1), dim=1)


def build(
    adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler, *, draft: str = LOOKUP, draft_len: int = 4
) -> Speculative:
    """Drafts with `lookup` (what followed the same two tokens before) or with the model of that name, `draft_len` at a time."""
    if compiler.compiles:
        raise Skip("speculative is not compiled: the number of tokens of a pass changes from step to step")
    if not 1 <= draft_len <= MOST:
        raise Skip(f"draft_len {draft_len} is not between 1 and {MOST}")
    if sampler is not greedy and not hasattr(sampler, "probabilities"):
        raise Skip("speculative needs the probabilities of a sampler, and this one does not give them")
    return Speculative(adapter, sampler, point, compiler, draft, draft_len)

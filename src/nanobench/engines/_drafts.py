"""What proposes tokens for speculative decoding: a lookup in the text so far, or a smaller model."""

from typing import Protocol

import torch
from torch import Tensor

from nanobench import registry
from nanobench.errors import Skip
from nanobench.models import _packed_linear as packed_linear
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler, sample
from nanobench.schema import LOOKUP, GPTShape, Point

NGRAM = 2
"""Tokens that a lookup compares."""
SEED = 1
"""Of a draft model's random weights."""


class Draft(Protocol):
    """Proposes tokens after those that are known, the same number for every row."""

    shape: GPTShape | None
    """the sizes of the model that proposes; None for what proposes without a pass"""

    def begin(self, prompt_BT: Tensor) -> None:
        """A call begins."""
        ...

    def propose(self, tokens_BN: Tensor, newest: int, number: int) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, K] after the one at `newest`, and the probabilities [B, K, V] that they were drawn with; None if they
        follow from the text.
        """
        ...

    def keep(self, length: int) -> None:
        """The first `length` tokens are final."""
        ...


class Lookup:
    """What followed the last time that the newest tokens occurred in the row; the newest token again where they never did.

    Saxena 2023, "Prompt Lookup Decoding".
    """

    shape: GPTShape | None = None

    def begin(self, prompt_BT: Tensor) -> None:
        """See Draft.begin."""

    def propose(self, tokens_BN: Tensor, newest: int, number: int) -> tuple[Tensor, None]:
        """See Draft.propose."""
        known_BT, length = tokens_BN[:, : newest + 1], min(NGRAM, newest)
        windows_BWL = known_BT.unfold(1, length, 1)[:, :-1]
        found_BW = (windows_BWL == known_BT[:, None, -length:]).all(-1)
        places_W = torch.arange(1, found_BW.shape[1] + 1, device=known_BT.device)
        last_B = (found_BW * places_W).amax(1)
        start_B1 = torch.where(last_B > 0, last_B - 1 + length, newest)[:, None]
        after_K = torch.arange(number, device=known_BT.device)
        return known_BT.gather(1, (start_B1 + after_K).clamp_max(newest)), None

    def keep(self, length: int) -> None:
        """See Draft.keep."""


class ModelDraft:
    """A smaller model with a cache of its own, which samples as the target does."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, generator: torch.Generator | None) -> None:
        self.adapter, self.sampler, self.generator = adapter, sampler, generator
        self.shape: GPTShape | None = adapter.shape
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        self.pos_N = torch.arange(point.total_len, device=next(adapter.module.parameters()).device)
        self.filled = 0

    def begin(self, prompt_BT: Tensor) -> None:
        """See Draft.begin. The prompt fills the cache."""
        self.filled = 0
        self.logits(prompt_BT, 0)

    def logits(self, tokens_BT: Tensor, start: int) -> Tensor:
        """Logits [B, V] after tokens that begin at a position; they fill the cache."""
        self.filled = start + tokens_BT.shape[1]
        self.cache.attend_to(self.filled, masked=False)
        logits_B1V, self.cache = self.adapter.forward_cached(tokens_BT, self.pos_N[start : self.filled], self.cache)
        return logits_B1V[:, -1]

    def propose(self, tokens_BN: Tensor, newest: int, number: int) -> tuple[Tensor, Tensor | None]:
        """See Draft.propose."""
        drafted, chosen_with = [], []
        next_BT = tokens_BN[:, self.filled : newest + 1]
        for _ in range(number):
            logits_BV = self.logits(next_BT, self.filled)
            if hasattr(self.sampler, "probabilities"):
                probs_BV = self.sampler.probabilities(logits_BV.float())
                chosen_with.append(probs_BV)
                next_BT = sample(probs_BV, self.generator)
            else:
                next_BT = self.sampler(logits_BV, self.generator)
            drafted.append(next_BT)
        return torch.cat(drafted, dim=1), torch.stack(chosen_with, dim=1) if chosen_with else None

    def keep(self, length: int) -> None:
        """See Draft.keep. What the cache holds of later tokens is written again."""
        self.filled = min(self.filled, length)


def make_draft(
    name: str, target: Adapter, sampler: Sampler, point: Point, generator: torch.Generator | None
) -> Lookup | ModelDraft:
    """The draft of a name: `lookup`, or a model. Raises Skip for a model that cannot draft for this target."""
    if name == LOOKUP:
        return Lookup()
    registry.check("models", name)
    like = next(target.module.parameters())
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(SEED)
        adapter: Adapter = registry.find("models", name)()
        adapter.module.to(device=like.device, dtype=like.dtype).eval().requires_grad_(False)
        packed_linear.pack(adapter.module)
    shape = adapter.shape
    if shape.vocab_size != target.shape.vocab_size:
        raise Skip(f"draft {name} has a vocabulary of {shape.vocab_size}, the model one of {target.shape.vocab_size}")
    if shape.block_size < point.total_len:
        raise Skip(f"draft {name} has a block size of {shape.block_size}, and a row has {point.total_len} tokens")
    draft = ModelDraft(adapter, sampler, point, generator)
    if not hasattr(draft.cache, "attend_to"):
        raise Skip(f"draft {name} has no static cache that is read up to a length")
    return draft

"""How many drafted tokens the model accepts, and the token after them: by the exact rules, or by chance.

Greedy: a drafted token is accepted if it is the one that the model would choose. Sampling: it is accepted with probability
min(1, p / q), where p is the model's and q the draft's probability, and the token after the accepted ones is sampled from what
p has more than q.
"""

import math
import random
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nanobench.samplers.base import sample
from nanobench.stats.drafts import DraftCounts


class Verified(Protocol):
    """What a pass of the model says of drafted tokens [B, K]."""

    accepted_B: Tensor
    """how many of them each row accepts"""

    def next_token(self, kept: int) -> Tensor:
        """The token [B, 1] after the first `kept` drafted ones, which all rows accept."""
        ...

    def own_token(self, place: int) -> Tensor:
        """The token [B, 1] that the model chooses after the first `place` drafted ones, whatever it says of these."""
        ...


def leading(right_BK: Tensor) -> Tensor:
    """How many are true before the first that is not, in each row."""
    return right_BK.long().cumprod(1).sum(1)


class GreedyPass:
    """Accepts what the model would have chosen."""

    def __init__(self, logits_BTV: Tensor, drafted_BK: Tensor) -> None:
        self.chosen_BT = logits_BTV.argmax(-1)
        self.accepted_B = leading(self.chosen_BT[:, :-1] == drafted_BK)

    def next_token(self, kept: int) -> Tensor:
        """See Verified.next_token: a row that accepts more has drafted this token."""
        return self.own_token(kept)

    def own_token(self, place: int) -> Tensor:
        """See Verified.own_token."""
        return self.chosen_BT[:, place : place + 1]


class SampledPass:
    """Accepts by the rejection rule.

    `target_BTV` are the model's probabilities after each token, `probs_BKV` those that the draft drew with; None for a draft
    that follows from the text, which has probability 1.
    """

    def __init__(
        self, target_BTV: Tensor, drafted_BK: Tensor, probs_BKV: Tensor | None, generator: torch.Generator | None
    ) -> None:
        number = drafted_BK.shape[1]
        if probs_BKV is None:
            probs_BKV = F.one_hot(drafted_BK, target_BTV.shape[-1]).to(target_BTV)
        self.target_BTV, self.probs_BKV, self.drafted_BK, self.generator = target_BTV, probs_BKV, drafted_BK, generator
        wanted_BK = target_BTV[:, :number].gather(-1, drafted_BK[..., None]).squeeze(-1)
        offered_BK = probs_BKV.gather(-1, drafted_BK[..., None]).squeeze(-1)
        uniform_BK = torch.empty_like(wanted_BK).uniform_(generator=generator)
        self.accepted_B = leading(uniform_BK * offered_BK < wanted_BK)

    def next_token(self, kept: int) -> Tensor:
        """See Verified.next_token. A row that accepts more keeps the token that it drafted."""
        if kept == self.drafted_BK.shape[1]:
            return self.own_token(kept)
        more_BV = (self.target_BTV[:, kept] - self.probs_BKV[:, kept]).clamp_min(0.0)
        other_B1 = sample(more_BV, self.generator)
        return torch.where((self.accepted_B > kept)[:, None], self.drafted_BK[:, kept : kept + 1], other_B1)

    def own_token(self, place: int) -> Tensor:
        """See Verified.own_token."""
        return sample(self.target_BTV[:, place], self.generator)


class Chance:
    """Accepts each drafted token of each row with the same probability, whatever it is.

    A call takes its random numbers from its prompt: the same prompt has the same output, and launches, whose prompts differ, do
    not all accept the same.
    """

    def __init__(self, share: float) -> None:
        self.share, self.drawn = share, random.Random()

    def begin(self, prompt: list[int]) -> None:
        """A call with this prompt begins."""
        self.drawn.seed(hash(tuple(prompt)))

    def accepted(self, rows: int, number: int) -> list[int]:
        """How many of `number` drafted tokens each row accepts: i or more with probability share ** i."""
        if self.share in (0, 1):
            return [number * int(self.share)] * rows
        scale = 1 / math.log(self.share)
        return [min(number, int(scale * math.log(1 - self.drawn.random()))) for _ in range(rows)]


class Tally:
    """Counts what became of drafted tokens. A step only notes it; the counts are made when they are taken."""

    def __init__(self, length: int) -> None:
        self.positions = range(1, length + 1)
        self.steps: list[tuple[int, int, list[int]]] = []

    def add(self, number: int, kept: int, accepted: list[int]) -> None:
        """A step that drafted `number` tokens and kept the first `kept` of them; how many each row accepted."""
        self.steps.append((number, kept, accepted))

    def take(self) -> DraftCounts:
        """The counts since they were last taken."""
        steps, self.steps = self.steps, []
        return DraftCounts(
            target_passes=len(steps),
            drafted_by_position=self.by_position([[number] for number, _, _ in steps]),
            accepted_by_position=self.by_position([accepted for _, _, accepted in steps]),
            kept_by_position=self.by_position([[kept] for _, kept, _ in steps]),
        )

    def by_position(self, reached: list[list[int]]) -> tuple[float, ...]:
        """For each position in how many steps it was reached, mean over the rows."""
        return tuple(sum(sum(each >= place for each in rows) / len(rows) for rows in reached) for place in self.positions)

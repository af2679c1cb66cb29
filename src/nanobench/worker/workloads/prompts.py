"""The prompts of timed calls: other tokens for every call, the same for all arms of a block.

What a prompt is made from, its base, follows from a seed that is drawn just before the block. Inside the clock each call draws
a number, which makes the prompt of its base, so that no arm can know a prompt before its call. Seed and number give the prompt
again, for the check after the launch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nanobench.gates.divergence import Text
from nanobench.models.base import Adapter
from nanobench.schema import BYTES, SYNTHETIC, Point
from nanobench.training import tokenizer
from nanobench.training.data import Corpus

POISON = 0x5EED
"""What the seed of the poison differs by from that of the prompts."""
FIRST_TOKEN = 0xF125
"""What the seed of calls of one token differs by from that of whole calls."""
MOST = 1024
"""Different bases of one repetition, at most; further calls use them again."""
ONE_IN = 8
"""Of so many tokens of a prompt that is cut from a text, one is random."""
LEAST_SCORED, MOST_ROWS = 256, 16
"""Tokens of a text whose likelihood is taken at least, unless that needs more than MOST_ROWS rows."""
Bases = tuple[Tensor, ...]
"""What the prompts of a repetition are made from; the first dimension of each tensor is the call."""


class Prompts(Protocol):
    """The prompts of a point."""

    @property
    def numbers(self) -> int:
        """How many prompts there are for each base: a call draws a number below this."""
        ...

    def bases(self, seed: int, calls: int) -> Bases:
        """The bases of a repetition, on the host. The first ones are the same for any number of calls."""
        ...

    def write(self, bases: Bases, call: int, number: int, out_BT: Tensor) -> None:
        """Writes the prompt of a call. This runs inside the clock: a few operations on the device, and no synchronization."""
        ...

    def untimed(self, seed: int) -> Tensor | None:
        """The prompts [B, T] of the gate and of untimed calls, on the host; None for those that the gate makes itself."""
        ...


@dataclass(frozen=True)
class RandomPrompts:
    """Random tokens, to all of which the number is added, modulo the vocabulary."""

    adapter: Adapter
    point: Point

    @property
    def numbers(self) -> int:
        """See Prompts.numbers."""
        return self.adapter.shape.vocab_size

    def bases(self, seed: int, calls: int) -> Bases:
        """See Prompts.bases."""
        rows, prompt_len = rows_of(self.point), self.point.prompt_len
        return (fresh_prompts(seed, calls, rows, prompt_len, self.adapter.shape.vocab_size),)

    def write(self, bases: Bases, call: int, number: int, out_BT: Tensor) -> None:
        """See Prompts.write."""
        (base_CBT,) = bases
        # A shared prompt has one row here, and is written to all.
        torch.add(base_CBT[call % len(base_CBT)].expand_as(out_BT), number, out=out_BT)
        out_BT.remainder_(self.adapter.shape.vocab_size)

    def untimed(self, seed: int) -> None:
        """See Prompts.untimed."""
        return None


@dataclass(frozen=True)
class TextPrompts:
    """Windows of a text behind a few random tokens. The number moves all windows, and is added to the random tokens.

    A text has only as many windows as tokens: an arm could know them all before the clock starts. Not so with random tokens in
    front of them, because in a causal model everything that follows depends on these. They are at the beginning, so that what
    the model continues is text.
    """

    adapter: Adapter
    point: Point
    text_N: Tensor
    """on the device that writes the prompts"""

    @cached_property
    def lead(self) -> int:
        """Random tokens of a prompt: an eighth, at least one. A prompt of a single token has none."""
        return min(self.point.prompt_len - 1, max(1, self.point.prompt_len // ONE_IN))

    @cached_property
    def windows_WL(self) -> Tensor:
        """Every window of the text, as a view that takes no memory."""
        return self.text_N.unfold(0, self.point.prompt_len - self.lead, 1)

    @property
    def numbers(self) -> int:
        """See Prompts.numbers."""
        return self.adapter.shape.vocab_size * len(self.windows_WL)

    def bases(self, seed: int, calls: int) -> Bases:
        """See Prompts.bases. Random tokens [calls, rows, lead] and numbers of windows [calls, rows]."""
        generator, rows = torch.Generator().manual_seed(seed), rows_of(self.point)
        random, windows = [], []
        for _ in range(min(calls, MOST)):
            random.append(torch.randint(self.adapter.shape.vocab_size, (rows, self.lead), generator=generator))
            windows.append(torch.randint(len(self.windows_WL), (rows,), generator=generator))
        return torch.stack(random), torch.stack(windows)

    def write(self, bases: Bases, call: int, number: int, out_BT: Tensor) -> None:
        """See Prompts.write."""
        random_CBK, windows_CB = bases
        place, vocab_size = call % len(windows_CB), self.adapter.shape.vocab_size
        move, shift = divmod(number, vocab_size)
        random_BK = out_BT[:, : self.lead]
        torch.add(random_CBK[place].expand_as(random_BK), shift, out=random_BK)
        random_BK.remainder_(vocab_size)
        windows_B = torch.add(windows_CB[place].expand(len(out_BT)), move).remainder_(len(self.windows_WL))
        torch.index_select(self.windows_WL, 0, windows_B, out=out_BT[:, self.lead :])

    def untimed(self, seed: int) -> Tensor:
        """See Prompts.untimed. Made like those of timed calls, with the number 0."""
        prompt_BT = torch.empty((self.point.batch_size, self.point.prompt_len), dtype=torch.long, device=self.text_N.device)
        self.write(to_device(self.bases(seed, 1), self.text_N.device), 0, 0, prompt_BT)
        return prompt_BT.cpu()


def prompts_of(adapter: Adapter, point: Point, device: torch.device) -> Prompts:
    """The prompts of a point, to be written on a device. Raises UserError for a text that cannot be read."""
    if point.data in ("", SYNTHETIC):
        return RandomPrompts(adapter, point)
    return TextPrompts(adapter, point, Corpus.of_text(Path(point.data), point.tokenizer).tokens_N.to(device))


def text_of(prompts: Prompts, point: Point) -> Text | None:
    """Rows of the text that prompts are cut from, at even distances, each as long as prompt and output.

    None without a text, for one that is shorter, and for token ids, which say nothing of bytes.
    """
    if not isinstance(prompts, TextPrompts) or len(prompts.text_N) < point.total_len:
        return None
    rows = min(MOST_ROWS, max(point.batch_size, -(-LEAST_SCORED // point.new_tokens)))
    starts = torch.linspace(0, len(prompts.text_N) - point.total_len, rows, dtype=torch.float64).long().tolist()
    tokens_RS = torch.stack([prompts.text_N[start : start + point.total_len] for start in starts])
    follow_RN = tokens_RS[:, point.prompt_len :]
    if point.tokenizer == BYTES:
        return Text(tokens_RS, follow_RN.numel())
    texts = [tokenizer.find(point.tokenizer).decode(follow_N) for follow_N in follow_RN.tolist()]
    return None if None in texts else Text(tokens_RS, sum(len((text or "").encode()) for text in texts))


def rows_of(point: Point) -> int:
    """Rows that have a prompt of their own."""
    return 1 if point.shared_prompt == "on" else point.batch_size


def to_device(bases: Bases, device: torch.device) -> Bases:
    """The bases on a device."""
    return tuple(each.to(device) for each in bases)


def fresh_prompts(seed: int, calls: int, rows: int, length: int, vocab_size: int) -> Tensor:
    """Random tokens [calls, rows, length] on the host; call number `n` reads prompt `n % MOST`.

    The first prompts are the same for any number of calls.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(vocab_size, (rows, length), generator=generator) for _ in range(min(calls, MOST))])


def poison(seed: int, rows: int, length: int, vocab_size: int) -> Tensor:
    """Random tokens [rows, length] on the host, to be written over the output before a repetition: what is not written shows.

    They are possible tokens, because an honest engine may read positions that it has not written yet.
    """
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed ^ POISON))

"""Batches to train on: seeded, of stated lengths, padded as their phase says.

`pretrain` has rows of full length. In the `sft` phases a row is one conversation, whose length is drawn from a lognormal
distribution: `sft-dynamic` pads a batch to its longest, so shapes change from step to step, `sft-padded` to the full length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nanobench.errors import UserError
from nanobench.schema import SYNTHETIC, Point

MEDIAN_SHARE, SIGMA, LEAST = 0.35, 0.6, 8
"""A conversation's median length as a share of the full one, the standard deviation of its logarithm, its least tokens."""
IGNORED = -1
"""The target of a position that carries no loss."""
SYNTHETIC_TOKENS = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Tokens [B, T] and the token that follows each; where a row has ended, 0 and IGNORED."""

    tokens_BT: Tensor
    targets_BT: Tensor
    useful: int
    """tokens that carry loss; known to the host, so that nothing waits for the device"""


@dataclass(frozen=True)
class TokenCounts:
    """How much work some batches are."""

    tokens: int
    """padding included"""
    useful_tokens: int
    """those that carry loss"""
    attended_positions: int
    """positions that all tokens look at together, masked ones included"""
    useful_attended_positions: int
    """the same of those that a causal mask leaves to tokens that carry loss"""

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @classmethod
    def of(cls, lengths: Sequence[int], width: int) -> "TokenCounts":
        """Rows of these lengths, padded to a width."""
        triangles = sum(length * (length + 1) // 2 for length in lengths)
        return cls(len(lengths) * width, sum(lengths), len(lengths) * width * width, triangles)


@dataclass(frozen=True)
class Step:
    """What one optimizer step is taken on: the batches of one rank, and the load of all ranks together."""

    batches: tuple[Batch, ...]
    load: TokenCounts


@dataclass(frozen=True)
class Corpus:
    """A long row of tokens that batches are cut from: of a text, or seeded random ones."""

    tokens_N: Tensor

    @classmethod
    def of(cls, point: Point, vocab_size: int, seed: int) -> "Corpus":
        """What a point trains on."""
        if point.data == SYNTHETIC:
            return cls.synthetic(vocab_size, seed)
        return cls.of_text(Path(point.data), point.tokenizer)

    @classmethod
    def synthetic(cls, vocab_size: int, seed: int) -> "Corpus":
        """Uniform random tokens: nothing to learn, and nothing to load."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randint(vocab_size, (SYNTHETIC_TOKENS,), generator=generator))

    @classmethod
    def of_text(cls, path: Path, tokenizer: str) -> "Corpus":
        """A file's tokens. Raises UserError for one that cannot be read or is too short."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; give a text file, or {SYNTHETIC}") from None
        tokens = list(data) if tokenizer == "bytes" else encode(data.decode(errors="replace"), tokenizer)
        if len(tokens) < LEAST + 1:
            raise UserError(f"{path} holds {len(tokens)} tokens, fewer than {LEAST + 1}; give a longer text, or {SYNTHETIC}")
        return cls(torch.tensor(tokens))

    def rows(self, lengths: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
        """A row of so many tokens from a random place each, for every length."""
        starts = [int(torch.randint(max(1, len(self.tokens_N) - length + 1), (1,), generator=generator)) for length in lengths]
        return [self.tokens_N[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def encode(text: str, name: str) -> list[int]:
    """Tokens of a text in one of tiktoken's encodings. Raises UserError where tiktoken, or the encoding's data, is not here."""
    try:
        import tiktoken

        return tiktoken.get_encoding(name).encode_ordinary(text)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"--tokenizer {name!r} is not at hand ({why}); give bytes, or install tiktoken and its data") from None


@dataclass(frozen=True)
class BatchStream:
    """Optimizer steps of one phase, numbered: the same number is the same step for every arm, whatever its rank sees of it."""

    name: str
    corpus: Corpus
    batch_size: int
    seq_len: int
    seed: int
    device: torch.device
    parts: int = 1
    """batches of a step, over all ranks: accumulation x ranks"""

    @cached_property
    def longest(self) -> int:
        """Tokens of a full row; fewer where the corpus is shorter."""
        return min(self.seq_len, len(self.corpus.tokens_N) - 1)

    def lengths(self, generator: torch.Generator) -> tuple[int, ...]:
        """How long each row of a step is."""
        rows = self.parts * self.batch_size
        if self.name == "pretrain":
            return (self.longest,) * rows
        normal_B = torch.randn(rows, generator=generator)
        drawn = (math.log(MEDIAN_SHARE * self.seq_len) + SIGMA * normal_B).exp().round().long()
        return tuple(drawn.clamp(min(LEAST, self.longest), self.longest).tolist())

    def step(self, number: int, rank: int = 0, ranks: int = 1) -> Step:
        """The part of one of so many ranks in a step; with the defaults the whole of it."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        every = self.lengths(generator)
        rows = in_parts(self.corpus.rows(tuple(length + 1 for length in every), generator), self.parts)
        lengths = in_parts(every, self.parts)
        load = sum((TokenCounts.of(part, self.width(part)) for part in lengths), TokenCounts(0, 0, 0, 0))
        mine = range(rank * self.parts // ranks, (rank + 1) * self.parts // ranks)
        return Step(tuple(self.padded(rows[part], lengths[part]) for part in mine), load)

    def width(self, lengths: Sequence[int]) -> int:
        """To how many tokens the rows of a batch are padded."""
        return max(lengths) if self.name == "sft-dynamic" else self.longest

    def padded(self, rows: Sequence[Tensor], lengths: Sequence[int]) -> Batch:
        """Rows of one token more than their lengths as a batch on the device."""
        tokens_BT = torch.zeros((len(rows), self.width(lengths)), dtype=torch.long)
        targets_BT = torch.full_like(tokens_BT, IGNORED)
        for row, tokens_L in enumerate(rows):
            tokens_BT[row, : len(tokens_L) - 1], targets_BT[row, : len(tokens_L) - 1] = tokens_L[:-1], tokens_L[1:]
        return Batch(tokens_BT.to(self.device), targets_BT.to(self.device), sum(lengths))


def in_parts(values: Sequence[T], parts: int) -> list[Sequence[T]]:
    """The values in so many parts of equal size."""
    size = len(values) // parts
    return [values[first : first + size] for first in range(0, len(values), size)]

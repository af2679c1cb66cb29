"""Batches to train on: seeded, of stated lengths, padded as their phase says.

`pretrain` has rows of full length. In the `sft` phases a row is one conversation, whose length is drawn from a lognormal
distribution: `sft-dynamic` pads a batch to its longest, so shapes change from step to step, `sft-padded` to the full length.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from nanobench.errors import UserError

PHASES = ("pretrain", "sft-dynamic", "sft-padded")
MEDIAN_SHARE, SIGMA, LEAST = 0.35, 0.6, 8
"""A conversation's median length as a share of the full one, the standard deviation of its logarithm, its least tokens."""
IGNORED = -1
"""The target of a position that carries no loss."""
SYNTHETIC_TOKENS = 1 << 20


@dataclass(frozen=True)
class Batch:
    """Tokens [B, T] and the token that follows each; where a row has ended, 0 and IGNORED."""

    tokens_BT: Tensor
    targets_BT: Tensor
    lengths: tuple[int, ...]
    """tokens of each row that carry loss; known to the host, so that nothing waits for the device"""

    @property
    def tokens(self) -> int:
        """All of them, padding included."""
        return self.tokens_BT.numel()

    @property
    def useful(self) -> int:
        """Those that carry loss."""
        return sum(self.lengths)

    def split(self, parts: int) -> list["Batch"]:
        """Its rows in so many parts of equal size, for accumulation."""
        rows = len(self.lengths) // parts
        places = [slice(first, first + rows) for first in range(0, len(self.lengths), rows)]
        return [Batch(self.tokens_BT[place], self.targets_BT[place], self.lengths[place]) for place in places]


@dataclass(frozen=True)
class Corpus:
    """A long row of tokens that batches are cut from: a text's bytes, or seeded random tokens."""

    tokens_N: Tensor

    @classmethod
    def synthetic(cls, vocab_size: int, seed: int) -> "Corpus":
        """Uniform random tokens: nothing to learn, and nothing to load."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randint(vocab_size, (SYNTHETIC_TOKENS,), generator=generator))

    @classmethod
    def of_text(cls, path: Path, vocab_size: int) -> "Corpus":
        """A file's bytes, each a token. Raises UserError for one that cannot be read, is too short or needs more tokens."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; give a text file, or synthetic") from None
        if len(data) < LEAST + 1 or vocab_size < 256:
            why = f"holds {len(data)} bytes" if vocab_size >= 256 else f"needs 256 tokens and the model has {vocab_size}"
            raise UserError(f"{path} {why}; give a longer text file, or synthetic")
        return cls(torch.frombuffer(bytearray(data), dtype=torch.uint8).long())

    def rows(self, lengths: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
        """A row of so many tokens from a random place each, for every length."""
        starts = [int(torch.randint(max(1, len(self.tokens_N) - length + 1), (1,), generator=generator)) for length in lengths]
        return [self.tokens_N[start : start + length] for start, length in zip(starts, lengths, strict=True)]


@dataclass(frozen=True)
class Phase:
    """Batches of one phase, numbered: the same number is the same batch for every arm."""

    name: str
    corpus: Corpus
    batch_size: int
    seq_len: int
    seed: int
    device: torch.device

    @cached_property
    def longest(self) -> int:
        """Tokens of a full row; fewer where the corpus is shorter."""
        return min(self.seq_len, len(self.corpus.tokens_N) - 1)

    def lengths(self, generator: torch.Generator) -> tuple[int, ...]:
        """How long each row of a batch is."""
        if self.name == "pretrain":
            return (self.longest,) * self.batch_size
        normal_B = torch.randn(self.batch_size, generator=generator)
        drawn = (math.log(MEDIAN_SHARE * self.seq_len) + SIGMA * normal_B).exp().round().long()
        return tuple(drawn.clamp(min(LEAST, self.longest), self.longest).tolist())

    def batch(self, number: int) -> Batch:
        """The batch of a number, on the device."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        lengths = self.lengths(generator)
        width = max(lengths) if self.name == "sft-dynamic" else self.longest
        tokens_BT = torch.zeros((self.batch_size, width), dtype=torch.long)
        targets_BT = torch.full_like(tokens_BT, IGNORED)
        for row, tokens_L in enumerate(self.corpus.rows(tuple(length + 1 for length in lengths), generator)):
            tokens_BT[row, : len(tokens_L) - 1], targets_BT[row, : len(tokens_L) - 1] = tokens_L[:-1], tokens_L[1:]
        return Batch(tokens_BT.to(self.device), targets_BT.to(self.device), lengths)

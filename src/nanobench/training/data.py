"""Training batches: seeded, numbered, with rows of defined lengths, padded as their phase requires.

In phase `pretrain` all rows have full length. In the `sft` phases a row is one conversation, whose length has a lognormal
distribution: `sft-dynamic` pads a batch to its longest row, so shapes change from step to step; `sft-padded` pads it to the
full length.
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
from nanobench.roofline import flops
from nanobench.schema import SYNTHETIC, GPTShape, Point
from nanobench.training.tokenizer import find

MEDIAN_SHARE, SIGMA, MIN_LENGTH = 0.35, 0.6, 8
"""Of the lengths of conversations: median as a share of the full length, standard deviation of the logarithm, minimum."""
IGNORED = -1
"""The target of a position that does not contribute to the loss."""
SYNTHETIC_TOKENS = 1 << 20
MOST_TEXT_BYTES = 100_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Tokens [B, T] and their targets [B, T], the next tokens; padding has token 0 and target IGNORED."""

    tokens_BT: Tensor
    targets_BT: Tensor
    useful: int
    """number of targets that contribute to the loss; a Python int, so that reading it needs no device synchronization"""


@dataclass(frozen=True)
class TokenCounts:
    """The amount of work in some batches."""

    tokens: int
    """including padding"""
    useful_tokens: int
    """those that contribute to the loss"""
    attended_positions: int
    """sum over all tokens of the positions in their attention, including masked ones"""
    useful_attended_positions: int
    """the same over useful tokens, without masked positions; of layers with different windows the mean"""

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @classmethod
    def of(cls, lengths: Sequence[int], width: int, shape: GPTShape | None = None) -> "TokenCounts":
        """The counts of rows of these lengths, padded to `width`. Without a `shape` no layer has a window."""
        if shape is None:
            seen = sum(flops.in_window(length, None) for length in lengths)
        else:
            seen = round(sum(flops.useful_positions(shape, length) for length in lengths) / shape.n_layer)
        return cls(len(lengths) * width, sum(lengths), len(lengths) * width * width, seen)


@dataclass(frozen=True)
class Step:
    """The input of one optimizer step: the batches of one rank, and the counts over all ranks."""

    batches: tuple[Batch, ...]
    counts: TokenCounts


@dataclass(frozen=True)
class Corpus:
    """A sequence of tokens [N] that rows are cut from: a text, or seeded random tokens."""

    tokens_N: Tensor

    @classmethod
    def of(cls, point: Point, vocab_size: int, seed: int) -> "Corpus":
        """The corpus of a point."""
        if point.data == SYNTHETIC:
            return cls.synthetic(vocab_size, seed)
        return cls.of_text(Path(point.data), point.tokenizer)

    @classmethod
    def synthetic(cls, vocab_size: int, seed: int) -> "Corpus":
        """Uniform random tokens."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randint(vocab_size, (SYNTHETIC_TOKENS,), generator=generator))

    @classmethod
    def of_text(cls, path: Path, tokenizer: str) -> "Corpus":
        """The tokens of a text, or the token ids in a file. Raises UserError for a file that cannot be read or is too short."""
        try:
            # A device or a pipe can have no end.
            if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= MOST_TEXT_BYTES):
                raise UserError(f"{path} is not a file of at most {MOST_TEXT_BYTES:,} bytes; give a text, or {SYNTHETIC}")
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; give a text file, or {SYNTHETIC}") from None
        tokens_N = find(tokenizer).encode(data, str(path))
        if len(tokens_N) < MIN_LENGTH + 1:
            minimum = MIN_LENGTH + 1
            raise UserError(f"{path} has {len(tokens_N)} tokens, fewer than {minimum}; give a longer text, or {SYNTHETIC}")
        return cls(tokens_N)

    def rows(self, lengths: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
        """For each length a row of that many tokens, from a random position."""
        starts = [int(torch.randint(max(1, len(self.tokens_N) - length + 1), (1,), generator=generator)) for length in lengths]
        return [self.tokens_N[start : start + length] for start, length in zip(starts, lengths, strict=True)]


@dataclass(frozen=True)
class BatchStream:
    """The numbered optimizer steps of one phase. A number means the same rows in every arm, for any number of ranks."""

    name: str
    corpus: Corpus
    batch_size: int
    seq_len: int
    seed: int
    device: torch.device
    parts: int = 1
    """batches per step over all ranks: accumulation steps x ranks"""
    shape: GPTShape | None = None
    """of a model whose layers have windows: it says which positions are attended to"""

    @cached_property
    def max_len(self) -> int:
        """Tokens of a full row; fewer than `seq_len` if the corpus is shorter."""
        return min(self.seq_len, len(self.corpus.tokens_N) - 1)

    def lengths(self, generator: torch.Generator) -> tuple[int, ...]:
        """The length of each row of a step."""
        rows = self.parts * self.batch_size
        if self.name == "pretrain":
            return (self.max_len,) * rows
        normal_B = torch.randn(rows, generator=generator)
        lengths_B = (math.log(MEDIAN_SHARE * self.seq_len) + SIGMA * normal_B).exp().round().long()
        return tuple(lengths_B.clamp(min(MIN_LENGTH, self.max_len), self.max_len).tolist())

    def step(self, number: int, rank: int = 0, ranks: int = 1) -> Step:
        """One rank's part of a step; with the defaults the whole step."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        lengths = self.lengths(generator)
        rows = split_evenly(self.corpus.rows(tuple(length + 1 for length in lengths), generator), self.parts)
        part_lengths = split_evenly(lengths, self.parts)
        counts = sum((TokenCounts.of(part, self.width(part), self.shape) for part in part_lengths), TokenCounts(0, 0, 0, 0))
        own_parts = range(rank * self.parts // ranks, (rank + 1) * self.parts // ranks)
        return Step(tuple(self.pad(rows[part], part_lengths[part]) for part in own_parts), counts)

    def width(self, lengths: Sequence[int]) -> int:
        """The number of tokens that the rows of a batch are padded to."""
        return max(lengths) if self.name == "sft-dynamic" else self.max_len

    def pad(self, rows: Sequence[Tensor], lengths: Sequence[int]) -> Batch:
        """A batch on the device; each row has one token more than its length, because targets are shifted by one."""
        tokens_BT = torch.zeros((len(rows), self.width(lengths)), dtype=torch.long)
        targets_BT = torch.full_like(tokens_BT, IGNORED)
        for row, tokens_L in enumerate(rows):
            tokens_BT[row, : len(tokens_L) - 1], targets_BT[row, : len(tokens_L) - 1] = tokens_L[:-1], tokens_L[1:]
        return Batch(tokens_BT.to(self.device), targets_BT.to(self.device), sum(lengths))


def split_evenly(values: Sequence[T], parts: int) -> list[Sequence[T]]:
    """The values in `parts` parts of equal size, in order."""
    size = len(values) // parts
    return [values[first : first + size] for first in range(0, len(values), size)]

"""What timed calls generated, copied aside right after the clock stopped, for the check after the launch."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

MOST_BYTES = 64 << 20
"""Bytes of all outputs that an arm keeps; beyond, random ones between the first and the last are dropped."""


@dataclass(frozen=True)
class Output:
    """The generated tokens [B, N] of one timed call, and the numbers that give its prompt."""

    block: int
    call: int
    """number of the call in its repetition"""
    calls: int
    """calls of the repetition"""
    prompt_seed: int
    shift: int
    """the number that made the call's prompt of its base (Prompts.write)"""
    tokens_BN: Tensor
    model_places: tuple[int, ...] | None = None
    """the tokens that the model chose, of an engine some of whose tokens are synthetic; the first is 0"""
    row: int | None = None
    """a random row, for the last call of a repetition of an engine that shows logits"""
    place: int | None = None
    """a random token of that row; the first is 0"""
    logits_V: Tensor | None = None
    """its logits"""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.tokens_BN.nbytes + (0 if self.logits_V is None else self.logits_V.nbytes)

    @property
    def is_inside(self) -> bool:
        """Whether other calls of the same repetition came before and after it."""
        return 0 < self.call < self.calls - 1


@dataclass
class Outputs:
    """The outputs of one arm in one launch, in the order of their calls."""

    kept: list[Output] = field(default_factory=list)

    def __iter__(self) -> Iterator[Output]:
        return iter(self.kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept tokens."""
        return sum(each.nbytes for each in self.kept)

    def keep(self, outputs: list[Output]) -> None:
        """Adds the calls of one repetition."""
        self.kept += outputs
        while len(self.kept) > 2 and self.nbytes > MOST_BYTES:
            del self.kept[random.SystemRandom().randrange(1, len(self.kept) - 1)]

    def save(self, path: Path) -> None:
        """Writes them to a file that `load` reads without running code."""
        torch.save([vars(each) for each in self.kept], path)

    @classmethod
    def load(cls, path: Path) -> "Outputs":
        """What `save` wrote."""
        return cls([Output(**each) for each in torch.load(path, weights_only=True)])

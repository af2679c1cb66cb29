"""The contract that every engine meets, and the compiler that it is handed."""

from typing import Protocol

import torch
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.schema import Point


class Engine(Protocol):
    """Generates tokens. `build(adapter, sampler, point, compiler)` makes one and allocates all it needs, once.

    One that walks along one of `costs.PATHS` says so in an attribute `path`; only then can its time be predicted.
    """

    @property
    def tokens_BN(self) -> Tensor:
        """Prompt and output, preallocated. The next input is read here, so that the gate can force tokens by writing it."""
        ...

    @property
    def logits_BV(self) -> Tensor | None:
        """Behind the newest token; None for a black box, which is gated by its tokens alone."""
        ...

    def prefill(self, prompt_BT: Tensor) -> None:
        """Forgets the last call, reads the prompt and writes the first token of every row behind it."""
        ...

    def step(self) -> int:
        """Writes the next tokens of every row and returns how many."""
        ...


def allocate_tokens(point: Point, like: Tensor) -> Tensor:
    """Zeros [B, N] for prompt and output, on the device of `like`."""
    return torch.zeros((point.batch_size, point.total_len), dtype=torch.long, device=like.device)


def make_generator(like: Tensor, compiler: Compiler) -> torch.Generator | None:
    """A seeded generator on the device of `like`; None, torch's own, where it would break a compiled graph."""
    return None if compiler.compiles else torch.Generator(device=like.device).manual_seed(0)

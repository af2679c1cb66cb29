"""Uncached generation: every step processes the whole sequence again."""

from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import allocate_tokens, make_generator
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


class Uncached:
    """Runs the model over all tokens so far, with logits at the last position or (as many scripts do) at all positions."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler, last_only: bool) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler, self.last_only = adapter, sampler, last_only
        self.cache = None
        self.kv_access = "uncached" if last_only else "uncached-full-logits"
        self.tokens_BN = allocate_tokens(point, weights)
        self.logits_BV: Tensor | None = None
        self.generator = make_generator(weights, compiler)
        self.length = 0
        self.next = compiler(self._next, dynamic=True)

    def _next(self, idx_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_BV = self.adapter.forward(idx_BT, last_only=self.last_only)[:, -1]
        return logits_BV, self.sampler(logits_BV, self.generator)

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.length = prompt_BT.shape[1]
        self.tokens_BN[:, : self.length] = prompt_BT
        self.step()

    def step(self) -> int:
        """See Engine.step."""
        self.logits_BV, token_B1 = self.next(self.tokens_BN[:, : self.length])
        self.tokens_BN[:, self.length : self.length + 1] = token_B1
        self.length += 1
        return 1


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Uncached:
    """Computes logits at the last position only, as a cached engine does."""
    return Uncached(adapter, sampler, point, compiler, last_only=True)

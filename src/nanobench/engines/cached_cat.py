"""Cached generation with a cache grown by torch.cat: new, longer tensors per layer and step."""

from collections.abc import Callable

import torch
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import allocate_tokens, make_generator
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import GRAPH_MODES, Point


class CachedCat:
    """Starts every call with an empty cache, whose tensors grow by one token per step."""

    kv_access = "cat"

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler, self.point = adapter, sampler, point
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "cat")
        self.tokens_BN = allocate_tokens(point, weights)
        self.logits_BV: Tensor | None = None
        self.generator = make_generator(weights, compiler)
        self.positions_N = torch.arange(point.total_len, device=weights.device)
        self.length = 0
        self.run_prefill = compiler(self._next)
        self.run_decode = compiler(self._next, dynamic=True)

    def _next(self, idx_BT: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        logits_B1V, self.cache = self.adapter.forward_cached(idx_BT, pos_T, self.cache)
        return logits_B1V[:, -1], self.sampler(logits_B1V[:, -1], self.generator)

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.length = prompt_BT.shape[1]
        self.tokens_BN[:, : self.length] = prompt_BT
        self.cache = self.adapter.make_cache(self.point.batch_size, self.point.total_len, "cat")
        self._extend(self.run_prefill, 0)

    def step(self) -> int:
        """See Engine.step."""
        self.length += 1
        self._extend(self.run_decode, self.length - 1)
        return 1

    def _extend(self, run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: int) -> None:
        new = slice(start, self.length)
        self.logits_BV, token_B1 = run(self.tokens_BN[:, new], self.positions_N[new])
        self.tokens_BN[:, self.length : self.length + 1] = token_B1


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> CachedCat:
    """Raises Skip if the model has no cache of kind 'cat', and for a compile mode that captures graphs."""
    if compiler.mode in GRAPH_MODES and point.device.startswith("cuda"):
        raise Skip(f"{compiler.mode} replays graphs, which would overwrite a cache that grows; use it with --engine cached")
    return CachedCat(adapter, sampler, point, compiler)

"""Cached generation with a preallocated static cache: a prefill of the prompt, then one new token per step.

An eager step attends to the filled positions only, if the cache has `attend_to`. A compiled step attends to all positions
with a mask: otherwise each length would need its own graph.
"""

import torch
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import allocate_tokens, make_generator
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


class Cached:
    """Keeps the position in a tensor, so that a step contains only device work."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler = adapter, sampler
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        self.kv_access: str | None = "prefix" if hasattr(self.cache, "attend_to") and not compiler.compiles else "static"
        self.is_masked = self.kv_access == "static"
        self.max_len, self.length = point.total_len, 0
        self.tokens_BN = allocate_tokens(point, weights)
        self.logits_BV: Tensor | None = None
        self.generator = make_generator(weights, compiler)
        self.prompt_T = torch.arange(point.prompt_len, device=weights.device)
        self.pos_1 = torch.zeros(1, dtype=torch.long, device=weights.device)
        of_cache = (tensor for name in ("tensors", "constants") for tensor in getattr(self.cache, name, ()))
        compiler.mark_static(self.tokens_BN, self.pos_1, self.prompt_T, *of_cache)
        self.run_prefill = compiler(self._prefill)
        self.run_decode = compiler(self._decode)

    def _prefill(self, prompt_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_B1V, self.cache = self.adapter.forward_cached(prompt_BT, self.prompt_T, self.cache)
        return logits_B1V[:, -1], self.sampler(logits_B1V[:, -1], self.generator)

    def _decode(self) -> Tensor:
        token_B1 = self.tokens_BN.index_select(1, self.pos_1)
        logits_B1V, self.cache = self.adapter.forward_cached(token_B1, self.pos_1, self.cache)
        self.pos_1 += 1
        self.tokens_BN.index_copy_(1, self.pos_1, self.sampler(logits_B1V[:, -1], self.generator))
        return logits_B1V[:, -1]

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        length = prompt_BT.shape[1]
        self.attend_to(length, masked=False)
        self.tokens_BN[:, :length] = prompt_BT
        self.logits_BV, self.tokens_BN[:, length : length + 1] = self.run_prefill(prompt_BT)
        self.seek(length)

    def step(self) -> int:
        """See Engine.step."""
        self.length += 1
        self.attend_to(self.max_len if self.is_masked else self.length, masked=self.is_masked)
        self.logits_BV = self.run_decode()
        return 1

    def seek(self, length: int) -> None:
        """Sets the position of the next step's input token; the step attends to the cache before it."""
        self.length = length
        self.pos_1.fill_(length)

    def attend_to(self, length: int, masked: bool) -> None:
        """See StaticCache.attend_to; does nothing for a cache without it."""
        if hasattr(self.cache, "attend_to"):
            self.cache.attend_to(length, masked)


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Cached:
    """Raises Skip if the model has no static cache."""
    return Cached(adapter, sampler, point, compiler)

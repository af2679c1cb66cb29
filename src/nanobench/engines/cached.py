"""Cached generation over a preallocated static cache: a prefill over the prompt, then one new token per step.

Attention looks at the filled positions alone where the cache can be told. A compiled step looks at all of them, masked:
each length would be a graph of its own.
"""

import torch
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import allocate_tokens, make_generator
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


class Cached:
    """Keeps the position as a tensor beside the tokens, so that a step holds nothing but device work."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler = adapter, sampler
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        self.kv_access = "prefix" if hasattr(self.cache, "attend_to") and not compiler.compiles else "static"
        self.max_len, self.length = point.total_len, 0
        self.tokens_BN = allocate_tokens(point, weights)
        self.logits_BV: Tensor | None = None
        self.generator = make_generator(weights, compiler)
        self.prompt_T = torch.arange(point.prompt_len, device=weights.device)
        self.pos_1 = torch.zeros(1, dtype=torch.long, device=weights.device)
        compiler.fix(self.tokens_BN, self.pos_1, *getattr(self.cache, "tensors", ()))
        self.read = compiler(self._read)
        self.decode = compiler(self._decode)

    def _read(self, prompt_BT: Tensor) -> tuple[Tensor, Tensor]:
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
        self.logits_BV, self.tokens_BN[:, length : length + 1] = self.read(prompt_BT)
        self.seek(length)

    def step(self) -> int:
        """See Engine.step."""
        self.length += 1
        whole = self.kv_access == "static"
        self.attend_to(self.max_len if whole else self.length, masked=whole)
        self.logits_BV = self.decode()
        return 1

    def seek(self, length: int) -> None:
        """The next step reads the token at this position, and the cache in front of it."""
        self.length = length
        self.pos_1.fill_(length)

    def attend_to(self, seen: int, masked: bool) -> None:
        """See StaticCache.attend_to; nothing happens to a cache that cannot."""
        if hasattr(self.cache, "attend_to"):
            self.cache.attend_to(seen, masked)


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Cached:
    """Raises Skip where the model has no static cache."""
    return Cached(adapter, sampler, point, compiler)

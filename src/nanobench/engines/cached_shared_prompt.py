"""Cached generation from one prompt for all rows: it is read once, and its keys and values are copied to every row.

For points whose rows share their prompt (`--shared-prompt on`). The time to the first token covers the prefill of one row, the
copies, and a token for every row. Steps are those of `cached`.
"""

import copy

from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.errors import Skip
from nanobench.models._kv_cache import StaticCache
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


class CachedSharedPrompt(Cached):
    """Reads the prompt into the first row of its cache."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        if point.shared_prompt != "on":
            raise Skip("cached-shared-prompt reads one prompt for all rows; measure it with --shared-prompt on")
        super().__init__(adapter, sampler, point, compiler)
        if not isinstance(self.cache, StaticCache):
            raise Skip(f"cached-shared-prompt needs the cache of the built-in models; {adapter.shape.architecture} has its own")
        if compiler.compiles and any(tensor.dim() != 4 for tensor in self.cache.tensors):
            raise Skip("a cache that keeps tokens too is not compiled with a shared prompt: dynamo runs a part of it eagerly")
        self.rows = point.batch_size
        self.first_row = first_row(self.cache)
        self.first_row.attend_to(point.prompt_len, masked=False)
        self.kv_access = "shared-prompt-static" if self.is_masked else "shared-prompt"

    def _prefill(self, prompt_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_11V, _ = self.adapter.forward_cached(prompt_BT[:1], self.prompt_T, self.first_row)
        length = prompt_BT.shape[1]
        for tensor in self.cache.tensors:
            # Keys and values are [B, K, S, D]; tokens that a cache keeps are [B, S].
            if tensor.dim() == 4:
                tensor[1:, :, :length] = tensor[:1, :, :length]
            else:
                tensor[1:, :length] = tensor[:1, :length]
        logits_BV = logits_11V[:, -1].expand(self.rows, -1).contiguous()
        return logits_BV, self.sampler(logits_BV, self.generator)


def first_row(cache: StaticCache) -> StaticCache:
    """The first row of a cache as a cache of its own, in the same memory."""
    row = copy.copy(cache)
    for name, value in vars(cache).items():
        if isinstance(value, list):
            setattr(row, name, [each[:1] if isinstance(each, Tensor) else each for each in value])
        elif isinstance(value, Tensor) and value.dim() > 1:
            setattr(row, name, value[:1])
    return row


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> CachedSharedPrompt:
    """Raises Skip for a point whose rows have prompts of their own, and for a model with a cache of its own."""
    return CachedSharedPrompt(adapter, sampler, point, compiler)

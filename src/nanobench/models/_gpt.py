"""Shared by the built-in architectures: attention, the base class of networks and their Adapter.

Shapes: B rows, T tokens, C width, V vocabulary, H heads, K key-value heads, D head width, S cached tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import Skip
from nanobench.models import _flex
from nanobench.models import _sdpa as sdpa
from nanobench.models._chunked_loss import chunked_cross_entropy
from nanobench.models._int8_cache import Int8Cache, rounded
from nanobench.models._kv_cache import Cache, CatCache, StaticCache, View, uncached_view
from nanobench.schema import GPTShape


class Attention(nn.Module):
    """Grouped-query attention without projections: causal over the whole input, or over a KV cache."""

    sdpa = staticmethod(F.scaled_dot_product_attention)
    """An attribute, so that a calibration can time it and a model can replace it."""
    rounds_kv = False
    """whether keys and values are those that an int8 cache gives back"""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.layer, self.grouped = layer, shape.n_head != shape.n_kv_head

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """Attention output [B, T, C] for queries, keys and values of the new tokens; updates the cache."""
        if cache is not None:
            k_BKTD, v_BKTD = cache.append(self.layer, k_BKTD, v_BKTD, pos_T)
        elif self.rounds_kv:
            k_BKTD, v_BKTD = rounded(k_BKTD), rounded(v_BKTD)
        if view.blocks is not None:
            y_BHTD = _flex.attend(q_BHTD, k_BKTD, v_BKTD, view.blocks, self.grouped, cached=cache is not None)
            return y_BHTD.transpose(1, 2).flatten(2)
        k_BKTD, v_BKTD = view.of(k_BKTD), view.of(v_BKTD)
        mask = None if view.mask_TS is None else view.mask_TS.to(q_BHTD.dtype)
        # Branches, not comparisons as arguments: under torch.compile sizes are symbolic, and the kernel accepts no SymBool.
        if q_BHTD.shape[2] > 1:
            y_BHTD = self.sdpa(q_BHTD, k_BKTD, v_BKTD, attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped)
            return y_BHTD.transpose(1, 2).flatten(2)
        if self.grouped and cache is not None:
            # The query heads of a group share keys and mask, so they can be the rows of one query: no grouped kernel is needed.
            rows_BKGD = q_BHTD.squeeze(2).unflatten(1, (k_BKTD.shape[1], -1))
            return self.sdpa(rows_BKGD, k_BKTD, v_BKTD, attn_mask=mask).flatten(1).unsqueeze(1)
        return self.sdpa(q_BHTD, k_BKTD, v_BKTD, attn_mask=mask, enable_gqa=self.grouped).flatten(1).unsqueeze(1)


def embedding(rows: int, width: int) -> nn.Embedding:
    """An uninitialized embedding table. `nn.Embedding` initializes it, which on the meta device costs 1.6 s of imports."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class GPT(nn.Module):
    """Base class of the built-in networks: forward(tokens, positions, cache) returns hidden states [B, T, C]."""

    def __init__(self, windows: list[int | None]) -> None:
        super().__init__()
        self.windows = windows
        """The window of each layer; None: it attends to all positions."""

    def logits(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, V]"""
        raise NotImplementedError

    def views(self, pos_T: Tensor, cache: Cache | None, dtype: torch.dtype) -> list[View]:
        """What the tokens of a pass attend to, layer by layer. Layers with the same window have the same view."""
        found: dict[int | None, View] = {}
        for window in self.windows:
            if window not in found:
                found[window] = self.view(pos_T, window, cache, dtype)
        return [found[window] for window in self.windows]

    def view(self, pos_T: Tensor, window: int | None, cache: Cache | None, dtype: torch.dtype) -> View:
        """What the tokens of a pass attend to in layers with a window, or without one."""
        if sdpa.chosen == "flex" and not isinstance(cache, CatCache):
            length = len(pos_T) if cache is None else cache.attended_len
            return View(blocks=_flex.block_mask(pos_T, length, window, from_zero=cache is None))
        return uncached_view(pos_T, window, dtype) if cache is None else cache.view(pos_T, window)


def last_position(x_BTC: Tensor) -> Tensor:
    """The last position [B, 1, C], contiguous: a CPU multiplies rows that are not contiguous one by one."""
    return x_BTC[:, -1:].contiguous()


class GPTAdapter:
    """The Adapter of the built-in architectures."""

    static_cache: type[StaticCache] = StaticCache
    cat_cache: type[CatCache] = CatCache
    kv_cache = "float"
    """how its caches store keys and values: one of KV_CACHES"""
    cross_entropy = "full"
    """how its loss is computed: one of CROSS_ENTROPIES"""

    @property
    def has_flex(self) -> bool:
        """Whether its attention can be FlexAttention."""
        return self.shape.latent_width is None

    def __init__(self, module: GPT, shape: GPTShape) -> None:
        self.module = module
        self.shape = shape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """See Adapter.forward."""
        x_BTC: Tensor = self.module(idx_BT, torch.arange(idx_BT.shape[1], device=idx_BT.device))
        if targets_BT is not None and self.cross_entropy == "chunked":
            return chunked_cross_entropy(self.module.logits, x_BTC, targets_BT)
        logits_BTV = self.module.logits(last_position(x_BTC) if last_only else x_BTC)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=-1)

    def forward_at(self, idx_BT: Tensor, places_P: Tensor) -> Tensor:
        """Logits [B, P, V] at some positions only: those of all positions of a long input do not fit in memory."""
        x_BTC = self.module(idx_BT, torch.arange(idx_BT.shape[1], device=idx_BT.device))
        return self.module.logits(x_BTC[:, places_P])

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Cache:
        """See Adapter.make_cache."""
        if kind == "static":
            make = Int8Cache if self.kv_cache == "int8" else self.static_cache
            return make(self.shape, batch_size, max_len, like=next(self.module.parameters()))
        if sdpa.chosen == "flex":
            raise Skip("flex needs a cache of fixed length, and this one grows: each length would be compiled again")
        if kind == "cat" and self.kv_cache == "float":
            return self.cat_cache(self.shape)
        name, known = ("cache", "static, cat") if self.kv_cache == "float" else (f"{self.kv_cache} cache", "static")
        raise Skip(f"{self.shape.architecture} has no {name} of kind {kind!r} (it has: {known})")

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache, last_only: bool = True) -> tuple[Tensor, Cache]:
        """See Adapter.forward_cached."""
        x_BTC = self.module(idx_BT, pos_T, cache)
        return self.module.logits(last_position(x_BTC) if last_only else x_BTC), cache

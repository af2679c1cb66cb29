"""The contract that every model meets, ours and foreign, and the two key-value caches that our own models share.

Shapes: B rows, T tokens, C width, V vocabulary, H heads, K key-value heads, D head width, S cached tokens.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import Skip
from nanobench.schema import GPTShape


class Adapter(Protocol):
    """What nanobench asks of a model. `build(**arguments)` makes one; the worker moves `module` to device and dtype."""

    module: nn.Module
    shape: GPTShape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Logits [B, T, V], or [B, 1, V] where `last_only`; with targets the mean loss (none where one is -1), a scalar."""
        ...

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """An empty cache, 'static' (preallocated for `max_len` tokens) or 'cat' (grown). Raises Skip for a kind it lacks."""
        ...

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """Logits of the new tokens at positions `pos_T`, and the cache that now holds them: the same object or a new one."""
        ...


class StaticCache:
    """Keys and values preallocated for `max_len` tokens; a step writes in place and attends over all of it, masked, or over
    as much as `attend_to` says.
    """

    def __init__(self, shape: GPTShape, batch_size: int, max_len: int, like: Tensor) -> None:
        sizes = (batch_size, shape.n_kv_head, max_len, shape.head_dim)
        self.keys_BKSD = [torch.zeros(sizes, dtype=like.dtype, device=like.device) for _ in range(shape.n_layer)]
        self.values_BKSD = [torch.zeros_like(keys) for keys in self.keys_BKSD]
        self.steps_S = torch.arange(max_len, device=like.device)
        self.seen, self.masked = max_len, True

    @property
    def tensors(self) -> list[Tensor]:
        """All that a step writes into."""
        return [*self.keys_BKSD, *self.values_BKSD]

    def attend_to(self, seen: int, masked: bool) -> None:
        """From now on a pass looks at the first `seen` positions only: unmasked, if it ends at the last of them."""
        self.seen, self.masked = seen, masked

    def mask(self, pos_T: Tensor) -> Tensor | None:
        """Additive mask [T, S]: 0 where a new token may look, -inf behind it. None for a single token that may look at all,
        and for a prompt that nothing stands before.
        """
        if not self.masked and len(pos_T) in (1, self.seen):
            return None
        hidden_TS = self.steps_S[None, : self.seen] > pos_T[:, None]
        return torch.zeros_like(hidden_TS, dtype=self.keys_BKSD[0].dtype).masked_fill_(hidden_TS, float("-inf"))

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new keys and values at `pos_T` and returns those to look at, [B, K, S, D]."""
        keys_BKSD, values_BKSD = self.keys_BKSD[layer][:, :, : self.seen], self.values_BKSD[layer][:, :, : self.seen]
        if self.masked:
            keys_BKSD.index_copy_(2, pos_T, keys_BKTD)
            values_BKSD.index_copy_(2, pos_T, values_BKTD)
        else:
            keys_BKSD[:, :, -len(pos_T) :] = keys_BKTD
            values_BKSD[:, :, -len(pos_T) :] = values_BKTD
        return keys_BKSD, values_BKSD


class CatCache:
    """Keys and values grown with torch.cat, a new tensor per layer and step: how most hand-written loops do it."""

    def __init__(self, shape: GPTShape) -> None:
        self.keys_BKSD: list[Tensor | None] = [None] * shape.n_layer
        self.values_BKSD: list[Tensor | None] = [None] * shape.n_layer

    def mask(self, pos_T: Tensor) -> Tensor | None:
        """See StaticCache.mask."""
        before = 0 if self.keys_BKSD[0] is None else self.keys_BKSD[0].shape[2]
        if len(pos_T) == 1 or not before:
            return None
        steps_S = torch.arange(before + len(pos_T), device=pos_T.device)
        return torch.where(steps_S[None, :] > pos_T[:, None], float("-inf"), 0.0)

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """Appends a layer's new keys and values and returns all of them, [B, K, S, D]."""
        keys, values = self.keys_BKSD[layer], self.values_BKSD[layer]
        keys = keys_BKTD if keys is None else torch.cat((keys, keys_BKTD), dim=2)
        values = values_BKTD if values is None else torch.cat((values, values_BKTD), dim=2)
        self.keys_BKSD[layer], self.values_BKSD[layer] = keys, values
        return keys, values


Cache = StaticCache | CatCache


class Attention(nn.Module):
    """Grouped-query attention between an architecture's projections: causal over the whole input, or over a cache."""

    look = staticmethod(F.scaled_dot_product_attention)
    """The attention itself, which a calibration times in its place."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.layer, self.grouped = layer, shape.n_head != shape.n_kv_head

    def attend(
        self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, pos_T: Tensor, cache: Cache | None, mask_TS: Tensor | None
    ) -> Tensor:
        """Attention output [B, T, C]."""
        if cache is not None:
            k_BKTD, v_BKTD = cache.append(self.layer, k_BKTD, v_BKTD, pos_T)
        mask = None if mask_TS is None else mask_TS.to(q_BHTD.dtype)
        # Branches, not comparisons as arguments: a compiler makes sizes symbols, and a kernel takes no comparison of symbols.
        if q_BHTD.shape[2] > 1:
            y_BHTD = self.look(q_BHTD, k_BKTD, v_BKTD, attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped)
            return y_BHTD.transpose(1, 2).flatten(2)
        if self.grouped and cache is not None:
            # The heads of a group see the same keys under the same mask: as rows of one query they need no grouped kernel.
            rows_BKGD = q_BHTD.squeeze(2).unflatten(1, (k_BKTD.shape[1], -1))
            return self.look(rows_BKGD, k_BKTD, v_BKTD, attn_mask=mask).flatten(1).unsqueeze(1)
        return self.look(q_BHTD, k_BKTD, v_BKTD, attn_mask=mask, enable_gqa=self.grouped).flatten(1).unsqueeze(1)


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table without values yet. `nn.Embedding` draws some, and on the meta device torch imports for 1.6 s to do so."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class GPT(nn.Module):
    """A network of ours: called with tokens, positions and a cache it gives hidden states [B, T, C]."""

    def logits(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, V]"""
        raise NotImplementedError


def last(x_BTC: Tensor) -> Tensor:
    """The last position [B, 1, C], its rows side by side: over rows that lie apart a CPU multiplies one by one."""
    return x_BTC[:, -1:].contiguous()


class GPTAdapter:
    """The Adapter of our own architectures."""

    def __init__(self, module: GPT, shape: GPTShape) -> None:
        self.module = module
        self.shape = shape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """See Adapter.forward."""
        x_BTC: Tensor = self.module(idx_BT, torch.arange(idx_BT.shape[1], device=idx_BT.device))
        logits_BTV = self.module.logits(last(x_BTC) if last_only else x_BTC)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=-1)

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Cache:
        """See Adapter.make_cache."""
        if kind == "static":
            return StaticCache(self.shape, batch_size, max_len, like=next(self.module.parameters()))
        if kind == "cat":
            return CatCache(self.shape)
        raise Skip(f"{self.shape.architecture} has no cache of kind {kind!r} (it has: static, cat)")

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache, last_only: bool = True) -> tuple[Tensor, Cache]:
        """See Adapter.forward_cached."""
        x_BTC = self.module(idx_BT, pos_T, cache)
        return self.module.logits(last(x_BTC) if last_only else x_BTC), cache

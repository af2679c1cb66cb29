"""The two KV caches of the built-in models, and what the tokens of a pass attend to in them.

Shapes: B rows, T tokens, K key-value heads, D head width, S cached tokens, W tokens of a window, R width of a latent.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from nanobench.schema import GPTShape


class View(NamedTuple):
    """What the new tokens of a pass attend to, in layers with the same window. By default: to each other, causally."""

    mask_TS: Tensor | None = None
    """additive: 0, or -inf for what is hidden"""
    last: int | None = None
    """only so many of the last positions"""
    places_W: Tensor | None = None
    """only copies of these positions: where a step is compiled or captured, the last ones are no view of fixed place"""
    blocks: BlockMask | None = None
    """the mask of FlexAttention, instead of all others"""
    has_past: bool = False
    """whether the new tokens come after others in a cache; also said of a single token"""

    def of(self, cached_BKSD: Tensor) -> Tensor:
        """The keys or values of the positions that are attended to."""
        if self.last is not None:
            return cached_BKSD[:, :, -self.last :]
        return cached_BKSD if self.places_W is None else cached_BKSD.index_select(2, self.places_W)


def additive(hidden_TS: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask that is added to scores."""
    return torch.zeros_like(hidden_TS, dtype=dtype).masked_fill_(hidden_TS, float("-inf"))


def outside(steps_S: Tensor, pos_T: Tensor, window: int) -> Tensor:
    """Which positions a token at each of `pos_T` does not attend to: those behind it, and those before its window."""
    distance_TS = pos_T[:, None] - steps_S[None, :]
    return (distance_TS < 0) | (distance_TS >= window)


def uncached_view(pos_T: Tensor, window: int | None, dtype: torch.dtype) -> View:
    """What a whole sequence attends to without a cache."""
    if window is None or window >= len(pos_T):
        return View()
    return View(additive(outside(pos_T, pos_T, window), dtype))


class StaticCache:
    """Keys and values preallocated for `max_len` tokens. A step writes in place. It attends to all positions with a mask, or to
    those set by `attend_to`. Layers with a window keep all positions, too, and attend to the last ones.

    A model with a `latent_width` keeps one latent per token instead, as a single key-value head without values.
    """

    def __init__(self, shape: GPTShape, batch_size: int, max_len: int, like: Tensor) -> None:
        heads = (shape.n_kv_head, shape.head_dim) if shape.latent_width is None else (1, shape.latent_width)
        sizes = (batch_size, heads[0], max_len, heads[1])
        self.keys_BKSD = [torch.zeros(sizes, dtype=like.dtype, device=like.device) for _ in range(shape.n_layer)]
        has_values = shape.latent_width is None
        self.values_BKSD = [torch.zeros_like(keys) for keys in self.keys_BKSD] if has_values else []
        self.steps_S = torch.arange(max_len, device=like.device)
        self.attended_len, self.masked = max_len, True

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what attention reads."""
        return self.keys_BKSD[0].dtype

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that a step writes to."""
        return [*self.keys_BKSD, *self.values_BKSD]

    @property
    def constants(self) -> list[Tensor]:
        """All tensors that a step only reads."""
        return [self.steps_S]

    def attend_to(self, length: int, masked: bool) -> None:
        """The next passes attend to the first `length` positions only; unmasked if their last token is the last of these."""
        self.attended_len, self.masked = length, masked

    def mask(self, pos_T: Tensor) -> Tensor | None:
        """Additive mask [T, S]: 0 for positions up to the new token's, -inf for later ones.

        None if no mask is needed: for a single token that attends to all positions, and for a prompt at position 0.
        """
        if not self.masked and len(pos_T) in (1, self.attended_len):
            return None
        hidden_TS = self.steps_S[None, : self.attended_len] > pos_T[:, None]
        return additive(hidden_TS, self.dtype)

    def view(self, pos_T: Tensor, window: int | None = None) -> View:
        """What tokens at `pos_T` attend to in layers with a window, or without one."""
        tokens, dtype = len(pos_T), self.dtype
        has_past = self.masked or tokens == 1 or tokens < self.attended_len
        if window is None or window >= self.attended_len:
            return View(self.mask(pos_T), has_past=has_past)
        if tokens > 1:
            hidden_TS = outside(self.steps_S[: self.attended_len], pos_T, window)
            return View(additive(hidden_TS, dtype), has_past=has_past)
        if not self.masked:
            return View(last=window, has_past=True)
        places_W = pos_T - (window - 1) + self.steps_S[:window]
        return View(additive(places_W[None, :] < 0, dtype), places_W=places_W.clamp(min=0), has_past=True)

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new keys and values at `pos_T` and returns those to attend to, [B, K, S, D]."""
        return self.write(self.keys_BKSD[layer], keys_BKTD, pos_T), self.write(self.values_BKSD[layer], values_BKTD, pos_T)

    def append_latents(self, layer: int, latents_B1TR: Tensor, pos_T: Tensor) -> Tensor:
        """Writes a layer's new latents at `pos_T` and returns those to attend to, [B, 1, S, R]."""
        return self.write(self.keys_BKSD[layer], latents_B1TR, pos_T)

    def write(self, cached_BKSD: Tensor, new_BKTD: Tensor, pos_T: Tensor) -> Tensor:
        """Writes at `pos_T` and returns the attended positions."""
        attended_BKSD = cached_BKSD[:, :, : self.attended_len]
        if self.masked:
            attended_BKSD.index_copy_(2, pos_T, new_BKTD)
        else:
            attended_BKSD[:, :, -len(pos_T) :] = new_BKTD
        return attended_BKSD


class CatCache:
    """Keys and values grown by torch.cat, with new tensors per layer and step, as in many generation scripts.

    Latents as in StaticCache.
    """

    def __init__(self, shape: GPTShape) -> None:
        self.keys_BKSD: list[Tensor | None] = [None] * shape.n_layer
        self.values_BKSD: list[Tensor | None] = [None] * (shape.n_layer if shape.latent_width is None else 0)

    @property
    def length(self) -> int:
        """Tokens in the cache, before those of the current pass."""
        return 0 if self.keys_BKSD[0] is None else self.keys_BKSD[0].shape[2]

    def mask(self, pos_T: Tensor) -> Tensor | None:
        """See StaticCache.mask."""
        before = self.length
        if len(pos_T) == 1 or not before:
            return None
        steps_S = torch.arange(before + len(pos_T), device=pos_T.device)
        return torch.where(steps_S[None, :] > pos_T[:, None], float("-inf"), 0.0)

    def view(self, pos_T: Tensor, window: int | None = None) -> View:
        """See StaticCache.view."""
        before, tokens = self.length, len(pos_T)
        has_past = tokens == 1 or before > 0
        if window is None or window >= before + tokens:
            return View(self.mask(pos_T), has_past=has_past)
        if tokens == 1:
            return View(last=window, has_past=True)
        steps_S = torch.arange(before + tokens, device=pos_T.device)
        return View(additive(outside(steps_S, pos_T, window), torch.float32), has_past=has_past)

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """Appends a layer's new keys and values and returns all of them, [B, K, S, D]."""
        self.keys_BKSD[layer] = keys_BKSD = joined(self.keys_BKSD[layer], keys_BKTD)
        self.values_BKSD[layer] = values_BKSD = joined(self.values_BKSD[layer], values_BKTD)
        return keys_BKSD, values_BKSD

    def append_latents(self, layer: int, latents_B1TR: Tensor, pos_T: Tensor) -> Tensor:
        """Appends a layer's new latents and returns all of them, [B, 1, S, R]."""
        self.keys_BKSD[layer] = latents_B1SR = joined(self.keys_BKSD[layer], latents_B1TR)
        return latents_B1SR


def joined(cached_BKSD: Tensor | None, new_BKTD: Tensor) -> Tensor:
    """Both in a new tensor; the new one itself if nothing is cached."""
    return new_BKTD if cached_BKSD is None else torch.cat((cached_BKSD, new_BKTD), dim=2)


Cache = StaticCache | CatCache

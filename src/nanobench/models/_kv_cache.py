"""The two KV caches of the built-in models.

Shapes: B rows, T tokens, K key-value heads, D head width, S cached tokens.
"""

import torch
from torch import Tensor

from nanobench.schema import GPTShape


class StaticCache:
    """Keys and values preallocated for `max_len` tokens. A step writes in place. It attends to all positions with a mask, or to
    those set by `attend_to`.
    """

    def __init__(self, shape: GPTShape, batch_size: int, max_len: int, like: Tensor) -> None:
        sizes = (batch_size, shape.n_kv_head, max_len, shape.head_dim)
        self.keys_BKSD = [torch.zeros(sizes, dtype=like.dtype, device=like.device) for _ in range(shape.n_layer)]
        self.values_BKSD = [torch.zeros_like(keys) for keys in self.keys_BKSD]
        self.steps_S = torch.arange(max_len, device=like.device)
        self.attended_len, self.masked = max_len, True

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
        return torch.zeros_like(hidden_TS, dtype=self.keys_BKSD[0].dtype).masked_fill_(hidden_TS, float("-inf"))

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new keys and values at `pos_T` and returns those to attend to, [B, K, S, D]."""
        keys_BKSD, values_BKSD = (
            self.keys_BKSD[layer][:, :, : self.attended_len],
            self.values_BKSD[layer][:, :, : self.attended_len],
        )
        if self.masked:
            keys_BKSD.index_copy_(2, pos_T, keys_BKTD)
            values_BKSD.index_copy_(2, pos_T, values_BKTD)
        else:
            keys_BKSD[:, :, -len(pos_T) :] = keys_BKTD
            values_BKSD[:, :, -len(pos_T) :] = values_BKTD
        return keys_BKSD, values_BKSD


class CatCache:
    """Keys and values grown by torch.cat, with new tensors per layer and step, as in many generation scripts."""

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

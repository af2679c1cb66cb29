"""A preallocated KV cache of int8 numbers with a scale per token and head, and the same rounding without a cache.

Attention reads what the numbers stand for, in the dtype of the model: a step turns the attended positions back into it.
Shapes as in `_kv_cache`.
"""

import torch
from torch import Tensor

from nanobench.models._kv_cache import StaticCache
from nanobench.schema import GPTShape

LEAST_SCALE = 1e-6


def to_int8(x_BKTD: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [B, K, T, D] from -127 to 127 and scales [B, K, T, 1] in the dtype of `x`."""
    scales_BKT1 = (x_BKTD.abs().amax(3, keepdim=True) / 127).clamp_min(LEAST_SCALE)
    return (x_BKTD / scales_BKT1).round().clamp(-127, 127).to(torch.int8), scales_BKT1


def from_int8(numbers_BKTD: Tensor, scales_BKT1: Tensor) -> Tensor:
    """What the numbers stand for, in the dtype of the scales."""
    return numbers_BKTD.to(scales_BKT1.dtype) * scales_BKT1


def rounded(x_BKTD: Tensor) -> Tensor:
    """Keys or values as an int8 cache gives them back."""
    return from_int8(*to_int8(x_BKTD))


class Int8Cache(StaticCache):
    """A StaticCache whose tensors are int8 numbers and their scales."""

    def __init__(self, shape: GPTShape, batch_size: int, max_len: int, like: Tensor) -> None:
        super().__init__(shape, batch_size, max_len, like)
        self.key_scales_BKS1 = [keys[..., :1].clone() for keys in self.keys_BKSD]
        self.value_scales_BKS1 = [values[..., :1].clone() for values in self.values_BKSD]
        self.keys_BKSD = [keys.to(torch.int8) for keys in self.keys_BKSD]
        self.values_BKSD = [values.to(torch.int8) for values in self.values_BKSD]

    @property
    def tensors(self) -> list[Tensor]:
        """See StaticCache.tensors."""
        return [*super().tensors, *self.key_scales_BKS1, *self.value_scales_BKS1]

    @property
    def dtype(self) -> torch.dtype:
        """See StaticCache.dtype."""
        return self.key_scales_BKS1[0].dtype

    def append(self, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor, pos_T: Tensor) -> tuple[Tensor, Tensor]:
        """See StaticCache.append. The new tokens too are attended to as the cache holds them."""
        keys_BKSD = self.write_int8(self.keys_BKSD[layer], self.key_scales_BKS1[layer], keys_BKTD, pos_T)
        return keys_BKSD, self.write_int8(self.values_BKSD[layer], self.value_scales_BKS1[layer], values_BKTD, pos_T)

    def write_int8(self, numbers_BKSD: Tensor, scales_BKS1: Tensor, new_BKTD: Tensor, pos_T: Tensor) -> Tensor:
        """Writes new keys or values, and returns those to attend to."""
        new_numbers_BKTD, new_scales_BKT1 = to_int8(new_BKTD)
        return from_int8(self.write(numbers_BKSD, new_numbers_BKTD, pos_T), self.write(scales_BKS1, new_scales_BKT1, pos_T))

"""Rotary positions: pairs of a head's dimensions are rotated by an angle that grows with the position.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding". Shapes as in `_gpt`; R is half the head
dimension.
"""

import torch
from torch import Tensor

from nanobench.errors import UserError
from nanobench.models._gpt import Attention
from nanobench.models._kv_cache import Cache, View
from nanobench.models._packed_linear import Fusible, Linear
from nanobench.schema import GPTShape


def rotations(length: int, head_dim: int, base: float) -> Tensor:
    """Cosine and sine of every position's angles, [2, length, R], computed in float64 and rounded to float32."""
    exponents_R = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles_TR = torch.arange(length, dtype=torch.float64)[:, None] * base**-exponents_R
    return torch.stack((angles_TR.cos(), angles_TR.sin())).float()


def refuse_odd_heads(head_dim: int) -> None:
    """Raises UserError for heads whose dimensions do not form pairs."""
    if head_dim % 2:
        raise UserError(f"heads are {head_dim} wide (n_embd / n_head), but rotary positions need an even width; change n_head")


def rotate(x_BHTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotates each pair (i, i + R) of a head's dimensions by the angle of its position, clockwise for a positive sine."""
    x_BHTR, y_BHTR = x_BHTD.chunk(2, dim=3)
    return torch.cat((x_BHTR * cos_TR + y_BHTR * sin_TR, y_BHTR * cos_TR - x_BHTR * sin_TR), dim=3)


class RotaryAttention(Attention, Fusible):
    """Grouped-query attention over rotated queries and keys, with a projection each and no biases."""

    fusible = ("query", "key", "value")

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__(shape, layer)
        self.head_dim = shape.head_dim
        self.query = Linear(shape.n_embd, shape.n_embd, bias=False)
        self.key = Linear(shape.n_embd, shape.n_kv_head * shape.head_dim, bias=False)
        self.value = Linear(shape.n_embd, shape.n_kv_head * shape.head_dim, bias=False)
        self.out = Linear(shape.n_embd, shape.n_embd, bias=False)

    def forward(
        self,
        x_BTC: Tensor,
        rotation_2TR: Tensor,
        pos_T: Tensor,
        cache: Cache | None,
        view: View,
        more_values_BTE: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C] -> [B, T, C]; `more_values_BTE` are added to the values of all KV heads."""
        queries_BTC, keys_BTE, values_BTE = self.project(x_BTC)
        values_BTE = values_BTE if more_values_BTE is None else values_BTE + more_values_BTE
        q, k, v = (part.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for part in (queries_BTC, keys_BTE, values_BTE))
        q, k = (self.place(x_BHTD, rotation_2TR) for x_BHTD in (q, k))
        return self.out(self.attend(q, k, v, pos_T, cache, view))

    def place(self, x_BHTD: Tensor, rotation_2TR: Tensor) -> Tensor:
        """Gives queries or keys their positions."""
        return rotate(x_BHTD, *rotation_2TR)

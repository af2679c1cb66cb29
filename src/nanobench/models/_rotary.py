"""Rotary positions: pairs of a head's dimensions are rotated by an angle that grows with the position.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding". R is half the head dimension.
"""

import torch
from torch import Tensor


def rotations(length: int, head_dim: int, base: float) -> Tensor:
    """Cosine and sine of every position's angles, [2, length, R], computed in float64 and rounded to float32."""
    exponents_R = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles_TR = torch.arange(length, dtype=torch.float64)[:, None] * base**-exponents_R
    return torch.stack((angles_TR.cos(), angles_TR.sin())).float()


def rotate(x_BHTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotates each pair (i, i + R) of a head's dimensions by the angle of its position, clockwise for a positive sine."""
    x_BHTR, y_BHTR = x_BHTD.chunk(2, dim=3)
    return torch.cat((x_BHTR * cos_TR + y_BHTR * sin_TR, y_BHTR * cos_TR - x_BHTR * sin_TR), dim=3)

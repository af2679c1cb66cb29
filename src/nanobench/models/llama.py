"""Llama: rotary positions, RMSNorm with weights before each block, a gated MLP (SwiGLU), no biases, a head tied or not.

Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models". Shapes as in `_gpt` and `_rotary`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.models._gpt import GPT, GPTAdapter, embedding
from nanobench.models._kv_cache import Cache, View
from nanobench.models._packed_linear import Linear
from nanobench.models._rotary import RotaryAttention, refuse_odd_heads, rotations
from nanobench.registry.arguments import Count
from nanobench.schema import GPTShape


@dataclass(frozen=True)
class Variant:
    """What differs between networks of this architecture, beside their sizes."""

    mlp_width: int
    tied: bool
    """whether lm_head is the table of token embeddings"""
    rotary_base: float
    norm_eps: float


class Block(nn.Module):
    """Pre-norm block: attention and a gated MLP, each with a residual connection."""

    def __init__(self, shape: GPTShape, layer: int, variant: Variant) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(shape.n_embd, eps=variant.norm_eps)
        self.attention = RotaryAttention(shape, layer)
        self.norm_2 = nn.RMSNorm(shape.n_embd, eps=variant.norm_eps)
        self.gate = Linear(shape.n_embd, variant.mlp_width, bias=False)
        self.up = Linear(shape.n_embd, variant.mlp_width, bias=False)
        self.down = Linear(variant.mlp_width, shape.n_embd, bias=False)

    def forward(self, x_BTC: Tensor, rotation_2TR: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC), rotation_2TR, pos_T, cache, view)
        normed_BTC = self.norm_2(x_BTC)
        return x_BTC + self.down(F.silu(self.gate(normed_BTC)) * self.up(normed_BTC))


class Llama(GPT):
    """The whole network: `forward` returns hidden states, `logits` maps them to the vocabulary."""

    rotations_2NR: Tensor

    def __init__(self, shape: GPTShape, variant: Variant) -> None:
        super().__init__([shape.window] * shape.n_layer)
        self.token_embedding = embedding(shape.vocab_size, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape, layer, variant) for layer in range(shape.n_layer))
        self.norm = nn.RMSNorm(shape.n_embd, eps=variant.norm_eps)
        with torch.device("meta" if variant.tied else self.token_embedding.weight.device):
            self.head = Linear(shape.n_embd, shape.vocab_size, bias=False)
        # Cosines instead of angles: `.to(bfloat16)` rounds them to 0.2 %; angles would be wrong by radians.
        cos_NR, sin_NR = rotations(shape.block_size, shape.head_dim, variant.rotary_base)
        # Llama rotates counter-clockwise.
        self.register_buffer("rotations_2NR", torch.stack((cos_NR, -sin_NR)), persistent=False)
        self.apply(initialise)
        if variant.tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, C] of tokens at positions `pos_T`."""
        x_BTC = self.token_embedding(idx_BT)
        rotation_2TR = self.rotations_2NR.index_select(1, pos_T)
        for block, view in zip(self.blocks, self.views(pos_T, cache, x_BTC.dtype), strict=True):
            x_BTC = block(x_BTC, rotation_2TR, pos_T, cache, view)
        return self.norm(x_BTC)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """See GPT.logits."""
        return self.head(x_BTC)


def initialise(module: nn.Module) -> None:
    """Normal weights that preserve the scale of activations, so that attention differs between positions."""
    if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)


def build(
    *,
    n_layer: int,
    n_head: int,
    n_embd: int,
    mlp_width: int,
    vocab_size: int,
    block_size: int,
    n_kv_head: int | None = None,
    tied: bool = False,
    rotary_base: float = 10_000.0,
    norm_eps: float = 1e-5,
    window: Count | None = None,
) -> GPTAdapter:
    """A Llama with random weights from torch's current seed. With `window`, a token attends to so many of the last tokens.

    Parameters: V C for the embedding, and for a head that is not tied; per layer C (Q + C) for attention with the joint width Q
    of query, key and value, 3 C M for the MLP and 2 C for norms; C for the last norm.
    """
    n_kv_head = n_kv_head or n_head
    head_dim = n_embd // n_head
    refuse_odd_heads(head_dim)
    table, qkv_width = vocab_size * n_embd, (n_head + 2 * n_kv_head) * head_dim
    blocks = n_layer * n_embd * (qkv_width + n_embd + 3 * mlp_width)
    norms = (2 * n_layer + 1) * n_embd
    shape = GPTShape(
        architecture="llama",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        vocab_size=vocab_size,
        block_size=block_size,
        n_params=(1 if tied else 2) * table + blocks + norms,
        matmul_params=table + blocks,
        lookup_params=0 if tied else table,
        mlp_matmuls=3,
        window=window,
    )
    with torch.no_grad():
        return GPTAdapter(Llama(shape, Variant(mlp_width, tied, rotary_base, norm_eps)), shape)

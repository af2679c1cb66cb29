"""GPT-2: learned positions, LayerNorm before each block, GELU, biases everywhere, the head tied to the embedding.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Arguments give variants: fewer KV heads than heads
(grouped-query attention), a latent instead of keys and values in the cache (multi-head latent attention), windows of attention,
no biases, and the exact GELU instead of the paper's approximation by tanh.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import UserError, unknown
from nanobench.models._gpt import GPT, Attention, GPTAdapter, embedding
from nanobench.models._kv_cache import Cache, View
from nanobench.models._latent import LatentAttention
from nanobench.models._packed_linear import Linear
from nanobench.registry.arguments import Count
from nanobench.schema import GPTShape

GELUS = ("tanh", "none")
"""Torch's approximations of GELU; `none` is exact."""


@dataclass(frozen=True)
class Variant:
    """How a network differs from the paper's."""

    bias: bool = True
    """of matmuls and norms"""
    gelu: str = "tanh"
    """one of GELUS"""


class SelfAttention(Attention):
    """Attention with one joint projection to queries, keys and values."""

    def __init__(self, shape: GPTShape, layer: int, variant: Variant) -> None:
        super().__init__(shape, layer)
        self.head_dim = shape.head_dim
        self.widths = (shape.n_embd, shape.n_kv_head * shape.head_dim, shape.n_kv_head * shape.head_dim)
        self.qkv = Linear(shape.n_embd, sum(self.widths), bias=variant.bias)
        self.out = Linear(shape.n_embd, shape.n_embd, bias=variant.bias)

    def forward(self, x_BTC: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        parts = self.qkv(x_BTC).split(self.widths, dim=2)
        q, k, v = (part.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        return self.out(self.attend(q, k, v, pos_T, cache, view))


class Block(nn.Module):
    """Pre-norm block: attention and an MLP of four times the width, each with a residual connection."""

    def __init__(self, shape: GPTShape, layer: int, variant: Variant) -> None:
        super().__init__()
        self.gelu = variant.gelu
        self.norm_1 = nn.LayerNorm(shape.n_embd, bias=variant.bias)
        self.attention: nn.Module
        if shape.latent_width is None:
            self.attention = SelfAttention(shape, layer, variant)
        else:
            self.attention = LatentAttention(shape, layer, variant.bias)
        self.norm_2 = nn.LayerNorm(shape.n_embd, bias=variant.bias)
        self.up = Linear(shape.n_embd, 4 * shape.n_embd, bias=variant.bias)
        self.down = Linear(4 * shape.n_embd, shape.n_embd, bias=variant.bias)

    def forward(self, x_BTC: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC), pos_T, cache, view)
        return x_BTC + self.down(F.gelu(self.up(self.norm_2(x_BTC)), approximate=self.gelu))


class GPT2(GPT):
    """The whole network: `forward` returns hidden states, `logits` maps them to the vocabulary."""

    def __init__(self, shape: GPTShape, variant: Variant) -> None:
        super().__init__([shape.window] * shape.n_layer)
        self.token_embedding = embedding(shape.vocab_size, shape.n_embd)
        self.position_embedding = embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape, layer, variant) for layer in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.n_embd, bias=variant.bias)
        with torch.device("meta"):
            self.head = Linear(shape.n_embd, shape.vocab_size, bias=False)
        self.apply(initialise)
        self.head.weight = self.token_embedding.weight

    def forward(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, C] of tokens at positions `pos_T`."""
        x_BTC = self.token_embedding(idx_BT) + self.position_embedding(pos_T)
        for block, view in zip(self.blocks, self.views(pos_T, cache, x_BTC.dtype), strict=True):
            x_BTC = block(x_BTC, pos_T, cache, view)
        return self.norm(x_BTC)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """See GPT.logits."""
        return self.head(x_BTC)


def initialise(module: nn.Module) -> None:
    """Normal weights of standard deviation 0.02 and zero biases, as in the paper's code."""
    if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def count_params(shape: GPTShape, variant: Variant) -> int:
    """Parameters, the tied head counted once. A layer of the paper's GPT-2 has 12 C^2 of weights, 13 C of biases and norms.

    With a latent of R values, attention has biases of the query, the latent and the output, and the R weights of a norm.
    """
    width, latent, norms = shape.n_embd, shape.latent_width, 1 + variant.bias
    biases = (shape.qkv_width if latent is None else width + latent) + 6 * width if variant.bias else 0
    layers = shape.block_params + shape.n_layer * (biases + 2 * norms * width + (latent or 0))
    return (shape.vocab_size + shape.block_size) * width + layers + norms * width


def build(
    *,
    n_layer: int,
    n_head: int,
    n_embd: int,
    vocab_size: int,
    block_size: int,
    n_kv_head: int | None = None,
    bias: bool = True,
    gelu: str | None = "tanh",
    window: Count | None = None,
    latent_width: Count | None = None,
) -> GPTAdapter:
    """A GPT-2 with random weights from torch's current seed. Raises UserError for a `gelu` that is not one of GELUS.

    With `window`, a token attends to so many of the last tokens, itself included. With `latent_width`, attention is multi-head
    latent attention.
    """
    gelu = "none" if gelu is None else gelu
    if gelu not in GELUS:
        raise unknown("gelu", str(gelu), GELUS)
    refuse_grouped_latent(latent_width, n_kv_head, n_head)
    variant = Variant(bias, gelu)
    shape = GPTShape(
        architecture="gpt2",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head or n_head,
        n_embd=n_embd,
        vocab_size=vocab_size,
        block_size=block_size,
        n_params=1,
        lookup_params=block_size * n_embd,
        window=window,
        latent_width=latent_width,
    )
    shape = replace(shape, matmul_params=shape.block_params + shape.head_params)
    shape = replace(shape, n_params=count_params(shape, variant))
    with torch.no_grad():
        return GPTAdapter(GPT2(shape, variant), shape)


def refuse_grouped_latent(width: int | None, n_kv_head: int | None, n_head: int) -> None:
    """Raises UserError for a latent beside grouped KV heads."""
    if width is not None and n_kv_head not in (None, n_head):
        raise UserError(f"n_kv_head {n_kv_head} with latent_width {width}: a latent is that of all heads; give either one")

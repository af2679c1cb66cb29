"""GPT-2: learned positions, LayerNorm before each block, GELU, biases everywhere, the head tied to the embedding.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.models._gpt import GPT, Attention, GPTAdapter, embedding
from nanobench.models._kv_cache import Cache
from nanobench.models._packed_linear import Linear
from nanobench.schema import GPTShape


class SelfAttention(Attention):
    """Attention with one joint projection to queries, keys and values."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__(shape, layer)
        self.n_head = shape.n_head
        self.qkv = Linear(shape.n_embd, 3 * shape.n_embd)
        self.out = Linear(shape.n_embd, shape.n_embd)

    def forward(self, x_BTC: Tensor, pos_T: Tensor, cache: Cache | None, mask_TS: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        q, k, v = (part.unflatten(2, (self.n_head, -1)).transpose(1, 2) for part in self.qkv(x_BTC).chunk(3, dim=2))
        return self.out(self.attend(q, k, v, pos_T, cache, mask_TS))


class Block(nn.Module):
    """Pre-norm block: attention and an MLP of four times the width, each with a residual connection."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(shape.n_embd)
        self.attention = SelfAttention(shape, layer)
        self.norm_2 = nn.LayerNorm(shape.n_embd)
        self.up = Linear(shape.n_embd, 4 * shape.n_embd)
        self.down = Linear(4 * shape.n_embd, shape.n_embd)

    def forward(self, x_BTC: Tensor, pos_T: Tensor, cache: Cache | None, mask_TS: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC), pos_T, cache, mask_TS)
        return x_BTC + self.down(F.gelu(self.up(self.norm_2(x_BTC)), approximate="tanh"))


class GPT2(GPT):
    """The whole network: `forward` returns hidden states, `logits` maps them to the vocabulary."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.token_embedding = embedding(shape.vocab_size, shape.n_embd)
        self.position_embedding = embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.n_embd)
        with torch.device("meta"):
            self.head = Linear(shape.n_embd, shape.vocab_size, bias=False)
        self.apply(initialise)
        self.head.weight = self.token_embedding.weight

    def forward(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, C] of tokens at positions `pos_T`."""
        x_BTC = self.token_embedding(idx_BT) + self.position_embedding(pos_T)
        mask_TS = None if cache is None else cache.mask(pos_T)
        for block in self.blocks:
            x_BTC = block(x_BTC, pos_T, cache, mask_TS)
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


def count_params(n_layer: int, n_embd: int, vocab_size: int, block_size: int) -> int:
    """Parameters, the tied head counted once. Per layer: 12 C^2 of weights and 13 C of biases and norms."""
    return (vocab_size + block_size) * n_embd + n_layer * (12 * n_embd**2 + 13 * n_embd) + 2 * n_embd


def build(*, n_layer: int, n_head: int, n_embd: int, vocab_size: int, block_size: int) -> GPTAdapter:
    """A GPT-2 with random weights from torch's current seed."""
    shape = GPTShape(
        architecture="gpt2",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_embd,
        vocab_size=vocab_size,
        block_size=block_size,
        n_params=count_params(n_layer, n_embd, vocab_size, block_size),
        matmul_params=vocab_size * n_embd + n_layer * 12 * n_embd**2,
        lookup_params=block_size * n_embd,
    )
    with torch.no_grad():
        return GPTAdapter(GPT2(shape), shape)

"""nanochat: rotary positions, RMSNorm without weights, normalised queries and keys, squared ReLU, no biases, an untied head.

The architecture of karpathy/nanochat as of autumn 2025. Shapes as in `_gpt` and `_rotary`. Positions rotate clockwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.models._gpt import GPT, GPTAdapter, embedding
from nanobench.models._kv_cache import Cache, View
from nanobench.models._packed_linear import Linear
from nanobench.models._rotary import RotaryAttention, rotations
from nanobench.registry.arguments import Count
from nanobench.schema import GPTShape

ROTARY_BASE = 10_000
LOGIT_CAP = 15.0


def normalise(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, with a fixed epsilon because torch's default depends on the dtype."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class SelfAttention(RotaryAttention):
    """Grouped-query attention with RMSNorm on queries and keys."""

    def place(self, x_BHTD: Tensor, rotation_2TR: Tensor) -> Tensor:
        """See RotaryAttention.place."""
        return normalise(super().place(x_BHTD, rotation_2TR))


class Block(nn.Module):
    """Pre-norm block: attention and an MLP of four times the width, each with a residual connection."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(shape, layer)
        self.up = Linear(shape.n_embd, 4 * shape.n_embd, bias=False)
        self.down = Linear(4 * shape.n_embd, shape.n_embd, bias=False)

    def forward(self, x_BTC: Tensor, rotation_2TR: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        x_BTC = x_BTC + self.attention(normalise(x_BTC), rotation_2TR, pos_T, cache, view)
        return x_BTC + self.down(F.relu(self.up(normalise(x_BTC))).square())


class Nanochat(GPT):
    """The whole network: `forward` returns hidden states, `logits` maps them to the vocabulary."""

    rotations_2NR: Tensor

    def __init__(self, shape: GPTShape) -> None:
        super().__init__([shape.window] * shape.n_layer)
        self.token_embedding = embedding(shape.vocab_size, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.head = Linear(shape.n_embd, shape.vocab_size, bias=False)
        # Cosines instead of angles: `.to(bfloat16)` rounds them to 0.2 %, as in nanochat; angles would be wrong by radians.
        self.register_buffer("rotations_2NR", rotations(shape.block_size, shape.head_dim, ROTARY_BASE), persistent=False)
        self.apply(initialise)

    def forward(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, C] of tokens at positions `pos_T`."""
        x_BTC = normalise(self.token_embedding(idx_BT))
        rotation_2TR = self.rotations_2NR.index_select(1, pos_T)
        for block, view in zip(self.blocks, self.views(pos_T, cache, x_BTC.dtype), strict=True):
            x_BTC = block(x_BTC, rotation_2TR, pos_T, cache, view)
        return normalise(x_BTC)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, V], soft-capped to +-15."""
        return LOGIT_CAP * torch.tanh(self.head(x_BTC) / LOGIT_CAP)


def initialise(module: nn.Module) -> None:
    """Normal weights that preserve the scale of activations, so that logits differ; nanochat's own head starts at zero."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    if isinstance(module, nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight)


def count_params(n_layer: int, n_head: int, n_kv_head: int, n_embd: int, vocab_size: int) -> int:
    """Parameters: 2 V C for embedding and head; per layer 10 C^2, and 2 C K D for keys and values."""
    return 2 * vocab_size * n_embd + n_layer * (10 * n_embd**2 + 2 * n_embd * n_kv_head * (n_embd // n_head))


def build(
    *, n_layer: int, n_head: int, n_kv_head: int, n_embd: int, vocab_size: int, block_size: int, window: Count | None = None
) -> GPTAdapter:
    """A nanochat with random weights from torch's current seed. With `window` a token attends to the last tokens only."""
    shape = GPTShape(
        architecture="nanochat",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        vocab_size=vocab_size,
        block_size=block_size,
        n_params=count_params(n_layer, n_head, n_kv_head, n_embd, vocab_size),
        matmul_params=count_params(n_layer, n_head, n_kv_head, n_embd, vocab_size) - vocab_size * n_embd,
        lookup_params=vocab_size * n_embd,
        window=window,
    )
    with torch.no_grad():
        return GPTAdapter(Nanochat(shape), shape)

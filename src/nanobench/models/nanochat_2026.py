"""nanochat of 2026: windows in most layers, value embeddings with gates, smear, backout, scaled residuals, a padded vocabulary.

The architecture of karpathy/nanochat as of July 2026 (commit 92d63d4). It differs from `nanochat` in this:
- Layers attend in a repeated pattern of S (short: a window) and L (long: all positions). The last layer is always L.
- In every second layer, also in the last, a table gives each token a value besides the projected one. A gate per KV head,
  computed from the first channels of the input, says how much of it is added.
- Smear: the embedding of the token before is added to each token's, as far as a gate says. So a cache keeps the tokens, too.
- The residual stream is scaled before each block, and some of the first embedding is added.
- Backout: some of the residual stream in the middle of the network is subtracted at its end.
- Normalised queries and keys are scaled, positions rotate more slowly, and the vocabulary has padded rows.

Shapes as in `_gpt` and `_rotary`. Positions rotate clockwise.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import UserError
from nanobench.models._gpt import GPT, GPTAdapter, embedding
from nanobench.models._kv_cache import Cache, CatCache, StaticCache, View
from nanobench.models._packed_linear import Linear
from nanobench.models._rotary import RotaryAttention, refuse_odd_heads, rotations
from nanobench.registry.arguments import Count
from nanobench.schema import GPTShape

ROTARY_BASE = 100_000
LOGIT_CAP = 15.0
QK_SCALE = 1.2
"""of queries and of keys, after they are normalised"""
VALUE_GATE, VALUE_GATE_CHANNELS = 3.0, 12
"""The largest share of a value embedding, and the channels that its gate reads."""
SMEAR_CHANNELS = 24
"""The channels that the gate of the smear reads."""
PADDED_TO = 64
"""Tables and lm_head have a multiple of so many rows."""
PATTERN = "SSSL"
WINDOW_TILE = 128
"""A short window is a quarter of the positions before a token, rounded up to a multiple of this."""


@dataclass(frozen=True)
class Sizes:
    """What differs between networks of this architecture, beside their GPTShape."""

    windows: tuple[int | None, ...]
    """of each layer"""
    rows: int
    """of tables and lm_head"""


def short_window(positions: int) -> int:
    """Positions that a layer of type S attends to, the token's own included, in a model for so many positions."""
    return -(-positions // 4 // WINDOW_TILE) * WINDOW_TILE + 1


def normalise(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, with torch's default epsilon for the dtype, as in nanochat."""
    return F.rms_norm(x, x.shape[-1:])


def has_value_embedding(layer: int, layers: int) -> bool:
    """Every second layer has one, and the last layer is among them."""
    return layer % 2 == (layers - 1) % 2


# Caches
class StaticTokenCache(StaticCache):
    """A static cache that keeps the tokens of its positions, too."""

    def __init__(self, shape: GPTShape, batch_size: int, max_len: int, like: Tensor) -> None:
        super().__init__(shape, batch_size, max_len, like)
        self.tokens_BS = torch.zeros((batch_size, max_len), dtype=torch.long, device=like.device)

    @property
    def tensors(self) -> list[Tensor]:
        """See StaticCache.tensors."""
        return [*super().tensors, self.tokens_BS]

    def with_previous(self, idx_BT: Tensor, pos_T: Tensor) -> Tensor:
        """Keeps the new tokens and puts the one before them in front, [B, T + 1]; at position 0 there is any token."""
        if self.masked:
            self.tokens_BS.index_copy_(1, pos_T, idx_BT)
            previous_B1 = self.tokens_BS.index_select(1, (pos_T[:1] - 1).clamp(min=0))
        else:
            start = self.attended_len - len(pos_T)
            self.tokens_BS[:, start : self.attended_len] = idx_BT
            before = max(0, start - 1)
            previous_B1 = self.tokens_BS[:, before : before + 1]
        return torch.cat((previous_B1, idx_BT), dim=1)


class CatTokenCache(CatCache):
    """A growing cache that keeps the newest token, too."""

    last_B1: Tensor | None = None

    def with_previous(self, idx_BT: Tensor, pos_T: Tensor) -> Tensor:
        """See StaticTokenCache.with_previous."""
        previous_B1 = idx_BT[:, :1] if self.last_B1 is None else self.last_B1
        self.last_B1 = idx_BT[:, -1:].clone()
        return torch.cat((previous_B1, idx_BT), dim=1)


# The network
class SelfAttention(RotaryAttention):
    """Grouped-query attention with scaled RMSNorm on queries and keys, and in some layers a value embedding per token."""

    def __init__(self, shape: GPTShape, layer: int, rows: int) -> None:
        super().__init__(shape, layer)
        self.has_values = has_value_embedding(layer, shape.n_layer)
        if self.has_values:
            self.value_embedding = embedding(rows, shape.n_kv_head * shape.head_dim)
            self.value_gate = nn.Linear(VALUE_GATE_CHANNELS, shape.n_kv_head, bias=False)

    def place(self, x_BHTD: Tensor, rotation_2TR: Tensor) -> Tensor:
        """See RotaryAttention.place."""
        return normalise(super().place(x_BHTD, rotation_2TR)) * QK_SCALE

    def more_values(self, x_BTC: Tensor, idx_BT: Tensor) -> Tensor | None:
        """What value embeddings add to the values of all KV heads, [B, T, K D]; None in a layer without."""
        if not self.has_values:
            return None
        gate_BTK = VALUE_GATE * torch.sigmoid(self.value_gate(x_BTC[..., :VALUE_GATE_CHANNELS]))
        table_BTKD = self.value_embedding(idx_BT).unflatten(2, (-1, self.head_dim))
        return (gate_BTK.unsqueeze(3) * table_BTKD).flatten(2)


class Block(nn.Module):
    """Pre-norm block: attention and an MLP of four times the width, each with a residual connection."""

    def __init__(self, shape: GPTShape, layer: int, rows: int) -> None:
        super().__init__()
        self.attention = SelfAttention(shape, layer, rows)
        self.up = Linear(shape.n_embd, 4 * shape.n_embd, bias=False)
        self.down = Linear(4 * shape.n_embd, shape.n_embd, bias=False)

    def forward(
        self,
        x_BTC: Tensor,
        idx_BT: Tensor,
        rotation_2TR: Tensor,
        pos_T: Tensor,
        cache: Cache | None,
        view: View,
    ) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        normed_BTC = normalise(x_BTC)
        more_values_BTE = self.attention.more_values(normed_BTC, idx_BT)
        x_BTC = x_BTC + self.attention(normed_BTC, rotation_2TR, pos_T, cache, view, more_values_BTE)
        return x_BTC + self.down(F.relu(self.up(normalise(x_BTC))).square())


class Nanochat(GPT):
    """The whole network: `forward` returns hidden states, `logits` maps them to the vocabulary."""

    rotations_2NR: Tensor

    def __init__(self, shape: GPTShape, sizes: Sizes) -> None:
        super().__init__(list(sizes.windows))
        self.vocab_size, self.is_padded = shape.vocab_size, sizes.rows != shape.vocab_size
        self.token_embedding = embedding(sizes.rows, shape.n_embd)
        self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
        self.smear_scale = nn.Parameter(torch.full((1,), 0.3))
        self.blocks = nn.ModuleList(Block(shape, layer, sizes.rows) for layer in range(shape.n_layer))
        self.residual_scales = nn.Parameter(torch.linspace(1.15, 1.05, shape.n_layer))
        self.first_scales = nn.Parameter(torch.linspace(0.20, 0.05, shape.n_layer))
        self.backout_scale = nn.Parameter(torch.full((1,), 0.2))
        self.head = Linear(shape.n_embd, sizes.rows, bias=False)
        # Cosines instead of angles: `.to(bfloat16)` rounds them to 0.2 %, as in nanochat; angles would be wrong by radians.
        self.register_buffer("rotations_2NR", rotations(shape.block_size, shape.head_dim, ROTARY_BASE), persistent=False)
        self.apply(initialise)

    def forward(self, idx_BT: Tensor, pos_T: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, C] of tokens at positions `pos_T`."""
        first_BTC = self.embed(idx_BT, pos_T, cache)
        x_BTC, middle_BTC = first_BTC, first_BTC
        rotation_2TR = self.rotations_2NR.index_select(1, pos_T)
        views = self.views(pos_T, cache, x_BTC.dtype)
        for layer, (block, view) in enumerate(zip(self.blocks, views, strict=True)):
            x_BTC = self.residual_scales[layer] * x_BTC + self.first_scales[layer] * first_BTC
            x_BTC = block(x_BTC, idx_BT, rotation_2TR, pos_T, cache, view)
            if layer == len(views) // 2:
                middle_BTC = x_BTC
        return normalise(x_BTC - self.backout_scale * middle_BTC)

    def embed(self, idx_BT: Tensor, pos_T: Tensor, cache: Any) -> Tensor:
        """Normalised embeddings with the smear [B, T, C]; the first position has no token before it."""
        if cache is None:
            tokens_BTC = normalise(self.token_embedding(idx_BT))
            x_BTC, previous_BTC = tokens_BTC, torch.cat((tokens_BTC[:, :1], tokens_BTC[:, :-1]), dim=1)
        else:
            tokens_BTC = normalise(self.token_embedding(cache.with_previous(idx_BT, pos_T)))
            x_BTC, previous_BTC = tokens_BTC[:, 1:], tokens_BTC[:, :-1]
        gate_BT1 = self.smear_scale * torch.sigmoid(self.smear_gate(x_BTC[..., :SMEAR_CHANNELS]))
        return x_BTC + (gate_BT1 * (pos_T > 0).unsqueeze(1)) * previous_BTC

    def logits(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, V], without those of padding, soft-capped to +-15; at least in float32."""
        logits_BTV = self.head(x_BTC)
        if self.is_padded:
            logits_BTV = logits_BTV[..., : self.vocab_size]
        logits_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
        return LOGIT_CAP * torch.tanh(logits_BTV / LOGIT_CAP)


class NanochatAdapter(GPTAdapter):
    """Its caches keep tokens."""

    static_cache, cat_cache = StaticTokenCache, CatTokenCache


def initialise(module: nn.Module) -> None:
    """Normal weights that preserve the scale of activations; nanochat's own projections and its smear start at zero."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    if isinstance(module, nn.Embedding) and not module.weight.is_meta:
        nn.init.normal_(module.weight)


# Sizes
def windows_of(pattern: str, layers: int, window: int | None) -> tuple[int | None, ...]:
    """The window of each layer. Raises UserError for a pattern with other letters than S and L."""
    if not pattern or set(pattern.upper()) - {"S", "L"}:
        raise UserError(f"window_pattern {pattern!r} is not made of S (short) and L (long); write it like window_pattern=SSSL")
    kinds = [pattern.upper()[layer % len(pattern)] for layer in range(layers)]
    return (*(window if kind == "S" else None for kind in kinds[:-1]), None)


def build(
    *,
    n_layer: int,
    n_head: int,
    n_kv_head: int,
    n_embd: int,
    vocab_size: int,
    block_size: int,
    window: Count | None = None,
    window_pattern: str = PATTERN,
) -> GPTAdapter:
    """A nanochat of 2026 with random weights from torch's current seed.

    `window`: positions that layers of type S attend to; without it all layers attend to all positions.

    Parameters: 2 R C for embedding and head of R rows; per layer 2 C^2 + 2 C Q for attention with KV heads of the width Q,
    8 C^2 for the MLP and 2 scalars; R Q + 12 K for every value embedding and its gate; 24 + 2 for smear and backout.
    """
    head_dim, rows = n_embd // n_head, -(-vocab_size // PADDED_TO) * PADDED_TO
    refuse_odd_heads(head_dim)
    if n_embd < SMEAR_CHANNELS:
        raise UserError(f"n_embd {n_embd} is below {SMEAR_CHANNELS}, the channels that a gate reads; give a larger n_embd")
    windows = windows_of(str(window_pattern), n_layer, window)
    tables = sum(has_value_embedding(layer, n_layer) for layer in range(n_layer))
    windowed, kv_width = sum(each is not None for each in windows), n_kv_head * head_dim
    shape = GPTShape(
        architecture="nanochat-2026",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        vocab_size=vocab_size,
        block_size=block_size,
        n_params=1,
        window=window if windowed else None,
        windowed_layers=windowed or None,
        gate_params=SMEAR_CHANNELS + tables * VALUE_GATE_CHANNELS * n_kv_head,
        lookup_params=rows * (n_embd + tables * kv_width),
        lookup_width=n_embd + tables * kv_width,
        vocab_rows=None if rows == vocab_size else rows,
    )
    matmuls = shape.block_params + (shape.gate_params or 0) + shape.head_params
    scalars = 2 * n_layer + 2
    shape = replace(shape, matmul_params=matmuls, n_params=matmuls + (shape.lookup_params or 0) + scalars)
    with torch.no_grad():
        return NanochatAdapter(Nanochat(shape, Sizes(windows, rows)), shape)

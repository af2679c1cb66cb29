"""Multi-head latent attention (MLA): a cache keeps one latent per token, from which all heads compute their keys and values.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1, without rotary positions (the GPT-2 around it has learned ones) and without a
latent for queries. Over a cache, keys and values are never computed: with key = U latent, the score of a query q is q U latent,
so that U is multiplied with the query instead; the up-projection of values follows attention in the same way.

Shapes as in `_gpt`; R is the width of a latent.
"""

import torch
from torch import Tensor, nn

from nanobench.models._gpt import Attention
from nanobench.models._kv_cache import Cache, View
from nanobench.models._packed_linear import Linear
from nanobench.schema import GPTShape


class LatentAttention(Attention):
    """Attention over latents: expanded to keys and values for a whole input, used as they are over a cache."""

    def __init__(self, shape: GPTShape, layer: int, bias: bool) -> None:
        super().__init__(shape, layer)
        assert shape.latent_width is not None
        self.n_head, self.scale = shape.n_head, shape.head_dim**-0.5
        self.query = Linear(shape.n_embd, shape.attention_width, bias=bias)
        self.latent = Linear(shape.n_embd, shape.latent_width, bias=bias)
        self.norm = nn.RMSNorm(shape.latent_width, eps=1e-6)
        self.key = Linear(shape.latent_width, shape.attention_width, bias=False)
        self.value = Linear(shape.latent_width, shape.attention_width, bias=False)
        self.out = Linear(shape.attention_width, shape.n_embd, bias=bias)

    def forward(self, x_BTC: Tensor, pos_T: Tensor, cache: Cache | None, view: View) -> Tensor:
        """[B, T, C] -> [B, T, C]"""
        q_BHTD, latents_BTR = self.split(self.query(x_BTC)), self.norm(self.latent(x_BTC))
        cached_B1SR = None if cache is None else cache.append_latents(self.layer, latents_BTR.unsqueeze(1), pos_T)
        if cached_B1SR is not None and view.has_past:
            return self.out(self.attend_to_latents(q_BHTD, view.of(cached_B1SR), view))
        k_BHTD, v_BHTD = self.split(self.key(latents_BTR)), self.split(self.value(latents_BTR))
        return self.out(self.attend(q_BHTD, k_BHTD, v_BHTD, pos_T, None, view))

    def split(self, x_BTC: Tensor) -> Tensor:
        """[B, T, H D] -> [B, H, T, D]"""
        return x_BTC.unflatten(2, (self.n_head, -1)).transpose(1, 2)

    def attend_to_latents(self, q_BHTD: Tensor, latents_B1SR: Tensor, view: View) -> Tensor:
        """Attention output [B, T, C]. All heads share the latents, which are keys and values at once."""
        key_HDR, value_HDR = (each.weight.unflatten(0, (self.n_head, -1)) for each in (self.key, self.value))
        q_BHTR = torch.einsum("bhtd,hdr->bhtr", q_BHTD, key_HDR)
        mask = None if view.mask_TS is None else view.mask_TS.to(q_BHTR.dtype)
        if q_BHTR.shape[2] > 1:
            y_BHTR = self.sdpa(q_BHTR, latents_B1SR, latents_B1SR, attn_mask=mask, scale=self.scale, enable_gqa=True)
        else:
            # The heads are the rows of one query.
            y_B1HR = self.sdpa(q_BHTR.transpose(1, 2), latents_B1SR, latents_B1SR, attn_mask=mask, scale=self.scale)
            y_BHTR = y_B1HR.transpose(1, 2)
        return torch.einsum("bhtr,hdr->bthd", y_BHTR, value_HDR).flatten(2)

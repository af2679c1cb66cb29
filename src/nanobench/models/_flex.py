"""FlexAttention: torch compiles the mask into the kernel, which reads only the blocks of keys that a query may attend to.

Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels". How many blocks are read is
computed on the device from the position: one compiled step serves all lengths.

Shapes: B rows, H heads, K key-value heads, D head width, T new tokens, S cached tokens; Q blocks of new tokens, N blocks of
cached tokens.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BITS = 7
"""A position without its last BITS bits is the number of its block. Inductor's CPU kernel cannot divide here (torch 2.13)."""
BLOCK = 1 << BITS
"""Tokens of a block: 128, torch's default."""

FORWARD: dict[str, Any] = (
    {"compute_q_blocks": False} if "compute_q_blocks" in inspect.signature(BlockMask.from_kv_blocks).parameters else {}
)
"""Arguments of a mask that no backward pass needs; before torch 2.9 there are none."""


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, blocks: BlockMask, grouped: bool, cached: bool) -> Tensor:
    """Attention output [B, H, T, D]. Keys and values are those of a cache, or else views of a larger tensor."""
    # Inductor's CPU kernel (torch 2.13) fails for queries that are a view, and reads a view's first element at the wrong place.
    scaled_BHTD = (q_BHTD * q_BHTD.shape[-1] ** -0.5).to(v_BKSD.dtype)
    k_BKSD = k_BKSD.to(v_BKSD.dtype)
    if not cached and q_BHTD.device.type == "cpu":
        k_BKSD, v_BKSD = k_BKSD.clone(), v_BKSD.clone()
    return flex_attention(scaled_BHTD, k_BKSD, v_BKSD, block_mask=blocks, scale=1.0, enable_gqa=grouped)


def block_mask(pos_T: Tensor, length: int, window: int | None, from_zero: bool = False) -> BlockMask:
    """What new tokens at consecutive positions attend to among `length` tokens: those up to themselves, within the window.

    Blocks that all new tokens of a block attend to need no mask. Positions that begin at 0 are not read by the mask.
    """
    blocks_N = torch.arange(-(-length // BLOCK), device=pos_T.device)
    starts_Q = pos_T[::BLOCK]
    ends_Q = (starts_Q + BLOCK - 1).minimum(pos_T[-1])
    first_Q, full_Q, behind_Q = torch.zeros_like(starts_Q), torch.zeros_like(starts_Q), (starts_Q + 1) >> BITS
    if window is not None:
        first_Q = (starts_Q - (window - 1)).clamp(min=0) >> BITS
        full_Q = ((ends_Q - (window - 1)).clamp(min=0) + BLOCK - 1) >> BITS
        behind_Q = behind_Q.maximum(full_Q)
    before_Q1, full_Q1, behind_Q1 = (full_Q - first_Q)[:, None], full_Q[:, None], behind_Q[:, None]
    masked_QN = torch.where(blocks_N < before_Q1, first_Q[:, None] + blocks_N, behind_Q1 + blocks_N - before_Q1)

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = (query if from_zero else pos_T[query]) - key
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)

    return BlockMask.from_kv_blocks(
        numbers((ends_Q >> BITS) + 1 - first_Q - (behind_Q - full_Q)),
        indices(masked_QN),
        numbers(behind_Q - full_Q),
        indices(full_Q1 + blocks_N),
        BLOCK_SIZE=BLOCK,
        mask_mod=attends,
        seq_lengths=(len(pos_T), length),
        **({} if torch.is_grad_enabled() else FORWARD),
    )


def numbers(count_Q: Tensor) -> Tensor:
    """How many blocks each block of new tokens reads, as BlockMask takes it: for all rows and heads."""
    return count_Q.to(torch.int32)[None, None]


def indices(blocks_QN: Tensor) -> Tensor:
    """Which blocks these are. Those behind their number are not read, but must be valid."""
    return blocks_QN.clamp(max=blocks_QN.shape[1] - 1).to(torch.int32)[None, None]

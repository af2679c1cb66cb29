"""Cross entropy in chunks: the logits of a whole batch are never in memory at once (torchtune's CEWithChunkedOutputLoss).

Shapes: B rows, T tokens, N tokens of a chunk, C width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNKS = 8
"""As torchtune's default."""


def chunked_cross_entropy(logits: Callable[[Tensor], Tensor], x_BTC: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean loss over the targets that are not -1, a scalar. The backward pass computes the logits of each chunk again."""

    def summed(x_NC: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy(logits(x_NC).float(), targets_N, ignore_index=-1, reduction="sum")

    rows = -(-targets_BT.numel() // CHUNKS)
    chunks = zip(x_BTC.flatten(0, 1).split(rows), targets_BT.flatten().split(rows), strict=True)
    losses = [checkpoint(summed, x_NC, targets_N, use_reentrant=False) for x_NC, targets_N in chunks]
    return torch.stack(losses).sum() / (targets_BT != -1).sum()

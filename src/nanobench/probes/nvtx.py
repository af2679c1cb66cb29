"""Named ranges for Nsight, where they were asked for."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Span = Callable[[str], AbstractContextManager[Any]]


def spans(asked: bool) -> Span:
    """Opens a range of NVTX's around gate, warm-up, prefill and decode; does nothing unless asked."""
    return torch.cuda.nvtx.range if asked else lambda name: nullcontext()

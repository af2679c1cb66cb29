"""Named NVTX ranges for NVIDIA Nsight, if enabled."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

NvtxRange = Callable[[str], AbstractContextManager[Any]]


def nvtx_ranges(enabled: bool) -> NvtxRange:
    """A function that opens an NVTX range of a given name (gate, warm-up, prefill, decode); it does nothing unless enabled."""
    return torch.cuda.nvtx.range if enabled else lambda name: nullcontext()

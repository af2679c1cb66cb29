"""A linear layer that multiplies, for inference on a CPU, by weights laid out as oneDNN's kernels read them.

`F.linear` hands float32 to another library on most CPUs, which is slower with few rows, and slower still on a CPU that it
was not written for: tests/bench/packed_weights.py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_MULTIPLY_ADDS = 1_000_000
"""Multiply-adds below which oneDNN's greater cost of a call is not won back."""
MIN_ROWS = 4
"""oneDNN's kernels for a single row read memory more slowly than those for four."""


class Linear(nn.Linear):
    """As `nn.Linear`; after `pack()` it keeps a second copy of its weights."""

    packed: Tensor | None = None

    def pack(self) -> None:
        """Lays the weights out anew where oneDNN multiplies their dtype on this CPU, else does nothing.

        Weights that change in place afterwards are not seen; weights that move or are copied lose their second copy.
        """
        if self.weight.device.type == "cpu" and is_packable(self.weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], by the packed weights where there are any and the work is worth it."""
        rows = math.prod(x.shape[:-1])
        # A single row waits for memory twice as long as its multiply-adds would tell.
        if self.packed is None or max(2, rows) * self.in_features * self.out_features < MIN_MULTIPLY_ADDS:
            return F.linear(x, self.weight, self.bias)
        if rows > 1:
            return multiply(x, self.packed, self.bias)
        padded = x.reshape(1, -1).expand(MIN_ROWS, -1).contiguous()
        return multiply(padded, self.packed, self.bias)[0].view(*x.shape[:-1], -1)

    def _apply(self, fn: Any, recurse: bool = True) -> "Linear":
        self.packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None}


def pack(module: nn.Module) -> None:
    """Packs every layer of a model that knows how."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.pack()


def packed_layers(module: nn.Module) -> list[Linear]:
    """Those that keep a second copy."""
    return [part for part in module.modules() if isinstance(part, Linear) and part.packed is not None]


def packed_bytes(module: nn.Module) -> int:
    """Bytes of the second copies."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in packed_layers(module))


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """While it lasts every layer multiplies as torch does."""
    layers = packed_layers(module)
    copies = [layer.packed for layer in layers]
    try:
        for layer in layers:
            layer.packed = None
        yield
    finally:
        for layer, packed in zip(layers, copies, strict=True):
            layer.packed = packed


def is_packable(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies a dtype on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """[..., in] -> [..., out]"""
    if torch.compiler.is_compiling():
        return torch.ops.nanobench.packed_linear(x, packed, bias)
    return by_onednn(x, packed, bias)


def by_onednn(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's own operator."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


# Inductor lowers oneDNN's operator only where it has packed the weights itself; one that it does not know it just calls.
torch.library.define("nanobench::packed_linear", "(Tensor x, Tensor packed, Tensor? bias) -> Tensor")

torch.library.impl("nanobench::packed_linear", "CompositeExplicitAutograd", by_onednn)


@torch.library.register_fake("nanobench::packed_linear")
def result_like(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The shape of the result, for tracing."""
    return x.new_empty(*x.shape[:-1], packed.shape[0])

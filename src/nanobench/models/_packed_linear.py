"""A linear layer that, for inference on a CPU, can use weights in oneDNN's packed layout.

On most CPUs `F.linear` calls another library for float32. It is slower for few rows, and slower still on CPUs that it is not
optimized for: see tests/bench/packed_weights.py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_MULTIPLY_ADDS = 1_000_000
"""Multiply-adds below which oneDNN's higher cost per call outweighs its faster kernel."""
MIN_ROWS = 4
"""A single row is padded to this many: oneDNN's kernel for one row reads memory more slowly."""


class Linear(nn.Linear):
    """`nn.Linear` with an optional second copy of the weights in oneDNN's packed layout."""

    packed: Tensor | None = None

    def pack(self) -> None:
        """Creates the packed copy if oneDNN supports the dtype on this CPU; does nothing otherwise.

        The copy does not follow later in-place changes of the weights. It is dropped when the layer is moved or copied.
        """
        if self.weight.device.type == "cpu" and is_packable(self.weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], with the packed weights if they exist and the work is large enough."""
        rows = math.prod(x.shape[:-1])
        # A single row counts as two: it is limited by memory, not by multiply-adds.
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
    """Packs every Linear of a model."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.pack()


def packed_layers(module: nn.Module) -> list[Linear]:
    """The layers that have a packed copy."""
    return [part for part in module.modules() if isinstance(part, Linear) and part.packed is not None]


def packed_bytes(module: nn.Module) -> int:
    """Bytes of all packed copies."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in packed_layers(module))


def share_packed(module: nn.Module, twin: nn.Module) -> None:
    """Gives the layers of a copy with the same tensors the packed copies of their originals."""
    originals = {layer.weight.data_ptr(): layer.packed for layer in packed_layers(module)}
    for part in twin.modules():
        if isinstance(part, Linear):
            part.packed = originals.get(part.weight.data_ptr())


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Within the context, every layer uses its original weights."""
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
    """Whether oneDNN supports matmuls of a dtype on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """[..., in] -> [..., out], as a custom operator under torch.compile."""
    if torch.compiler.is_compiling():
        return torch.ops.nanobench.packed_linear(x, packed, bias)
    return by_onednn(x, packed, bias)


def by_onednn(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's own operator."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


# Inductor accepts oneDNN's operator only for weights that it has packed itself; a custom operator is called as it is.
torch.library.define("nanobench::packed_linear", "(Tensor x, Tensor packed, Tensor? bias) -> Tensor")

torch.library.impl("nanobench::packed_linear", "CompositeExplicitAutograd", by_onednn)


@torch.library.register_fake("nanobench::packed_linear")
def result_like(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The shape of the result, for tracing."""
    return x.new_empty(*x.shape[:-1], packed.shape[0])

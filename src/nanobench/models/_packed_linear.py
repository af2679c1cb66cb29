"""How linear layers are prepared for inference: on a CPU by weights in oneDNN's packed layout, anywhere by fusing layers.

On most CPUs `F.linear` calls another library for float32. It is slower for few rows, and slower still on CPUs that it is not
optimized for: see tests/bench/packed_weights.py. Layers with the same input are fused into one matmul: for few rows a matmul
costs more to start than to compute.
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


class Fusible(nn.Module):
    """A module with Linears over the same input, without biases, whose names are in `fusible`."""

    fusible: tuple[str, ...]
    fused: Linear | None = None
    """all of them as one, whose rows are their weights"""

    @property
    def fusible_layers(self) -> list[nn.Module]:
        """The layers that become one."""
        return [getattr(self, name) for name in self.fusible]

    def use(self, fused: Linear | None) -> None:
        """Uses one layer for all of them, or each alone. It is no part of the module tree: a weight is there once."""
        self.__dict__["fused"] = fused

    def fuse(self) -> None:
        """Puts the weights of the layers into one matrix; each layer keeps its rows of it. Does nothing for other layers than
        Linears. It is undone when the module is moved or copied.
        """
        layers = [layer for layer in self.fusible_layers if type(layer) is Linear]
        if self.fused is not None or len(layers) < len(self.fusible):
            return
        with torch.inference_mode(False), torch.no_grad():
            weight = torch.cat([layer.weight for layer in layers])
            with torch.device("meta"):
                fused = Linear(weight.shape[1], weight.shape[0], bias=False)
            fused.weight = nn.Parameter(weight, requires_grad=False)
            for layer, rows in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
                layer.weight.data = rows
        self.use(fused)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """[..., in] -> [..., out] of each layer."""
        if self.fused is None:
            return tuple(layer(x) for layer in self.fusible_layers)
        return self.fused(x).split([layer.out_features for layer in self.fusible_layers], dim=-1)

    def _apply(self, fn: Any, recurse: bool = True) -> "Fusible":
        self.use(None)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "fused": None}


def pack(module: nn.Module) -> None:
    """Fuses the layers of a model that can be, and packs all of its Linears."""
    for part in fusible_parts(module).values():
        part.fuse()
    for layer in linears(module):
        layer.pack()


def fusible_parts(module: nn.Module) -> dict[str, Fusible]:
    """The parts of a model that have layers to fuse, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Fusible)}


def linears(module: nn.Module) -> list[Linear]:
    """The layers of a model that multiply: its Linears, of those that are fused only the fused one."""
    fused = {id(layer) for part in fusible_parts(module).values() if part.fused for layer in part.fusible_layers}
    alone = [part for part in module.modules() if isinstance(part, Linear) and id(part) not in fused]
    return [*alone, *(part.fused for part in fusible_parts(module).values() if part.fused)]


def packed_layers(module: nn.Module) -> list[Linear]:
    """The layers that have a packed copy."""
    return [layer for layer in linears(module) if layer.packed is not None]


def packed_bytes(module: nn.Module) -> int:
    """Bytes of all packed copies."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in packed_layers(module))


def share_packed(module: nn.Module, twin: nn.Module) -> None:
    """Gives the layers of a copy with the same tensors the packed copies of their originals, and fuses the same ones."""
    originals = fusible_parts(module)
    for name, part in fusible_parts(twin).items():
        if all(type(layer) is Linear for layer in part.fusible_layers):
            part.use(originals[name].fused)
    packed = {layer.weight.data_ptr(): layer.packed for layer in packed_layers(module)}
    for layer in linears(twin):
        layer.packed = packed.get(layer.weight.data_ptr())


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Within the context, every layer is used alone, and with its original weights."""
    layers, parts = packed_layers(module), list(fusible_parts(module).values())
    copies, fused = [layer.packed for layer in layers], [part.fused for part in parts]
    try:
        for layer in layers:
            layer.packed = None
        for part in parts:
            part.use(None)
        yield
    finally:
        for layer, packed in zip(layers, copies, strict=True):
            layer.packed = packed
        for part, one in zip(parts, fused, strict=True):
            part.use(one)


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

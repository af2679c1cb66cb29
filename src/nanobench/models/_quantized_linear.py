"""Linear layers with quantised weights: whole numbers of 8 or 4 bits, and scales. Activations and sums stay floating point.

int8 has a scale for each output, int4 a scale and a zero point for each group of inputs of an output. A weight is rounded to
the nearest value that its number can stand for. On a CPU torch's own kernels multiply by the numbers. On CUDA the layers are
those of torchao, where that is installed; they were not run on a GPU.

Shapes: M rows, N outputs, K inputs, G groups of inputs.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.roofline.flops import INT4_GROUPS

LEAST_SCALE = 1e-6
"""Weights that are all equal have no range; a scale of 0 would divide by 0."""
INT4_OUTPUTS = 16
"""The kernel's packed layout has a multiple of so many outputs."""


@dataclass(frozen=True)
class Grid:
    """Weights [N, K] as whole numbers: a weight is number x scale + zero."""

    numbers_NK: Tensor
    """int8; from -127 to 127, or from -8 to 7"""
    scales_NG: Tensor
    zeros_NG: Tensor | None = None

    def weights_NK(self) -> Tensor:
        """What the numbers stand for, in float32."""
        groups_NGI = self.numbers_NK.float().unflatten(1, (self.scales_NG.shape[1], -1)) * self.scales_NG.float().unsqueeze(2)
        return (groups_NGI if self.zeros_NG is None else groups_NGI + self.zeros_NG.float().unsqueeze(2)).flatten(1)


def int8_grid(weight_NK: Tensor) -> Grid:
    """A scale per output: its largest weight over 127, rounded to the dtype of the weights as the kernel needs it."""
    wide_NK = weight_NK.float()
    scales_N1 = (wide_NK.abs().amax(1, keepdim=True) / 127).clamp_min(LEAST_SCALE).to(weight_NK.dtype)
    return Grid((wide_NK / scales_N1.float()).round().clamp(-127, 127).to(torch.int8), scales_N1)


def int4_grid(weight_NK: Tensor) -> Grid:
    """A scale and a zero point per group: 16 values from its smallest to its largest weight. Raises Skip if no group fits."""
    width = weight_NK.shape[1]
    group = next((each for each in INT4_GROUPS if width % each == 0), None)
    if group is None:
        raise Skip(f"int4 weights come in groups of {', '.join(map(str, INT4_GROUPS))} inputs; a layer here has {width}")
    groups_NGI = weight_NK.float().unflatten(1, (-1, group))
    low_NG, high_NG = groups_NGI.amin(2), groups_NGI.amax(2)
    scales_NG = ((high_NG - low_NG) / 15).clamp_min(LEAST_SCALE).to(weight_NK.dtype)
    zeros_NG = (low_NG + 8 * scales_NG.float()).to(weight_NK.dtype)
    numbers_NGI = ((groups_NGI - zeros_NG.float().unsqueeze(2)) / scales_NG.float().unsqueeze(2)).round().clamp(-8, 7)
    return Grid(numbers_NGI.to(torch.int8).flatten(1), scales_NG, zeros_NG)


GRIDS: dict[str, Callable[[Tensor], Grid]] = {"int8": int8_grid, "int4": int4_grid}
"""Kind of weights -> how they are quantised."""


class QuantizedLinear(nn.Module):
    """What stands in for an `nn.Linear`. A subclass has the layout of its kernel, in buffers, and multiplies by it."""

    def __init__(self, grid: Grid, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = grid.numbers_NK.shape
        self.bias = bias

    def multiply(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N], without the bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        y = self.multiply(x.reshape(-1, self.in_features).contiguous()).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class Int8Linear(QuantizedLinear):
    """Multiplies by int8 numbers as they are."""

    numbers_NK: Tensor
    scales_N: Tensor

    def __init__(self, grid: Grid, bias: Tensor | None) -> None:
        super().__init__(grid, bias)
        self.register_buffer("numbers_NK", grid.numbers_NK.contiguous())
        self.register_buffer("scales_N", grid.scales_NG.flatten())

    def multiply(self, x_MK: Tensor) -> Tensor:
        """See QuantizedLinear.multiply."""
        return torch._weight_int8pack_mm(x_MK, self.numbers_NK, self.scales_N)


class Int4Linear(QuantizedLinear):
    """Multiplies by int4 numbers in the packed layout of torch's CPU kernel."""

    packed: Tensor
    scales_and_zeros_GN2: Tensor

    def __init__(self, grid: Grid, bias: Tensor | None) -> None:
        super().__init__(grid, bias)
        assert grid.zeros_NG is not None
        missing = -self.out_features % INT4_OUTPUTS
        numbers_NK = F.pad(grid.numbers_NK.int() + 8, (0, 0, 0, missing))
        both_NG2 = F.pad(torch.stack((grid.scales_NG, grid.zeros_NG), dim=2), (0, 0, 0, 0, 0, missing))
        self.group = self.in_features // grid.scales_NG.shape[1]
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers_NK, 1))
        self.register_buffer("scales_and_zeros_GN2", both_NG2.transpose(0, 1).contiguous())

    def multiply(self, x_MK: Tensor) -> Tensor:
        """See QuantizedLinear.multiply."""
        y_MN: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_MK, self.packed, self.group, self.scales_and_zeros_GN2)
        return y_MN[:, : self.out_features]


LAYERS: dict[str, type[QuantizedLinear]] = {"int8": Int8Linear, "int4": Int4Linear}
"""Kind of weights -> the layer that multiplies by them on a CPU."""


def quantized(adapter: Adapter, kind: str) -> Adapter:
    """The model with quantised weights in its linear layers. All its other tensors are those of `adapter` itself.

    Raises Skip where this device or dtype has no kernel, and for a model whose weights are not in linear layers.
    """
    refuse_other_layers(adapter, kind)
    weights = next(adapter.module.parameters())
    make = on_cpu if weights.device.type == "cpu" else by_torchao
    return with_layers(shared_copy(adapter), lambda layer: make(layer, kind))


def dequantized(adapter: Adapter, kind: str) -> Adapter:
    """A copy in float32 whose linear layers have the values that the quantised weights stand for: what `quantized` computes,
    by other means.
    """
    on_cuda = next(adapter.module.parameters()).device.type != "cpu"

    def make(layer: nn.Linear) -> nn.Module:
        values_NK = by_torchao(layer, kind).weight.dequantize() if on_cuda else GRIDS[kind](layer.weight).weights_NK()
        return plain_layer(values_NK.float(), layer.bias)

    wide = with_layers(copy.deepcopy(adapter), make)
    wide.module.to(torch.float32)
    return wide


def on_cpu(layer: nn.Linear, kind: str) -> QuantizedLinear:
    """The quantised layer, after one product by it. Raises Skip where torch has no kernel for its dtype."""
    made = LAYERS[kind](GRIDS[kind](layer.weight), layer.bias)
    try:
        made(layer.weight[:1])
    except (RuntimeError, NotImplementedError) as error:
        dtype = str(layer.weight.dtype).removeprefix("torch.")
        reason = str(error).strip().partition("\n")[0]
        raise Skip(f"torch has no CPU kernel for {kind} weights in {dtype}: {reason}") from error
    return made


def by_torchao(layer: nn.Linear, kind: str) -> Any:
    """The layer as torchao quantises it, with a scale per output or per group of the first of INT4_GROUPS. Not run on a GPU."""
    try:
        from torchao import quantization
    except ImportError:
        raise Skip(f"{kind} weights on CUDA need the package torchao, which is not installed") from None
    config = {
        "int8": lambda: quantization.Int8WeightOnlyConfig(),
        "int4": lambda: quantization.Int4WeightOnlyConfig(group_size=INT4_GROUPS[0]),
    }
    holder = nn.Sequential(plain_layer(layer.weight, layer.bias))
    try:
        quantization.quantize_(holder, config[kind]())
    except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
        raise Skip(f"torchao cannot make {kind} weights here: {str(error).partition(chr(10))[0]}") from error
    return holder[0]


def plain_layer(weight_NK: Tensor, bias: Tensor | None) -> nn.Linear:
    """An `nn.Linear` with these tensors."""
    with torch.device("meta"):
        layer = nn.Linear(weight_NK.shape[1], weight_NK.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight_NK, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()


def shared_copy(adapter: Adapter) -> Adapter:
    """A copy with modules of its own and the same tensors. Never convert it: that would convert the original too."""
    module = adapter.module
    return copy.deepcopy(adapter, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def with_layers(adapter: Adapter, make: Callable[[nn.Linear], nn.Module]) -> Adapter:
    """The adapter itself, each linear layer replaced by what `make` makes of it."""
    made: dict[int, nn.Module] = {}
    for parent in [*adapter.module.modules()]:
        for name, child in [*parent._modules.items()]:
            if isinstance(child, nn.Linear):
                if id(child) not in made:
                    made[id(child)] = make(child)
                setattr(parent, name, made[id(child)])
    return adapter


def refuse_other_layers(adapter: Adapter, kind: str) -> None:
    """Raises Skip for a model that has weights of matmuls elsewhere: only a part of it would be quantised."""
    layers = [part for part in adapter.module.modules() if isinstance(part, nn.Linear)]
    found = sum(layer.in_features * layer.out_features for layer in layers)
    every = adapter.shape.block_params + adapter.shape.head_params
    if found < every:
        raise Skip(f"{kind} weights are those of nn.Linear; here these have only {found:,} of {every:,} weights of matmuls")

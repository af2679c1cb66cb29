"""Quantised weights: each is the nearest value on its grid, kernels multiply by these, and the float model stays as it is."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from nanobench.errors import Skip
from nanobench.models import _quantized_linear as quantized_linear
from nanobench.models._quantized_linear import GRIDS, LAYERS, dequantized, quantized
from nanobench.probes import memory
from nanobench.roofline import flops
from nanobench.schema import WEIGHTS, Point
from nanobench.worker.workloads import generate

KINDS = [kind for kind in WEIGHTS if kind != "float"]
DTYPES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Dtype -> the largest error of a product, relative to the largest value."""


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def weights(out=48, width=128, dtype=torch.float32):
    return torch.randn(out, width).to(dtype)


def worst_in_steps(grid, weight):
    """The largest error of a weight, in steps of its grid."""
    steps = grid.scales_NG.float().repeat_interleave(weight.shape[1] // grid.scales_NG.shape[1], dim=1)
    return ((grid.weights_NK() - weight.float()).abs() / steps).max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_off_by_half_a_step_at_most(kind, dtype):
    """Rounding of scales and zero points to a narrow dtype can take a bit more, at the ends of the grid."""
    weight = weights(dtype=dtype)
    grid = GRIDS[kind](weight)
    low, high = (-127, 127) if kind == "int8" else (-8, 7)
    assert low <= grid.numbers_NK.min() <= grid.numbers_NK.max() <= high
    assert worst_in_steps(grid, weight) <= (0.5001 if dtype == torch.float32 else 1.1)


def test_a_scale_that_is_off_by_two_percent_is_off_by_steps():
    weight = weights()
    assert worst_in_steps(zoo.int8_two_percent_off(weight), weight) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_all_equal_are_exact(kind):
    for value in (0.0, 0.25):
        grid = GRIDS[kind](torch.full((16, 128), value))
        torch.testing.assert_close(grid.weights_NK(), torch.full((16, 128), value), atol=2e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 5, 33])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_multiplies_by_the_values_of_the_grid(kind, dtype, rows):
    """Also with a number of outputs that its layout does not have."""
    weight, bias = weights(out=50, dtype=getattr(torch, dtype)), torch.randn(50).to(getattr(torch, dtype))
    grid = GRIDS[kind](weight)
    layer = LAYERS[kind](grid, bias)
    for shape in ((rows, 128), (rows, 1, 128), (1, rows, 128)):
        x = torch.randn(shape).to(weight.dtype)
        expected = F.linear(x.double(), grid.weights_NK().double(), bias.double())
        found = layer(x)
        assert found.shape == expected.shape
        assert found.dtype == x.dtype
        assert (found.double() - expected).abs().max() <= DTYPES[dtype] * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_layer_multiplies_by_the_same(kind):
    layer, x = LAYERS[kind](GRIDS[kind](weights(dtype=torch.bfloat16)), None), torch.randn(3, 128, dtype=torch.bfloat16)
    with torch.inference_mode():
        compiled = torch.compile(layer)
        torch.testing.assert_close(compiled(x), layer(x), atol=0.1, rtol=0.02)
    torch._dynamo.reset()


def loaded(model, dtype):
    point = Point(model=model, dtype=dtype, device="cpu", threads=1, batch_size=1, prompt_len=4, new_tokens=4)
    return generate.load(point, seed=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["gpt2-nano", "nanochat-nano"])
def test_all_linear_layers_are_quantised_and_the_other_tensors_are_shared(model, kind):
    adapter = loaded(model, "bfloat16")
    before = copy.deepcopy(adapter.module.state_dict())
    made = quantized(adapter, kind)
    layers = [part for part in made.module.modules() if isinstance(part, quantized_linear.QuantizedLinear)]
    assert len(layers) == sum(isinstance(part, nn.Linear) for part in adapter.module.modules())
    assert not any(isinstance(part, nn.Linear) for part in made.module.modules())
    assert made.module.token_embedding.weight is adapter.module.token_embedding.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.module.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["gpt2-nano", "nanochat-nano"])
def test_the_float32_twin_computes_the_same_as_the_quantised_model(model, kind):
    adapter = loaded(model, "float32")
    idx_BT = torch.randint(256, (3, 9))
    found, expected = quantized(adapter, kind).forward(idx_BT), dequantized(adapter, kind).forward(idx_BT)
    plain = adapter.forward(idx_BT)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (found - plain).abs().max() > 1e-3 * expected.abs().max(), "else nothing was quantised"


def test_a_float32_twin_leaves_a_model_in_a_narrow_dtype_as_it_is():
    adapter = loaded("gpt2-nano", "bfloat16")
    twin = dequantized(adapter, "int8")
    assert {tensor.dtype for tensor in twin.module.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in adapter.module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_closed_form_counts_the_bytes_that_a_pass_reads(kind, dtype):
    """It counts scales as if all layers had n_embd inputs, which all but one of nanochat-nano have."""
    adapter = loaded("nanochat-nano", dtype)
    made = adapter if kind == "float" else quantized(adapter, kind)
    held = memory.tensor_bytes(made.module)
    looked_up = memory.tensor_bytes([made.module.token_embedding.weight, made.module.rotations_2NR])
    assert flops.read_bytes(adapter.shape, dtype, kind) == pytest.approx(held - looked_up, rel=0.05)


def test_int4_needs_widths_in_groups():
    with pytest.raises(Skip, match="int4 weights come in groups of 128, 64, 32 inputs; a layer here has 176"):
        quantized(loaded("llama-nano", "bfloat16"), "int4")


def test_a_dtype_without_a_kernel_is_skipped():
    with pytest.raises(Skip, match="torch has no CPU kernel for int8 weights in float64"):
        quantized(adapter_in(torch.float64), "int8")


def adapter_in(dtype):
    adapter = loaded("gpt2-nano", "float32")
    adapter.module.to(dtype)
    return adapter


def test_a_model_with_weights_elsewhere_is_skipped():
    adapter = loaded("gpt2-nano", "bfloat16")
    adapter.module.head = nn.Identity()
    with pytest.raises(Skip, match=r"int8 weights are those of nn.Linear; here these have only 98,304 of 114,688"):
        quantized(adapter, "int8")


def test_on_cuda_the_layers_need_torchao(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(Skip, match="int8 weights on CUDA need the package torchao, which is not installed"):
        quantized_linear.by_torchao(nn.Linear(32, 16), "int8")

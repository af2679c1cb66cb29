"""Packed weights and fused layers: the same products, copies that do not follow their layer, and compiled graphs with them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.gates import generation as generation_gate
from nanobench.models import _packed_linear as packed_linear
from nanobench.models._packed_linear import Linear
from nanobench.models._quantized_linear import quantized, shared_copy
from nanobench.probes import memory, profiler
from nanobench.probes.shared_state import SharedState
from nanobench.records import Verdict
from nanobench.schema import Point
from nanobench.worker.workloads import generate

ROWS = (1, 2, 3, 8, 50)


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def always(monkeypatch):
    """Even the smallest layer multiplies by its packed weights."""
    monkeypatch.setattr(packed_linear, "MIN_MULTIPLY_ADDS", 0)


def packed(width=24, out=40, bias=True, dtype=torch.float32):
    layer = Linear(width, out, bias=bias).to(dtype)
    layer.pack()
    assert layer.packed is not None
    return layer


def seen(monkeypatch):
    """How many rows each call of oneDNN gets."""
    calls, multiply = [], packed_linear.multiply
    monkeypatch.setattr(packed_linear, "multiply", lambda x, *rest: (calls.append(x.shape[:-1].numel()), multiply(x, *rest))[1])
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
def test_it_is_the_product(always, rows, bias):
    layer = packed(bias=bias)
    for shape in ((rows, 24), (rows, 1, 24), (1, rows, 24)):
        x = torch.randn(shape)
        plain = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        assert layer(x).shape == plain.shape
        torch.testing.assert_close(layer(x).double(), plain, atol=1e-5, rtol=0)


@pytest.mark.skipif(not packed_linear.is_packable(torch.bfloat16), reason="oneDNN does not multiply bfloat16 on this CPU")
@pytest.mark.parametrize("rows", ROWS)
def test_it_is_the_product_in_bfloat16(always, rows):
    layer, x = packed(dtype=torch.bfloat16), torch.randn(rows, 24, dtype=torch.bfloat16)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=2e-2, rtol=0)


@pytest.mark.parametrize("rows", ROWS)
def test_without_packing_it_is_torchs_own_layer(rows):
    layer, x = Linear(24, 40), torch.randn(rows, 24)
    assert layer(x).equal(F.linear(x, layer.weight, layer.bias))


def test_for_a_while_all_layers_may_be_unpacked(always, monkeypatch):
    layer, calls, x = packed(), seen(monkeypatch), torch.randn(2, 24)
    with packed_linear.unpacked(layer):
        assert layer(x).equal(F.linear(x, layer.weight, layer.bias))
    assert calls == []
    layer(x)
    assert calls == [2]


def test_rows_do_not_listen_to_each_other(always):
    layer, x = packed(), torch.randn(5, 24)
    before = layer(x)
    x[0] += 1
    assert layer(x)[1:].equal(before[1:])


def test_little_work_is_left_to_torch_and_a_single_row_padded(monkeypatch):
    layer, calls = packed(512, 1024), seen(monkeypatch)
    for rows in (1, 2, 8):
        layer(torch.randn(rows, 512))
    assert calls == [4, 2, 8]
    small = packed(64, 64)
    small(torch.randn(200, 64))
    assert calls == [4, 2, 8]
    small(torch.randn(250, 64))
    assert calls == [4, 2, 8, 250]


def test_the_copy_goes_when_the_weights_move_and_is_not_copied(always):
    layer = packed()
    assert copy.deepcopy(layer).packed is None
    assert layer.packed is not None
    layer.to(torch.float64)
    assert layer.packed is None
    assert layer(torch.ones(2, 24, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_dtype_without_kernels_is_left_alone(dtype):
    layer = Linear(24, 40).to(dtype)
    layer.pack()
    assert layer.packed is None


def test_where_onednn_is_missing_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = Linear(24, 40)
    layer.pack()
    assert layer.packed is None


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"options": {"freezing": True}}], ids=str)
def test_a_compiled_graph_multiplies_by_the_packed_weights(always, rows, options):
    layer, x = packed(), torch.randn(rows, 24)
    layer.requires_grad_(False)
    with torch.inference_mode():
        compiled = torch.compile(layer, **options)
        compiled(x)
        names = profiler.count(lambda: compiled(x), x.device).names
        torch.testing.assert_close(compiled(x), layer(x))
    torch._dynamo.reset()
    assert {"nanobench::packed_linear", "mkldnn::_linear_pointwise"} <= names


def loaded(point):
    """A model as the worker hands it to the arms."""
    adapter = generate.load(point, seed=0)
    packed_linear.pack(adapter.module)
    return adapter


@pytest.mark.parametrize(("model", "dtype", "share"), [("gpt2-mini", "float32", 1), ("gpt2-nano", "float16", 0)])
def test_every_layer_of_a_model_is_packed_where_its_dtype_can_be(model, dtype, share):
    point = Point(model=model, dtype=dtype, device="cpu", threads=1, batch_size=1, prompt_len=4, new_tokens=4)
    adapter = loaded(point)
    layers = [part for part in adapter.module.modules() if isinstance(part, Linear)]
    assert len(layers) == 4 * adapter.shape.n_layer + 1
    assert packed_linear.packed_bytes(adapter.module) == share * 4 * (adapter.shape.block_params + adapter.shape.head_params)


def judged(model, batch_size, engine, spoil=False):
    """The gate's verdict on an engine over a packed model."""
    point = Point(model=model, dtype="float32", device="cpu", threads=1, batch_size=batch_size, prompt_len=12, new_tokens=4)
    adapter = loaded(point)
    if spoil:
        layer = adapter.module.blocks[0].up
        layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.roll(1, 0))

    def build(adapter, point):
        return registry.find("engines", engine)(adapter, registry.find("samplers", "greedy")(), point, Compiler("off"))

    with torch.inference_mode():
        return generation_gate.judge(generation_gate.Reference(adapter, point, 0), build, build(adapter, point), compiled=False)


@pytest.mark.parametrize("model", ["gpt2-mini", "llama-nano:n_embd=1024,n_head=8"])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("engine", ["uncached", "cached", "cached-cat"])
def test_a_packed_model_is_exact(monkeypatch, engine, batch_size, model):
    calls = seen(monkeypatch)
    assert judged(model, batch_size, engine).verdict is Verdict.EXACT
    assert len(calls) > 10


def test_the_tolerance_does_not_come_from_the_weights_that_are_judged():
    assert judged("gpt2-mini", 5, "cached", spoil=True).verdict is Verdict.WRONG


# Layers that are fused


FUSED = ["llama-nano", "nanochat-nano", "nanochat-2026-nano"]


def fused(model):
    """A model before and after its queries, keys and values are one matmul, in float64."""
    torch.manual_seed(0)
    adapter = registry.find("models", model)()
    adapter.module.double().eval()
    alone = copy.deepcopy(adapter)
    packed_linear.pack(adapter.module)
    return adapter, alone


@pytest.mark.parametrize("model", FUSED)
@torch.no_grad()
def test_fused_layers_compute_what_each_computes_alone(model):
    adapter, alone = fused(model)
    idx_BT = torch.randint(256, (2, 9))
    expected_BTV = alone.forward(idx_BT)
    assert (adapter.forward(idx_BT) - expected_BTV).abs().max() <= 1e-12 * expected_BTV.abs().max()
    layers, before = packed_linear.linears(adapter.module), packed_linear.linears(alone.module)
    assert len(before) - len(layers) == 2 * adapter.shape.n_layer
    assert sum(each.weight.numel() for each in layers) == sum(each.weight.numel() for each in before)
    with packed_linear.unpacked(adapter.module):
        assert len(packed_linear.linears(adapter.module)) == len(before)
    assert packed_linear.linears(adapter.module) == layers


@pytest.mark.parametrize("model", FUSED)
def test_a_fused_weight_is_there_once(model):
    adapter, alone = fused(model)
    assert memory.tensor_bytes(adapter.module) == memory.tensor_bytes(alone.module)
    assert list(adapter.module.state_dict()) == list(alone.module.state_dict())
    attention = adapter.module.blocks[0].attention
    with torch.no_grad():
        attention.key.weight += 1
    rows = attention.fused.weight[attention.query.out_features :][: attention.key.out_features]
    assert torch.equal(rows, attention.key.weight)


def test_a_model_that_is_moved_or_copied_is_no_longer_fused():
    adapter, _ = fused("llama-nano")
    attention = adapter.module.blocks[0].attention
    assert copy.deepcopy(attention).fused is None
    assert attention.fused is not None
    attention.float()
    assert attention.fused is None


def test_a_copy_with_the_same_tensors_is_fused_too_unless_they_are_quantised():
    point = Point(model="llama-nano", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=4, new_tokens=4)
    adapter = loaded(point)
    same, other = shared_copy(adapter), quantized(adapter, "int8")
    for twin in (same, other):
        packed_linear.share_packed(adapter.module, twin.module)
    attention, its, quantised = (each.module.blocks[0].attention for each in (adapter, same, other))
    assert its.fused is attention.fused is not None
    assert quantised.fused is None
    assert len(quantised.project(torch.ones(1, 2, adapter.shape.n_embd))) == 3


def test_a_change_of_a_fused_layer_is_seen():
    adapter, _ = fused("llama-nano")
    state, attention = SharedState(adapter.module), adapter.module.blocks[0].attention
    assert state.changed() is None
    attention.fused.weight.mul_(2)
    assert state.changed() == "weights of the model"
    attention.fused.register_forward_hook(lambda *_: None)
    assert state.changed() == "hooks of the model"
    attention.use(None)
    assert state.changed() == "weights of the model"

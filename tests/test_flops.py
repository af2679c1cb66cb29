"""Closed forms against what torch counts while the engines run, against tensors' bytes, and against examples worked by hand."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nanobench import registry
from nanobench.engines import _compiler as compiler
from nanobench.models._kv_cache import StaticCache
from nanobench.roofline import flops
from nanobench.roofline.flops import NOTHING, Pass, cost
from nanobench.schema import DTYPE_BYTES, GPTShape, Point

PRESETS = registry.presets()
LIGHT = [name for name, sizes in PRESETS.items() if sizes["n_layer"] <= 12]
NANOS = [name for name in PRESETS if name.endswith("-nano")]
GPT2S = [name for name, sizes in PRESETS.items() if sizes["architecture"] == "gpt2"]
ENGINES = [name for name in registry.names("engines") if name != "cuda-graph"]
TOLD = [name for name in ENGINES if name != "speculative"]
"""Engines whose passes do not depend on the tokens."""
SMALL = {"batch_size": 2, "prompt_len": 9, "new_tokens": 2}
LONGER = {**SMALL, "new_tokens": 6}
SEEDS = {"batch_size": 1, "prompt_len": 50, "new_tokens": 200}
TINY = GPTShape(
    architecture="gpt2", n_layer=1, n_head=2, n_kv_head=1, n_embd=4, vocab_size=6, block_size=8, n_params=300, lookup_params=100
)
"""Query, key and value are 8 wide and the MLP 16: 4 x (8 + 4 + 32) = 176 weights in the block, 24 in the head."""


@cache
def on_meta(name):
    """A built-in model in full size, without its weights."""
    with torch.device("meta"):
        return registry.find("models", name)()


def point_of(model="", dtype="float32", **sizes):
    return Point(model=model, dtype=dtype, device="cpu", threads=1, **sizes)


def of_engine(engine, point):
    """The point that an engine runs: one of them needs a prompt that all rows share."""
    return replace(point, shared_prompt="on") if engine == "cached-shared-prompt" else point


def start(adapter, engine, point, mode="off"):
    """An engine and the prompt that it is to read."""
    point = of_engine(engine, point)
    made = registry.find("engines", engine)(adapter, registry.find("samplers", "greedy")(), point, compiler.Compiler(mode))
    device = next(adapter.module.parameters()).device
    return made, torch.zeros((point.batch_size, point.prompt_len), dtype=torch.long, device=device)


def calls(engine, prompt_BT, point):
    """What makes a whole call, pass by pass."""
    return [lambda: engine.prefill(prompt_BT), *[engine.step] * (point.new_tokens - 1)]


def counted_flops(passes):
    """Operations of each pass as torch counts them; only the plain attention is counted."""
    counts = []
    for run in passes:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    return counts


def expected(shape, engine, point):
    """The closed form of each pass."""
    return [cost(shape, point.dtype, one) for one in flops.KV_ACCESS[engine.kv_access](point)]


def executed_flops(shape, path, point):
    return sum(cost(shape, point.dtype, one).flops for one in flops.KV_ACCESS[path](point))


# Operations


@pytest.mark.parametrize("engine", TOLD)
@pytest.mark.parametrize("model", LIGHT)
def test_every_engine_executes_on_every_model_what_its_path_says(model, engine):
    adapter, point = on_meta(model), point_of(model, **SMALL)
    made, prompt_BT = start(adapter, engine, point)
    costs = expected(adapter.shape, made, point)
    assert counted_flops(calls(made, prompt_BT, point)) == [one.flops for one in costs]


@pytest.mark.parametrize("engine", TOLD)
@pytest.mark.parametrize("model", NANOS)
def test_a_real_device_executes_the_same_as_the_meta_device(model, engine):
    adapter, point = registry.find("models", model)(), point_of(model, **LONGER)
    made, prompt_BT = start(adapter, engine, point)
    costs = expected(adapter.shape, made, point)
    assert counted_flops(calls(made, prompt_BT, point)) == [one.flops for one in costs]


def test_every_path_is_walked_by_an_engine():
    made = [start(on_meta("gpt2-nano"), engine, point_of(**SMALL))[0] for engine in ENGINES]
    both = ("cached", "cached-shared-prompt")
    compiled = [start(on_meta("gpt2-nano"), engine, point_of(**SMALL), "default")[0] for engine in both]
    captured = {"buckets"}
    walked = {getattr(engine, "kv_access", None) for engine in [*made, *compiled]} - {None}
    assert walked | captured == set(flops.KV_ACCESS)


def test_a_shared_prompt_is_processed_once_and_copied_to_the_other_rows():
    """By the closed form of a row, and of the rows without it."""
    point = point_of(batch_size=5, prompt_len=4, new_tokens=3)
    shared = replace(point, shared_prompt="on")
    first, *steps = flops.KV_ACCESS["shared-prompt"](shared)
    assert steps == flops.prefix(point)[1:]
    assert (first.rows, first.tokens, first.kv_written) == (1, 4, 20)
    alone = flops.useful_flops(TINY, replace(point, batch_size=1, new_tokens=1))
    assert flops.useful_flops(TINY, point) - flops.useful_flops(TINY, shared) == pytest.approx(4 * alone)


@pytest.mark.parametrize("model", ["gpt2-nano", "gpt2-nano:window=6", "nanochat-2026-nano", "gpt2-mla-nano"])
def test_a_compiled_step_looks_at_the_whole_cache(monkeypatch, model):
    monkeypatch.setattr(torch, "compile", lambda function, **arguments: function)
    adapter, point = on_meta(model), point_of(model, **LONGER)
    made, prompt_BT = start(adapter, "cached", point, "default")
    assert made.kv_access == "static"
    costs = expected(adapter.shape, made, point)
    assert counted_flops(calls(made, prompt_BT, point)) == [one.flops for one in costs]


@pytest.mark.parametrize(
    ("length", "most", "seen"), [(1, 2000, 512), (512, 2000, 512), (513, 2000, 1024), (1999, 2000, 2000), (5, 40, 40)]
)
def test_a_captured_steps_view_grows_in_buckets(length, most, seen):
    assert flops.bucket(length, most) == seen


# Bytes


def in_layers(shape, length):
    """Positions that a single token attends to behind others, over all layers; `length` with its own."""
    windowed = 0 if shape.window is None else shape.windowed_layers or shape.n_layer
    return (shape.n_layer - windowed) * length + windowed * min(length, shape.window or length)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", PRESETS)
def test_of_a_static_cache_what_is_filled_is_read_and_the_new_tokens_written(model, dtype):
    adapter, point = cast(model, dtype), point_of(model, dtype, **LONGER)
    made, _ = start(adapter, "cached", point)
    shape = adapter.shape
    of_layer = cached_bytes(made) / point.total_len / shape.n_layer
    prefill, *steps = expected(shape, made, point)
    assert prefill.kv_bytes == 2 * of_layer * shape.n_layer * point.prompt_len
    lengths = [point.prompt_len + n for n in range(1, point.new_tokens)]
    assert [step.kv_bytes for step in steps] == [of_layer * (in_layers(shape, n) + shape.n_layer) for n in lengths]


class Untold(StaticCache):
    """A foreign cache without `attend_to`."""

    attend_to = property()


@pytest.mark.parametrize(("kind", "mode"), [(StaticCache, "default"), (Untold, "off")])
def test_a_compiled_step_and_one_over_a_foreign_cache_read_all_of_it(monkeypatch, kind, mode):
    adapter, point = cast("gpt2-nano", "float32"), point_of("gpt2-nano", **LONGER)
    make = partial(kind, adapter.shape, like=adapter.module.norm.weight)
    monkeypatch.setattr(adapter, "make_cache", lambda batch_size, max_len, name: make(batch_size, max_len))
    made, _ = start(adapter, "cached", point, mode)
    assert made.kv_access == "static"
    whole = cached_bytes(made)
    _, *steps = expected(adapter.shape, made, point)
    assert {step.kv_bytes for step in steps} == {whole + whole / point.total_len}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", NANOS)
def test_a_grown_cache_is_copied_and_then_read(model, dtype):
    adapter, point = cast(model, dtype), point_of(model, dtype, **LONGER)
    made, prompt_BT = start(adapter, "cached-cat", point)
    sizes = [0]
    with torch.no_grad():
        for run in calls(made, prompt_BT, point):
            run()
            sizes.append(cached_bytes(made))
    read = [point.prompt_len * adapter.shape.n_layer, *(in_layers(adapter.shape, n) for n in range(10, point.total_len))]
    of_layer = sizes[1] / point.prompt_len / adapter.shape.n_layer
    moved = [before + after + of_layer * n for before, after, n in zip(sizes, sizes[1:], read, strict=False)]
    assert [one.kv_bytes for one in expected(adapter.shape, made, point)] == moved


def cast(model, dtype):
    """A built-in model of a dtype, without its weights."""
    adapter = on_meta(model)
    adapter.module.to(getattr(torch, dtype))
    return adapter


def cached_bytes(engine):
    """Bytes of the keys and values that an engine holds."""
    return sum(tensor.nbytes for tensor in engine.cache.keys_BKSD + engine.cache.values_BKSD)


class Reads(TorchDispatchMode):
    """Notes which parameters operations take whole, and how many values are looked up in tables."""

    def __init__(self, module):
        super().__init__()
        self.sizes = {parameter.untyped_storage()._cdata: parameter.numel() for parameter in module.parameters()}
        self.whole, self.looked_up = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.embedding.default:
            self.looked_up += result.numel()
        else:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            self.whole |= {tensor.untyped_storage()._cdata for tensor in tensors} & self.sizes.keys()
        return result

    @property
    def whole_params(self):
        return sum(self.sizes[storage] for storage in self.whole)


@pytest.mark.parametrize("model", LIGHT)
def test_every_pass_reads_the_weights_that_are_counted(model):
    adapter, point = cast(model, "float32"), point_of(model, **SMALL)
    made, prompt_BT = start(adapter, "cached", point)
    for run, one in zip(calls(made, prompt_BT, point), expected(adapter.shape, made, point), strict=True):
        with torch.no_grad(), Reads(adapter.module) as reads:
            run()
        assert reads.whole_params == adapter.shape.read_params
        # Not counted: GPT-2's embeddings of positions, one row for the whole batch.
        assert one.weight_bytes == pytest.approx(4 * (reads.whole_params + reads.looked_up), rel=0.006)


@pytest.mark.parametrize("model", PRESETS)
def test_sizes_that_costs_rest_on_are_those_of_the_layers(model):
    module, shape = on_meta(model).module, on_meta(model).shape
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer is not module.head]
    assert shape.block_params == sum(layer.weight.numel() for layer in linears)
    assert {shape.mlp_width} == {block.up.out_features for block in module.blocks}
    head = module.head
    assert shape.head_params == head.weight.numel()
    only_looked_up = {layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)} - {head.weight}
    assert shape.read_params == sum(p.numel() for p in module.parameters()) - sum(p.numel() for p in only_looked_up)


@pytest.mark.parametrize("model", GPT2S)
def test_a_shape_that_says_nothing_of_its_products_is_taken_for_a_gpt2(model):
    module, known = on_meta(model).module, on_meta(model).shape
    foreign = replace(known, matmul_params=None, lookup_params=None)
    assert (foreign.block_params, foreign.mlp_width) == (known.block_params, known.mlp_width)
    for path in flops.KV_ACCESS:
        assert executed_flops(foreign, path, point_of(**SMALL)) == executed_flops(known, path, point_of(**SMALL))
    biases_and_norms = sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 1)
    assert known.read_params - foreign.read_params == biases_and_norms


def test_more_parameters_are_never_read_than_there_are():
    assert replace(TINY, n_params=150, lookup_params=None).read_params == 150


# Examples worked by hand


def test_a_pass_by_hand():
    one = cost(TINY, "float32", Pass(rows=2, tokens=3, context=5, logits_positions=1, kv_read=5, kv_written=3))
    assert vars(one) == {
        "matmul_flops": 2 * (6 * 176 + 2 * 24),
        "attention_flops": 6 * (2 * 5 * 4 + 2 * 5 * 4),
        "weight_bytes": 4 * (200 + 6 * 4),
        "kv_bytes": 2 * (5 + 3) * 2 * 2 * 4,
        "matmul_io_bytes": 4 * 6 * ((4 + 8) + (8 + 4) + (4 + 4) + (4 + 16) + (16 + 4)),
        "elementwise_bytes": 4 * 6 * (4 * 4 + 6 * 4 + 2 * 16),
        "logits_bytes": 4 * 2 * 2 * 6,
    }
    assert (one.flops, one.bytes) == (2688, 4704)
    assert NOTHING + one == one
    assert (one + one).bytes == 2 * one.bytes


GATED = replace(TINY, mlp_matmuls=3, matmul_params=4 * (8 + 4) + 3 * 4 * 10 + 24)
"""The same with a gated MLP, 10 wide."""


def test_a_pass_through_a_gated_mlp_by_hand():
    one = cost(GATED, "float32", Pass(rows=2, tokens=3, context=5, logits_positions=1))
    assert GATED.mlp_width == 10
    assert one.matmul_flops == 2 * (6 * 168 + 2 * 24)
    assert one.matmul_io_bytes == 4 * 6 * ((4 + 8) + (8 + 4) + (4 + 4) + 2 * (4 + 10) + (10 + 4))
    # Two norms, two additions, the activation of the gate, and its multiplication with the other matmul.
    assert one.elementwise_bytes == 4 * 6 * (4 * 4 + 6 * 4 + 2 * 10 + 3 * 10)
    assert flops.matrix_bytes(GATED, "float32") == 4 * 168 / 5


def test_the_last_matmul_of_a_gated_mlp_is_not_recomputed():
    forward, recomputed = (2 * 6 * weights + 4 * 6 * 3 * 4 for weights in (168 + 24, 168 - 4 * 10))
    found = flops.training_flops(GATED, tokens=6, attended_positions=6 * 3, recomputed=True)
    assert found == 3 * forward + recomputed


def test_useful_flops_by_hand():
    """Prompt 2, 2 new tokens: 3 tokens are read, at contexts 1, 2 and 3, and 2 need logits."""
    point = point_of(batch_size=2, prompt_len=2, new_tokens=2)
    assert flops.useful_flops(TINY, point) == 2 * (2 * (3 * 176 + 2 * 24) + 4 * (1 + 2 + 3) * 4) == 2496


def test_the_naive_speedup_of_the_seeds_point():
    point = point_of(**SEEDS)
    assert sum(one.tokens for one in flops.uncached(point)) == 29_900
    assert flops.naive_speedup(point) == 29_900 / 250 == 119.6


def test_a_training_step_by_hand():
    """Two rows of three tokens: each of the six tokens attends to three positions, masked ones included."""
    forward = 2 * 6 * (176 + 24) + 4 * 6 * 3 * 4
    assert flops.training_flops(TINY, tokens=6, attended_positions=6 * 3) == 3 * forward
    # The last matmul of the block, 16 to 4 wide, is not recomputed.
    recomputed = 2 * 6 * (176 - 64) + 4 * 6 * 3 * 4
    assert flops.training_flops(TINY, tokens=6, attended_positions=6 * 3, recomputed=True) == 3 * forward + recomputed


@pytest.mark.parametrize("model", NANOS)
def test_a_training_step_multiplies_as_often_as_torch_counts(model):
    """Exactly: the embedding wants a gradient, so that even the first layer computes that of its input."""
    adapter = registry.find("models", model)()
    idx_BT, targets_BT = torch.randint(adapter.shape.vocab_size, (2, 3, 16))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = adapter.forward(idx_BT, targets_BT)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    step = flops.training_flops(adapter.shape, tokens=3 * 16, attended_positions=3 * 16 * 16)
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    assert forward.get_total_flops() + backward.get_total_flops() == step


# Windows and latents by hand

WINDOWED = replace(TINY, n_layer=3, window=4, windowed_layers=2)
"""Two of three layers attend to four positions."""


def test_the_attention_of_a_step_in_windows_by_hand():
    one = Pass(rows=2, tokens=1, context=10, logits_positions=1, kv_read=10, kv_written=1)
    found = cost(WINDOWED, "float32", one)
    assert found.attention_flops == 4 * 2 * (10 + 2 * 4) * 4
    assert found.kv_bytes == 2 * 4 * 4 * ((10 + 1) + 2 * (4 + 1))
    # Copies of the windows are written and read.
    gathered = cost(WINDOWED, "float32", replace(one, gathers=True))
    assert gathered.kv_bytes - found.kv_bytes == flops.cache_copy_bytes(replace(one, gathers=True), WINDOWED, "float32")
    assert gathered.kv_bytes - found.kv_bytes == 2 * 4 * 4 * 2 * 2 * 4


def test_a_pass_over_several_tokens_executes_what_the_mask_hides():
    one = Pass(rows=1, tokens=10, context=10, logits_positions=1)
    assert cost(WINDOWED, "float32", one).attention_flops == 4 * 10 * 10 * 3 * 4


def test_useful_flops_in_windows_by_hand():
    """Prompt 5, 2 new tokens: six tokens are read, which attend to 1, 2, 3, 4, 4 and 4 positions in a window."""
    point = point_of(batch_size=1, prompt_len=5, new_tokens=2)
    attended = 21 + 2 * (1 + 2 + 3 + 4 + 4 + 4)
    assert flops.useful_flops(WINDOWED, point) == 2 * (6 * WINDOWED.block_params + 2 * 24) + 4 * attended * 4


def test_a_step_over_latents_by_hand():
    """Two heads, each with an output as wide as a latent of 3 values; a cache keeps these 3."""
    shape = replace(TINY, n_kv_head=2, latent_width=3)
    assert shape.attention_params == 4 * 4 + 4 * 3 + 2 * 3 * 4 + 4 * 4
    assert shape.kv_bytes_per_token("float32") == 3 * 4
    step = cost(shape, "float32", Pass(rows=2, tokens=1, context=10, logits_positions=1, kv_read=10, kv_written=1))
    assert (step.attention_flops, step.kv_bytes) == (4 * 2 * 10 * 2 * 3, 2 * 11 * 3 * 4)
    prompt = cost(shape, "float32", Pass(rows=2, tokens=5, context=5, logits_positions=1, kv_read=5, kv_written=5))
    assert prompt.attention_flops == 4 * 2 * 5 * 5 * 4


def test_tables_that_are_looked_up_and_rows_of_padding_count():
    one = Pass(rows=2, tokens=3, context=3, logits_positions=1)
    plain, padded = cost(TINY, "float32", one), cost(replace(TINY, vocab_rows=8, lookup_width=9), "float32", one)
    assert padded.matmul_flops - plain.matmul_flops == 2 * 2 * (8 - 6) * 4
    assert padded.logits_bytes - plain.logits_bytes == 4 * 2 * 2 * (8 - 6)
    assert padded.weight_bytes - plain.weight_bytes == 4 * 6 * (9 - 4)


# Properties


@st.composite
def shapes(draw):
    """Any small GPT, with grouped queries or without, and with windows in some layers or in none."""
    n_kv_head, group, head_dim, n_layer = (draw(st.integers(1, 4)) for _ in range(4))
    n_head, vocab_size = n_kv_head * group, draw(st.integers(2, 99))
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_kv_head": n_kv_head, "n_embd": n_head * head_dim}
    window = draw(st.none() | st.integers(1, 50))
    windowed = None if window is None else draw(st.none() | st.integers(1, n_layer))
    return replace(TINY, **sizes, vocab_size=vocab_size, window=window, windowed_layers=windowed)


points = st.builds(point_of, dtype=st.sampled_from(list(DTYPE_BYTES)), **dict.fromkeys(SMALL, st.integers(1, 40)))


@given(shapes(), points)
def test_no_path_executes_less_than_what_is_useful(shape, point):
    useful = flops.useful_flops(shape, point)
    cat, prefix, buckets, static, last_only, full = (
        executed_flops(shape, path, point)
        for path in ("cat", "prefix", "buckets", "static", "uncached", "uncached-full-logits")
    )
    assert useful <= cat == prefix <= buckets <= static
    assert cat <= last_only <= full


@given(shapes(), points)
def test_a_grown_cache_wastes_the_masked_part_of_the_prompt_and_nothing_else(shape, point):
    length = point.prompt_len
    useful = sum(in_layers(shape, seen) for seen in range(1, length + 1))
    wasted = 4 * point.batch_size * (shape.n_layer * length * length - useful) * shape.n_embd
    assert executed_flops(shape, "cat", point) - flops.useful_flops(shape, point) == pytest.approx(wasted, abs=1e-6)


@given(shapes(), points)
def test_costs_grow_with_the_batch_and_weights_are_read_once(shape, point):
    for path in flops.KV_ACCESS.values():
        one = path(replace(point, batch_size=1))[0]
        many = cost(shape, point.dtype, replace(one, rows=7))
        single = cost(shape, point.dtype, one)
        assert (many.flops, many.kv_bytes, many.logits_bytes) == (
            7 * single.flops,
            7 * single.kv_bytes,
            7 * single.logits_bytes,
        )
        looked_up = 6 * one.tokens * shape.n_embd * DTYPE_BYTES[point.dtype]
        assert many.weight_bytes - single.weight_bytes == looked_up

"""nanochat of 2026: the logits of its equations, written out token by token and head by head; what its caches keep and read."""

import copy
import math
from itertools import pairwise

import pytest
import torch

import checkpoint_files as files
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import UserError
from nanobench.models import nanochat_2026
from nanobench.models import nanochat_checkpoint as checkpoint
from nanobench.models._gpt import Attention
from nanobench.roofline import flops
from nanobench.samplers import greedy
from nanobench.schema import Point

SIZES = {"n_layer": 5, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": 61}
"""The layers are S S S L and a last one, which is L in any case. 61 tokens are padded to 64 rows."""
LENGTH = 17


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def stirred(window=6, **more):
    """A network in float64, with every weight moved: scalars, gates and padding too."""
    adapter = nanochat_2026.build(**SIZES, block_size=24, window=window, **more)
    for parameter in adapter.module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    adapter.module.to(torch.float64).eval()
    return adapter


def tokens(rows=2, length=LENGTH):
    return torch.randint(SIZES["vocab_size"], (rows, length))


def their_tensors(adapter):
    """The weights under nanochat's names."""
    return {slot.theirs: adapter.module.get_parameter(slot.ours) for slot in checkpoint.new_slots(SIZES)}


def naive_logits(weights, idx_T, window):
    """Logits [T, V] of one row, from nanochat's equations."""
    layers, n_head, n_kv_head, width = (SIZES[name] for name in ("n_layer", "n_head", "n_kv_head", "n_embd"))
    head_dim = width // n_head

    def norm(x):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()

    def turned(x_KD, position):
        out_KD = x_KD.clone()
        for i in range(head_dim // 2):
            angle = position * 100_000 ** (-2 * i / head_dim)
            cos, sin = (torch.tensor(value).float().double() for value in (math.cos(angle), math.sin(angle)))
            first_K, second_K = x_KD[:, i], x_KD[:, i + head_dim // 2]
            out_KD[:, i], out_KD[:, i + head_dim // 2] = first_K * cos + second_K * sin, second_K * cos - first_K * sin
        return out_KD

    embedded = [norm(weights["transformer.wte.weight"][token]) for token in idx_T]
    first = [embedded[0]]
    for before, x_C in pairwise(embedded):
        first.append(x_C + weights["smear_lambda"] * torch.sigmoid(weights["smear_gate.weight"] @ x_C[:24]) * before)
    stream, middle = first, None
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        scale, scale_of_first = weights["resid_lambdas"][layer], weights["x0_lambdas"][layer]
        stream = [scale * x_C + scale_of_first * first_C for x_C, first_C in zip(stream, first, strict=True)]
        limit = len(idx_T) if window is None or layer == layers - 1 or "SSSL"[layer % 4] == "L" else window
        keys, values, after = [], [], []
        for position, x_C in enumerate(stream):
            query, key, value = (
                (weights[f"{block}.attn.c_{name}.weight"] @ norm(x_C)).unflatten(0, (-1, head_dim)) for name in "qkv"
            )
            if f"value_embeds.{layer}.weight" in weights:
                gate_K = 3 * torch.sigmoid(weights[f"{block}.attn.ve_gate.weight"] @ norm(x_C)[:12])
                table_KD = weights[f"value_embeds.{layer}.weight"][idx_T[position]].unflatten(0, (-1, head_dim))
                value = value + gate_K[:, None] * table_KD
            keys.append(1.2 * norm(turned(key, position)))
            values.append(value)
            query = 1.2 * norm(turned(query, position))
            seen, heads = range(max(0, position + 1 - limit), position + 1), []
            for head in range(n_head):
                group = head // (n_head // n_kv_head)
                scores = torch.stack([query[head] @ keys[each][group] for each in seen]) / head_dim**0.5
                shares = scores.softmax(0)
                heads.append(sum(share * values[each][group] for share, each in zip(shares, seen, strict=True)))
            x_C = x_C + weights[f"{block}.attn.c_proj.weight"] @ torch.cat(heads)
            hidden = (weights[f"{block}.mlp.c_fc.weight"] @ norm(x_C)).relu().square()
            after.append(x_C + weights[f"{block}.mlp.c_proj.weight"] @ hidden)
        stream = after
        middle = stream if layer == layers // 2 else middle
    ends = [norm(x_C - weights["backout_lambda"] * half_C) for x_C, half_C in zip(stream, middle, strict=True)]
    logits_TV = torch.stack([weights["lm_head.weight"] @ x_C for x_C in ends])[:, : SIZES["vocab_size"]]
    return 15 * torch.tanh(logits_TV / 15)


def assert_same(ours, theirs, tolerance=1e-10):
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("window", [1, 6, None])
def test_the_logits_are_those_of_the_equations(window):
    adapter, idx_BT = stirred(window), tokens()
    weights = their_tensors(adapter)
    expected_BTV = torch.stack([naive_logits(weights, idx_T, window) for idx_T in idx_BT])
    assert_same(adapter.forward(idx_BT), expected_BTV)


@pytest.mark.parametrize("kind", ["static", "static told", "cat"])
def test_so_are_those_with_a_cache(kind):
    adapter, idx_BT = stirred(), tokens(rows=1)
    cache, found = adapter.make_cache(1, LENGTH, kind.partition(" ")[0]), []
    for pos_T in torch.arange(LENGTH).split([8, *[1] * 5, 4]):
        if "told" in kind:
            cache.attend_to(int(pos_T[-1]) + 1, masked=False)
        logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
        found.append(logits_BTV)
    assert_same(torch.cat(found, dim=1)[0], naive_logits(their_tensors(adapter), idx_BT[0], 6))


PARTS = {
    "windows": lambda module: setattr(module, "windows", [None] * len(module.windows)),
    "value embedding": lambda module: module.blocks[2].attention.value_embedding.weight.zero_(),
    "value gate": lambda module: module.blocks[2].attention.value_gate.weight.zero_(),
    "smear": lambda module: module.smear_scale.zero_(),
    "gate of the smear": lambda module: module.smear_gate.weight.zero_(),
    "residual": lambda module: module.residual_scales.fill_(1.0),
    "first embedding": lambda module: module.first_scales.zero_(),
    "backout": lambda module: module.backout_scale.zero_(),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_network_without_one_of_its_parts_computes_something_else(part):
    adapter, idx_BT = stirred(), tokens()
    without = copy.deepcopy(adapter)
    PARTS[part](without.module)
    assert (without.forward(idx_BT) - adapter.forward(idx_BT)).abs().max() > 1e-3


# Caches: the token before the newest one belongs to their state


def run(adapter, cache, idx_BT, start=0):
    """Logits [B, 1, V] of the last of some tokens, through a static cache that is told its length: a chunk, then one by one."""
    logits_B1V = None
    for pos_T in torch.arange(start, start + idx_BT.shape[1]).split([max(1, idx_BT.shape[1] - 3), 1, 1, 1]):
        cache.attend_to(int(pos_T[-1]) + 1, masked=False)
        logits_B1V, cache = adapter.forward_cached(idx_BT[:, pos_T - start], pos_T, cache)
    return logits_B1V


def test_a_static_cache_can_go_back_some_tokens():
    adapter, idx_BT, other_BT = stirred(), tokens(), tokens(length=4)
    cache = adapter.make_cache(2, LENGTH, "static")
    run(adapter, cache, idx_BT)
    found_B1V = run(adapter, cache, other_BT, start=10)
    whole_BT = torch.cat((idx_BT[:, :10], other_BT), dim=1)
    assert_same(found_B1V, adapter.forward(whole_BT, last_only=True))


def test_the_cache_of_one_row_can_be_given_to_several():
    adapter, idx_1T, next_BT = stirred(), tokens(rows=1), tokens(rows=3, length=4)
    one, several = adapter.make_cache(1, LENGTH + 4, "static"), adapter.make_cache(3, LENGTH + 4, "static")
    run(adapter, one, idx_1T)
    for of_several, of_one in zip(several.tensors, one.tensors, strict=True):
        of_several.copy_(of_one.expand_as(of_several))
    found_B1V = run(adapter, several, next_BT, start=LENGTH)
    whole_BT = torch.cat((idx_1T.expand(3, -1), next_BT), dim=1)
    assert_same(found_B1V, adapter.forward(whole_BT, last_only=True))


# Bytes: the closed forms are what attention is given

MODELS = ["nanochat-2026-nano", "gpt2-nano:window=5", "llama-nano:window=5", "nanochat-nano:window=5", "gpt2-mla-nano"]
MODELS += ["gpt2-mla-nano:window=5", "gpt2-mla-nano:window=300"]


def reads_of(model, engine, mode, monkeypatch):
    """Bytes of keys and values that the attention of each pass is given, and those that the closed form says."""
    monkeypatch.setattr(torch, "compile", lambda function, **arguments: function)
    read, sdpa = [], Attention.sdpa

    def recording(query, key, value, **arguments):
        read.append(key.numel() * key.element_size() + (0 if value is key else value.numel() * value.element_size()))
        return sdpa(query, key, value, **arguments)

    monkeypatch.setattr(Attention, "sdpa", staticmethod(recording))
    adapter = registry.find("models", model)()
    point = Point(model=model, dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=3, new_tokens=9)
    made = registry.find("engines", engine)(adapter, greedy.build(), point, Compiler(mode))
    made.prefill(torch.randint(256, (2, 3)))
    steps = []
    for _ in range(point.new_tokens - 1):
        read.clear()
        made.step()
        steps.append(sum(read))
    passes = flops.KV_ACCESS[made.kv_access](point)[1:]
    return steps, [sum(each.read_bytes for each in flops.layer_attentions(adapter.shape, "float32", one)) for one in passes]


@pytest.mark.parametrize(("engine", "mode"), [("cached", "off"), ("cached", "default"), ("cached-cat", "off")])
@pytest.mark.parametrize("model", MODELS)
def test_attention_reads_the_bytes_of_the_closed_form(model, engine, mode, monkeypatch):
    read, expected = reads_of(model, engine, mode, monkeypatch)
    assert read == expected
    shape = registry.find("models", model)().shape
    if shape.window == 5:
        layers = shape.windowed_layers or shape.n_layer
        longest = 2 * 4 * shape.kv_width * (layers * 5 + (shape.n_layer - layers) * (12 if mode != "off" else 11))
        assert read[-1] == longest


@pytest.mark.parametrize("name", ["nanochat-2026-d12", "nanochat-2026-d24"])
def test_a_windowed_layer_of_the_presets_reads_a_quarter_of_a_full_cache(name):
    with torch.device("meta"):
        adapter = registry.find("models", name)()
    assert adapter.shape.window == nanochat_2026.short_window(adapter.shape.block_size) == 513
    assert adapter.module.windows == [*[513, 513, 513, None] * (adapter.shape.n_layer // 4)]
    one = flops.Pass(rows=1, tokens=1, context=2048, logits_positions=1, kv_read=2048, kv_written=1)
    full, windowed = flops.layer_attentions(adapter.shape, "bfloat16", one)
    assert windowed.read_bytes / 3 / full.read_bytes == 513 / 2048


# Arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("window=0", "window=0 of model 'nanochat-2026-nano' is not allowed; give a whole number (at least 1) or none"),
        ("window=x", "window=x of model 'nanochat-2026-nano' is not allowed"),
        ("window_pattern=SX", "window_pattern 'SX' is not made of S (short) and L (long)"),
        ("n_embd=16", "n_embd 16 is below 24"),
        ("n_head=64,n_kv_head=64", "heads are 1 wide"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, words):
    with pytest.raises(UserError) as caught:
        registry.find("models", f"nanochat-2026-nano:{arguments}")()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_window_all_layers_attend_to_all_positions():
    adapter = registry.find("models", "nanochat-2026-nano:window=none")()
    assert (adapter.shape.window, adapter.shape.windowed_layers) == (None, None)
    assert adapter.module.windows == [None] * 4


# Checkpoints


def test_a_checkpoint_gives_the_logits_of_the_equations(tmp_path):
    tensors = {name: tensor.float() for name, tensor in their_tensors(stirred(None)).items()}
    files.save_nanochat(tmp_path / "d5", tensors=tensors, settings={**SIZES, "sequence_len": 24, "window_pattern": "SSSL"})
    adapter = registry.find("models", f"nanochat:{tmp_path}/d5")()
    assert adapter.shape.architecture == "nanochat-2026"
    assert adapter.module.windows == [129, 129, 129, None, None]
    adapter.module.to(torch.float64).eval()
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    idx_BT = tokens()
    expected_BTV = torch.stack([naive_logits(wide, idx_T, None) for idx_T in idx_BT])
    # Its angles are computed in float32.
    assert_same(adapter.forward(idx_BT), expected_BTV, 1e-5)


@pytest.mark.parametrize(
    ("changes", "without", "words"),
    [
        ({}, "smear_gate.weight", "has no tensor smear_gate.weight, so it is from before March 2026; only nanochat's"),
        ({}, "backout_lambda", "has no tensor backout_lambda, which its settings need"),
        ({}, "value_embeds.2.weight", "has no tensor value_embeds.2.weight, which its settings need"),
        ({"n_layer": 10**9}, "", "has no tensor transformer.h.5.attn.c_q.weight"),
        ({"window_pattern": 3}, "", "window_pattern 3 is no text like SSSL"),
        ({"window_pattern": "XL"}, "", "window_pattern 'XL' is not made of S (short) and L (long)"),
        ({"rope": 1}, "", "has the setting 'rope'; only nanochat's architectures of autumn 2025 and since March 2026"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(tmp_path, changes, without, words):
    tensors = {name: tensor.float() for name, tensor in their_tensors(stirred(None)).items() if name != without}
    settings = {**SIZES, "sequence_len": 24, "window_pattern": "SSSL", **changes}
    files.save_nanochat(tmp_path / "d5", tensors=tensors, settings=settings)
    with pytest.raises(UserError) as caught:
        registry.find("models", f"nanochat:{tmp_path}/d5")()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

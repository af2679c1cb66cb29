"""The examples: short, and as true to the contracts as our own models. Foreign code has stand-ins that are called as it is."""

import importlib.util
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.engines.cached_cat import CachedCat
from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.records import Verdict
from nanobench.samplers.greedy import greedy
from nanobench.schema import Point

FILES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 61}


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def load(name):
    path = next(path for path in FILES if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class GPTConfig:
    """Stands in for nanoGPT's, with its fields and defaults."""

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


class GPT(nn.Module):
    """Stands in for nanoGPT's: a tied head, and logits at the last position only where no targets are given."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight

    def forward(self, idx, targets=None):
        x_BTC = self.token_embedding(idx).cumsum(1)
        if targets is None:
            return self.lm_head(x_BTC[:, [-1]]), None
        logits_BTV = self.lm_head(x_BTC)
        return logits_BTV, F.cross_entropy(logits_BTV.flatten(0, 1), targets.view(-1), ignore_index=-1)

    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            logits_BV = self(idx)[0][:, -1] / temperature
            if top_k is not None:
                smallest_B1 = torch.topk(logits_BV, top_k).values[:, -1:]
                logits_BV = logits_BV.masked_fill(logits_BV < smallest_B1, float("-inf"))
            idx = torch.cat((idx, torch.multinomial(logits_BV.softmax(-1), 1)), dim=1)
        return idx


def nanogpt(monkeypatch, **config):
    stand_in = types.ModuleType("model")
    stand_in.GPT, stand_in.GPTConfig = GPT, GPTConfig
    monkeypatch.setitem(sys.modules, "model", stand_in)
    return load("nanogpt_adapter").build(**config)


@dataclass
class NanochatConfig:
    """Stands in for nanochat's GPTConfig, with its fields and defaults."""

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"


class KVCache:
    """Stands in for nanochat's: [layer, row, position, head, width], and the position of each row."""

    def __init__(self, batch_size, num_heads, seq_len, head_dim, num_layers, device, dtype):
        sizes = (num_layers, batch_size, seq_len, num_heads, head_dim)
        self.k_cache = torch.zeros(sizes, device=device, dtype=dtype)
        self.cache_seqlens = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.prev_embedding = None

    def reset(self):
        self.cache_seqlens.zero_()
        self.prev_embedding = None


class Nanochat(nn.Module):
    """Stands in for nanochat's GPT: computes in one dtype per process, and its projections start as zero."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.register_buffer("cos", torch.ones(1), persistent=False)

    def init_weights(self):
        nn.init.zeros_(self.c_proj.weight)

    def forward(self, idx, targets=None, kv_cache=None):
        assert self.cos.dtype == sys.modules["nanochat.gpt"].COMPUTE_DTYPE
        x_BTC = self.wte(idx)
        if kv_cache is None:
            return self.lm_head(x_BTC + self.c_proj(x_BTC.cumsum(1)))
        start, cache_BNC = int(kv_cache.cache_seqlens[0]), kv_cache.k_cache[0].flatten(2)
        end = start + idx.shape[1]
        cache_BNC[:, start:end] = x_BTC
        kv_cache.cache_seqlens += idx.shape[1]
        return self.lm_head(x_BTC + self.c_proj(cache_BNC[:, :end].cumsum(1)[:, start:]))


def nanochat(monkeypatch):
    """In float64, as the gate's reference."""
    package, gpt, engine = (types.ModuleType(name) for name in ("nanochat", "nanochat.gpt", "nanochat.engine"))
    gpt.GPT, gpt.GPTConfig, gpt.COMPUTE_DTYPE = Nanochat, NanochatConfig, torch.float32
    engine.KVCache, package.gpt, package.engine = KVCache, gpt, engine
    for module in (package, gpt, engine):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    adapter = load("nanochat_adapter").build(**TINY, n_kv_head=2, sequence_len=32)
    adapter.module.to(torch.float64).eval()
    return adapter


def huggingface():
    adapter = load("huggingface_adapter").build(**TINY, n_positions=32, bos_token_id=0, eos_token_id=0)
    for parameter in adapter.module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    adapter.module.to(torch.float64).eval()
    return adapter


def assert_contract(adapter):
    """What holds without a cache: logits, the last position, the loss, the number of parameters."""
    idx_BT, targets_BT = torch.randint(61, (2, 2, 16))
    logits_BTV = adapter.forward(idx_BT)
    assert logits_BTV.shape == (2, 16, 61)
    tokens_BN = F.pad(idx_BT, (0, 4))
    torch.testing.assert_close(adapter.forward(tokens_BN[:, :16]), logits_BTV)  # engines pass a slice, which is not contiguous
    torch.testing.assert_close(adapter.forward(idx_BT, last_only=True), logits_BTV[:, -1:])
    targets_BT[0, :5] = -1
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-1)
    torch.testing.assert_close(adapter.forward(idx_BT, targets_BT).to(loss.dtype), loss, rtol=1e-6, atol=0)
    assert adapter.shape.n_params == sum(parameter.numel() for parameter in adapter.module.parameters())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_takes_at_most_thirty_lines(path):
    assert len(path.read_text().splitlines()) <= 30


def test_nanogpt_meets_the_contract(monkeypatch):
    adapter = nanogpt(monkeypatch, **TINY, block_size=32)
    assert_contract(adapter)
    assert (adapter.shape.n_kv_head, adapter.shape.block_size) == (2, 32)


@pytest.mark.parametrize("kind", ["static", "cat"])
def test_nanogpt_has_no_cache(monkeypatch, kind):
    with pytest.raises(Skip, match="nanogpt has no key-value cache"):
        nanogpt(monkeypatch, **TINY, block_size=32).make_cache(1, 8, kind)


def test_huggingface_meets_the_contract():
    adapter = huggingface()
    assert_contract(adapter)
    assert (adapter.shape.n_kv_head, adapter.shape.block_size) == (2, 32)


@pytest.mark.parametrize("chunks", [[9, *[1] * 7], [8, 8], [3, 5, 1, 7], [16]], ids=str)
@pytest.mark.parametrize("kind", ["static", "cat"])
def test_huggingface_cached_equals_the_whole_sequence(kind, chunks):
    adapter = huggingface()
    cache = adapter.make_cache(2, 20, kind)
    for idx_BT in torch.randint(61, (2, 2, 16)):  # two calls in succession on one static cache, as an engine makes them
        if kind == "cat":
            cache = adapter.make_cache(2, 20, kind)
        seen = []
        for pos_T in torch.arange(16).split(chunks):
            logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
            seen.append(logits_BTV)
        torch.testing.assert_close(torch.cat(seen, dim=1), adapter.forward(idx_BT), rtol=0, atol=1e-10)


def test_huggingface_static_cache_is_allocated_at_once():
    adapter = huggingface()
    layers = adapter.make_cache(3, 40, "static").layers
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert allocated == adapter.shape.kv_bytes_per_token("float64") * 3 * 40


def test_nanochat_meets_the_contract(monkeypatch):
    adapter = nanochat(monkeypatch)
    assert_contract(adapter)
    assert (adapter.shape.n_kv_head, adapter.shape.block_size) == (2, 32)
    assert (adapter.shape.matmul_params, adapter.shape.lookup_params) == (32 * 32 + 61 * 32, 61 * 32)


@pytest.mark.parametrize("chunks", [[9, *[1] * 7], [8, 8], [1] * 16, [16]], ids=str)
def test_nanochat_cached_equals_the_whole_sequence(monkeypatch, chunks):
    adapter = nanochat(monkeypatch)
    cache = adapter.make_cache(2, 20, "static")
    for idx_BT in torch.randint(61, (2, 2, 16)):
        seen = []
        for pos_T in torch.arange(16).split(chunks):
            logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
            seen.append(logits_BTV)
        torch.testing.assert_close(torch.cat(seen, dim=1), adapter.forward(idx_BT), rtol=0, atol=1e-10)


def verdict_on(adapter, build):
    """The gate's verdict on an engine over an adapter."""
    adapter.module.to(torch.float32)
    point = Point(model="", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=9, new_tokens=7)
    with torch.inference_mode():
        reference = generation_gate.Reference(adapter, point, seed=0)

        def build_any(adapter, point):
            return build(adapter, greedy, point, Compiler("off"))

        return generation_gate.judge(reference, build_any, build_any(adapter, point), False)


def test_our_engine_over_nanochats_cache_passes_the_gate(monkeypatch):
    verdict = verdict_on(nanochat(monkeypatch), Cached)
    assert verdict.verdict is Verdict.EXACT, verdict


def test_the_gate_sees_nanochats_cache(monkeypatch):
    """Its projections are zero at first: then a cache that is wrong would not show."""
    adapter = nanochat(monkeypatch)
    adapter.seek = lambda cache, pos_T: cache.k_cache.zero_()
    assert verdict_on(adapter, Cached).verdict is Verdict.WRONG


def test_nanogpts_own_generate_passes_the_gate_as_a_black_box(monkeypatch):
    verdict = verdict_on(nanogpt(monkeypatch, **TINY, block_size=32), load("black_box").build)
    assert verdict.verdict is Verdict.EXACT, verdict
    assert "black box" in verdict.note


PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()


def code_of(section):
    """The Python of a section of the page for plug-in authors."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_page_shows_a_model_that_meets_the_contract(monkeypatch):
    stand_in = types.ModuleType("my_lab")
    stand_in.GPT, stand_in.Config = Nanochat, NanochatConfig
    monkeypatch.setitem(sys.modules, "my_lab", stand_in)
    monkeypatch.setitem(sys.modules, "nanochat.gpt", types.SimpleNamespace(COMPUTE_DTYPE=torch.float32))
    code, _ = code_of("A model")
    exec(code, names := {})
    assert_contract(names["build"](**TINY, n_kv_head=2, sequence_len=32))


class NanogptWithCache(nn.Module):
    """A fork of nanoGPT as the page describes it: the past grows, and logits of all positions come only with a loss."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding, self.head = nn.Embedding(config.vocab_size, config.n_embd), nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, idx_BT, targets_BT=None, past_kv=None):
        seen_BTC = self.embedding(idx_BT)
        past_kv = seen_BTC if past_kv is None else torch.cat((past_kv, seen_BTC), dim=1)
        means_BTC = past_kv.cumsum(1)[:, -idx_BT.shape[1] :]
        if targets_BT is None:
            return self.head(means_BTC[:, [-1]]), None, past_kv
        logits_BTV = self.head(means_BTC)
        return logits_BTV, F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-1), past_kv


def test_the_page_shows_a_fork_of_nanogpt_with_a_growing_cache(monkeypatch):
    stand_in = types.ModuleType("model")
    stand_in.GPT, stand_in.GPTConfig = NanogptWithCache, lambda **sizes: types.SimpleNamespace(**sizes)
    monkeypatch.setitem(sys.modules, "model", stand_in)
    _, code = code_of("A model")
    exec(code, names := {})
    adapter = names["build"](**TINY, block_size=32)
    assert_contract(adapter)
    assert verdict_on(adapter, CachedCat).verdict is Verdict.EXACT


def test_the_page_shows_the_black_box_of_the_examples():
    (code,) = code_of("A black box")
    kept = [line.partition("  #")[0] for line in (FILES[0].parent / "black_box.py").read_text().splitlines()]
    assert kept[2:] == code.splitlines()

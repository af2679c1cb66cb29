"""The example adapters: short, and as true to the Adapter contract as our own models."""

import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanobench.errors import Skip

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
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight

    def forward(self, idx, targets=None):
        x_BTC = self.token_embedding(idx).cumsum(1)
        if targets is None:
            return self.lm_head(x_BTC[:, [-1]]), None
        logits_BTV = self.lm_head(x_BTC)
        return logits_BTV, F.cross_entropy(logits_BTV.flatten(0, 1), targets.view(-1), ignore_index=-1)


def nanogpt(monkeypatch, **config):
    stand_in = types.ModuleType("model")
    stand_in.GPT, stand_in.GPTConfig = GPT, GPTConfig
    monkeypatch.setitem(sys.modules, "model", stand_in)
    return load("nanogpt_adapter").build(**config)


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
def test_an_adapter_takes_at_most_thirty_lines(path):
    assert len(path.read_text().splitlines()) <= 30


def test_nanogpt_meets_the_contract(monkeypatch):
    adapter = nanogpt(monkeypatch, **TINY, block_size=32)
    assert_contract(adapter)
    assert (adapter.shape.n_kv_head, adapter.shape.block_size) == (2, 32)


@pytest.mark.parametrize("kind", ["static", "cat"])
def test_nanogpt_has_no_cache(monkeypatch, kind):
    with pytest.raises(Skip, match="nanoGPT's GPT has no key-value cache"):
        nanogpt(monkeypatch, **TINY).make_cache(1, 8, kind)


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

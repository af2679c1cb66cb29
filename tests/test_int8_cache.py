"""An int8 KV cache gives back what it was given to within half a step, and attention without a cache rounds in the same way."""

import dataclasses

import pytest
import torch

from nanobench.errors import Skip
from nanobench.models import _lossy as lossy
from nanobench.models._int8_cache import Int8Cache, from_int8, rounded, to_int8
from nanobench.probes import memory
from nanobench.roofline import flops
from nanobench.schema import Arm, Point
from nanobench.worker.workloads import generate

POINT = Point(model="llama-nano", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=6, new_tokens=4)
ARM = Arm(engine="cached", kv_cache="int8")


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_is_off_by_half_a_step_at_most(dtype):
    x_BKTD = torch.randn(2, 3, 5, 16).to(dtype)
    numbers, scales = to_int8(x_BKTD)
    assert numbers.dtype == torch.int8
    assert scales.shape == (2, 3, 5, 1)
    steps = (from_int8(numbers, scales).float() - x_BKTD.float()).abs() / scales.float()
    assert steps.max() <= (0.5001 if dtype == torch.float32 else 1.1)
    assert torch.equal(rounded(torch.zeros(1, 1, 1, 16)), torch.zeros(1, 1, 1, 16))


def both(model="llama-nano"):
    point = dataclasses.replace(POINT, model=model)
    adapter = generate.load(point, seed=0)
    return adapter, lossy.measured(adapter, ARM)


@pytest.mark.parametrize("model", ["gpt2-nano", "nanochat-nano", "llama-nano"])
def test_with_and_without_the_cache_the_same_is_computed(model):
    adapter, made = both(model)
    idx_BT = torch.randint(256, (2, 9))
    cache = made.make_cache(2, 9, "static")
    assert isinstance(cache, Int8Cache)
    cache.attend_to(6, masked=False)
    logits = [made.forward_cached(idx_BT[:, :6], torch.arange(6), cache)[0]]
    for place in range(6, 9):
        cache.attend_to(place + 1, masked=False)
        logits.append(made.forward_cached(idx_BT[:, place : place + 1], torch.tensor([place]), cache)[0])
    uncached = made.forward(idx_BT)[:, 5:]
    assert (torch.cat(logits, dim=1) - uncached).abs().max() < 1e-3 * uncached.abs().max()
    plain = adapter.forward(idx_BT)[:, 5:]
    assert (plain - uncached).abs().max() > 1e-4 * plain.abs().max(), "else nothing was rounded"


def test_a_masked_step_reads_the_same():
    _, made = both()
    idx_BT = torch.randint(256, (2, 7))
    found = []
    for masked in (False, True):
        cache = made.make_cache(2, 12, "static")
        cache.attend_to(6, masked=False)
        made.forward_cached(idx_BT[:, :6], torch.arange(6), cache)
        cache.attend_to(12 if masked else 7, masked=masked)
        found.append(made.forward_cached(idx_BT[:, 6:], torch.tensor([6]), cache)[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_its_bytes_are_the_closed_form():
    adapter, made = both()
    cache = made.make_cache(2, 10, "static")
    per_token = flops.kv_bytes_per_token(adapter.shape, "float32", "int8")
    assert memory.tensor_bytes(cache) == 2 * 10 * per_token
    assert per_token < 0.4 * adapter.shape.kv_bytes_per_token("float32")


def test_other_caches_and_models_are_skipped():
    _, made = both()
    with pytest.raises(Skip, match=r"llama has no int8 cache of kind 'cat' \(it has: static\)"):
        made.make_cache(2, 10, "cat")
    with pytest.raises(Skip, match="an int8 KV cache is one of the built-in models"):
        lossy.measured(object_with_shape(), ARM)


def object_with_shape():
    adapter = generate.load(POINT, seed=0)
    return type("Other", (), {"module": adapter.module, "shape": adapter.shape})()

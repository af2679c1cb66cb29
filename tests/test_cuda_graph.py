"""The captured decode step on a CUDA whose graphs only exist in numbers: it computes what `cached` does."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from nanobench import registry
from nanobench.engines import cuda_graph
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.models._kv_cache import StaticCache
from nanobench.probes import compilation
from nanobench.roofline import flops
from nanobench.samplers import greedy
from nanobench.schema import Point

ON_CPU = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=8, new_tokens=6)
POINT = Point(**{**vars(ON_CPU), "device": "cuda"})


class Graph:
    """Replays by running the step that was captured; a step after a capture may not run by itself."""

    def __init__(self):
        self.body, self.replays, self.registered = None, 0, False

    def register_generator_state(self, generator):
        assert not self.registered
        self.registered = True

    def replay(self):
        self.replays += 1
        self.body()


class Stream:
    """Keeps an order that a CPU has anyway."""

    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        assert isinstance(other, Stream)


class Captured(list):
    """The view of the cache that each graph was captured under, and whether it had a generator."""


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda's graphs on a CPU."""
    reserved, views, captured, streams, registered = iter((1000, 5000)), [], Captured(), set(), []
    captured.registered = registered
    attend_to = StaticCache.attend_to
    monkeypatch.setattr(StaticCache, "attend_to", lambda self, *view: (views.append(view), attend_to(self, *view))[1])

    def graph(graph, pool, stream):
        assert pool == "pool"
        registered.append(graph.registered)
        streams.add(stream)
        assert len(streams) == 1
        captured.append(views[-1])
        return nullcontext()

    for name, value in {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "graph": graph,
        "empty_cache": lambda: None,
        "graph_pool_handle": lambda: "pool",
        "memory_reserved": lambda device: next(reserved),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return captured


def adapter(model="gpt2-nano"):
    torch.manual_seed(0)
    made = registry.find("models", model)()
    made.module.eval()
    return made


def build(cuda, point=POINT, mode="off", model="gpt2-nano"):
    """An engine whose graphs replay what was captured: a step under the view that the cache had then."""
    engine = cuda_graph.build(adapter(model), greedy.build(), point, Compiler(mode, "cuda"))

    def body(seen, captured, logits_BV):
        engine.attend_to(*captured)
        logits_BV.copy_(engine.decode_at[seen]())

    captured_at = dict(zip(engine.graphs, cuda, strict=True))
    for seen, (graph, logits_BV) in engine.graphs.items():
        graph.body = partial(body, seen, captured_at[seen], logits_BV)
    return engine


@pytest.mark.parametrize(("bucket", "replays"), [(512, {14: 5}), (4, {14: 1, 12: 4}), (3, {14: 1, 12: 3, 9: 1})])
def test_a_replayed_step_generates_what_the_cached_engine_generates(cuda, monkeypatch, bucket, replays):
    monkeypatch.setattr(flops, "BUCKET", bucket)
    prompt_BT = torch.randint(256, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        engine = build(cuda)
        tokens = generation_gate.run_free(engine, prompt_BT, POINT.new_tokens)
        plain = registry.find("engines", "cached")(adapter(), greedy.build(), ON_CPU, Compiler("off"))
        assert tokens.equal(generation_gate.run_free(plain, prompt_BT, POINT.new_tokens))
        torch.testing.assert_close(engine.logits_BV, plain.logits_BV, atol=1e-5, rtol=0)
        assert {seen: graph.replays for seen, (graph, _) in engine.graphs.items()} == replays


def test_a_single_token_needs_no_graph(cuda):
    engine = build(cuda, Point(**{**vars(POINT), "new_tokens": 1}))
    assert (engine.graphs, engine.graph_bytes) == ({}, 0)
    with torch.inference_mode():
        assert generation_gate.run_free(engine, torch.zeros((3, 8), dtype=torch.long), 1).shape == (3, 9)


def test_a_growing_cache_is_not_replayed():
    for mode in ("reduce-overhead", "max-autotune"):
        with pytest.raises(Skip, match="would overwrite a cache that grows"):
            registry.find("engines", "cached-cat")(adapter(), greedy.build(), POINT, Compiler(mode, "cuda"))


@pytest.mark.parametrize("model", ["gpt2-nano:window=5", "gpt2-mla-nano", "nanochat-2026-nano"])
def test_so_does_one_over_windows_latents_and_tokens_in_the_cache(cuda, monkeypatch, model):
    monkeypatch.setattr(flops, "BUCKET", 4)
    prompt_BT = torch.randint(256, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        engine = build(cuda, model=model)
        tokens = generation_gate.run_free(engine, prompt_BT, POINT.new_tokens)
        plain = registry.find("engines", "cached")(adapter(model), greedy.build(), ON_CPU, Compiler("off"))
        assert tokens.equal(generation_gate.run_free(plain, prompt_BT, POINT.new_tokens))
        torch.testing.assert_close(engine.logits_BV, plain.logits_BV, atol=1e-5, rtol=0)


def test_each_graph_may_hold_a_compiled_step(cuda, compile_with, monkeypatch):
    """One function per length for the compiler, compiled before its capture. torch registers its own generator by itself."""
    compile_with("eager")
    monkeypatch.setattr(flops, "BUCKET", 4)
    prompt_BT = torch.randint(256, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tally = compilation.CompileCounters()
        engine = build(cuda, mode="default")
        assert (tally.graphs, tally.breaks, tally.eager) == (2, 0, 0)
        tokens = generation_gate.run_free(engine, prompt_BT, POINT.new_tokens)
        assert (tally.graphs, tally.breaks, tally.eager) == (3, 0, 0)
        plain = registry.find("engines", "cached")(adapter(), greedy.build(), ON_CPU, Compiler("off"))
        assert tokens.equal(generation_gate.run_free(plain, prompt_BT, POINT.new_tokens))
    assert engine.kv_access == "buckets"
    assert cuda.registered == [False, False]


def test_an_eager_capture_knows_its_generator(cuda):
    with torch.inference_mode():
        build(cuda)
    assert cuda.registered == [True]


def test_a_second_call_begins_anew(cuda):
    with torch.inference_mode():
        engine = build(cuda)
        prompts = [torch.full((3, 8), token) for token in (5, 9, 5)]
        first, _, again = (generation_gate.run_free(engine, prompt_BT, POINT.new_tokens) for prompt_BT in prompts)
    assert first.equal(again)


def test_a_graphs_memory_is_what_the_capture_reserved(cuda):
    with torch.inference_mode():
        assert build(cuda).graph_bytes == 4000


def test_it_is_refused_where_it_would_be_something_else(cuda):
    with pytest.raises(Skip, match="needs a CUDA device, not cpu"):
        cuda_graph.build(adapter(), greedy.build(), ON_CPU, Compiler("off"))
    with pytest.raises(Skip, match="reduce-overhead captures graphs of its own: use it with --engine cached"):
        build(cuda, mode="reduce-overhead")
    with pytest.raises(Skip, match="fixed shapes: use the compile mode default"):
        build(cuda, mode="dynamic")

"""What is compiled is compiled whole: every engine of ours over every model of ours, and one that is not is an error."""

import itertools
import os
from dataclasses import replace

import pytest
import torch

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.models import _packed_linear as packed_linear
from nanobench.probes import compilation
from nanobench.probes.clock import HostClock
from nanobench.schema import Arm, Point
from nanobench.worker.workloads import generate
from nanobench.worker.workloads.generate import Generate

ENGINES = [name for name in registry.names("engines") if name not in ("cuda-graph", "speculative")]
"""Those that are compiled on a CPU."""
SAMPLERS = [name for name in registry.names("samplers") if name != "top-p-flashinfer"]
NANOS = [name for name in registry.presets() if name.endswith("-nano")]
ARCHITECTURES = list(zip(NANOS, itertools.cycle(("default", "dynamic")), strict=False))
"""Each architecture in one of two modes, in turns."""
CAPTURED = [
    pytest.param(model, mode, engine, marks=[pytest.mark.slow] * (model != NANOS[0] and engine != "cached"))
    for (model, mode), engine in itertools.product(ARCHITECTURES, ENGINES)
]
SAMPLED = [
    pytest.param(
        engine, sampler, marks=[pytest.mark.slow] * (engine == "cached" and sampler not in ("greedy", "top-p-rejection"))
    )
    for engine, sampler in [("uncached", "top-k"), *(("cached", sampler) for sampler in SAMPLERS)]
]


@pytest.fixture(autouse=True)
def no_kernels(compile_with):
    """Graphs run as torch runs them."""
    compile_with("eager")
    with torch.inference_mode():
        yield


def loaded(model):
    point = Point(model=model, dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=8, new_tokens=6)
    adapter = generate.load(point, seed=0)
    packed_linear.pack(adapter.module)
    return adapter, point


def tokens(adapter, point, engine, sampler, mode):
    prompt_BT = torch.arange(24).view(3, 8)
    if engine == "cached-shared-prompt":
        point, prompt_BT = replace(point, shared_prompt="on"), prompt_BT[:1].repeat(3, 1)
    built = registry.find("engines", engine)(adapter, registry.find("samplers", sampler)(), point, Compiler(mode))
    built.prefill(prompt_BT)
    for _ in range(point.new_tokens - 1):
        built.step()
    return built.tokens_BN


@pytest.mark.parametrize(("model", "mode", "engine"), CAPTURED)
def test_every_engine_is_captured_whole_over_every_architecture(model, mode, engine):
    adapter, point = loaded(model)
    if (model, engine) == ("nanochat-2026-nano", "cached-shared-prompt"):
        with pytest.raises(Skip, match="keeps tokens too"):
            tokens(adapter, point, engine, "greedy", mode)
        return
    plain = tokens(adapter, point, engine, "greedy", "off")
    tally = compilation.CompileCounters()
    assert torch.equal(tokens(adapter, point, engine, "greedy", mode), plain)
    assert (tally.breaks, tally.eager) == (0, 0), tally.cause
    assert 1 <= tally.graphs <= 3


@pytest.mark.parametrize(("engine", "sampler"), SAMPLED)
def test_every_sampler_is_captured_with_its_step(engine, sampler):
    tally = compilation.CompileCounters()
    tokens(*loaded("gpt2-nano"), engine, sampler, "dynamic")
    assert (tally.breaks, tally.eager) == (0, 0), tally.cause
    assert 1 <= tally.graphs <= 3


def test_an_arm_that_would_run_partly_eagerly_is_an_error_with_the_cause():
    adapter, point = loaded("gpt2-nano")
    forward = adapter.module.forward

    def broken(idx_BT, pos_T, cache=None):
        for _ in range(2):
            torch._dynamo.graph_break()
            x_BTC = forward(idx_BT, pos_T, cache)
        return x_BTC

    adapter.module.forward = broken
    arm = Arm(engine="uncached", compile_mode="default")
    workload = Generate(adapter, generation_gate.Reference(adapter, point, 0), point, arm, HostClock())
    with pytest.raises(RuntimeError, match=r"left functions to run eagerly \(\d+\): .*graph_break"):
        workload.begin()


def test_what_an_engine_compiles_while_it_is_built_counts_too(monkeypatch):
    adapter, point = loaded("gpt2-nano")
    workload = Generate(
        adapter,
        generation_gate.Reference(adapter, point, 0),
        point,
        Arm(engine="uncached", compile_mode="default"),
        HostClock(),
    )
    build = workload.build

    def compiling():
        build()
        torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))

    monkeypatch.setattr(workload, "build", compiling)
    workload.begin()
    assert workload.compilation.compiled_graphs == 2


def test_a_tally_counts_what_is_new_only():
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    tally = compilation.CompileCounters()
    assert (tally.graphs, tally.breaks, tally.eager) == (0, 0, 0)
    torch.compile(lambda x: x + 2, backend="eager")(torch.ones(2))
    assert tally.graphs == 1
    assert tally.cause == "dynamo reports no cause"


def test_an_error_is_told_in_brief():
    assert compilation.summarize_error("one\ntwo") == "one"
    message = "failed\n  Explanation: a reason\n  Hint: go away\n\n  Developer debug context: f(x)\n"
    assert compilation.summarize_error(message) == "failed: a reason: f(x)"
    assert compilation.summarize_error("") == ""


def test_no_arm_finds_what_another_compiled(tmp_path, monkeypatch):
    """The same code under two names is compiled twice; under one of them again it is found."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    compilation.warm_vec_isa_cache()
    found = []
    for owner in ("one", "other", "one"):
        torch._dynamo.reset()
        counters.clear()
        with compilation.own_cache(owner):
            torch.compile(lambda values_N: (values_N * 3).sin())(torch.ones(64))
        found.append(counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"])
    assert (os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ.get("TRITON_CACHE_DIR")) == (str(tmp_path), None)
    assert found[:2] == [0, 0]
    assert found[2] > 0

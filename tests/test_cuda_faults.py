"""Faults of the CUDA path that were found by reading, each as far as a machine without a GPU can show it."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.probes import memory, profiler
from nanobench.schema import GRAPH_MODES, Arm, Point
from nanobench.training.trainer import refuse_overwritten_gradients

POINT = Point(
    model="gpt2-nano", dtype="float32", device="cuda", threads=1, batch_size=2, seq_len=16, phase="pretrain", grad_accum=2
)


def event(name, device=DeviceType.CUDA, start=0, end=10, **facts):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, device_type=device, time_range=span, **facts)


def test_memory_efficient_attention_is_a_kernel_and_copies_fills_and_annotations_are_not():
    names = ("fmha_cutlassF_f16_aligned_MemEfficient", "sgemm", "Memcpy DtoH", "Memset (Device)")
    events = [
        *(event(name) for name in names),
        event("## step ##", is_user_annotation=True),
        event("cudaLaunchKernel", DeviceType.CPU),
        event("cudaGraphLaunch", DeviceType.CPU),
    ]
    found = profiler.on_cuda(events)
    assert (found.kernels, found.operations, found.graph_launches) == (2, 2, 1)


def test_a_failed_allocation_of_cublas_is_out_of_memory():
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize("mode", GRAPH_MODES)
def test_a_graph_that_would_overwrite_gradients_is_skipped(mode):
    arm = Arm(engine="", compile_mode=mode)
    with pytest.raises(Skip, match="with --grad-accum use --compile-mode default"):
        refuse_overwritten_gradients(POINT, arm)
    refuse_overwritten_gradients(Point(**{**vars(POINT), "grad_accum": 1}), arm)
    refuse_overwritten_gradients(POINT, Arm(engine="", compile_mode="default"))


def test_all_that_a_captured_step_reads_at_a_fixed_address_is_static(monkeypatch):
    marked = []
    compiler = Compiler("off")
    monkeypatch.setattr(compiler, "mark_static", lambda *tensors: marked.extend(tensors))
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=4)
    engine = registry.find("engines", "cached")(
        registry.find("models", "gpt2-nano")(), registry.find("samplers", "greedy")(), point, compiler
    )
    addresses = {tensor.data_ptr() for tensor in marked}
    for tensor in (engine.tokens_BN, engine.pos_1, engine.prompt_T, engine.cache.steps_S, *engine.cache.tensors):
        assert tensor.data_ptr() in addresses


@pytest.mark.parametrize("model", ["gpt2-nano", "nanochat-nano", "llama-nano"])
def test_logits_at_some_positions_need_one_pass_and_are_those_of_all(model, monkeypatch):
    torch.manual_seed(0)
    adapter = registry.find("models", model)()
    adapter.module.double().eval()
    sequence = torch.randint(adapter.shape.vocab_size, (2, 20))
    with torch.inference_mode():
        whole = generation_gate.logits_at(adapter, sequence, 12, [0, 3, 7])
        monkeypatch.setattr(generation_gate, "CHUNK_BYTES", 1)
        passes = []
        forward = adapter.module.forward
        monkeypatch.setattr(adapter.module, "forward", lambda *arguments: passes.append(1) or forward(*arguments))
        chosen = generation_gate.logits_at(adapter, sequence, 12, [0, 3, 7])
    assert passes == [1]
    torch.testing.assert_close(chosen, whole)

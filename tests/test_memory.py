"""What counts as memory: tensors wherever they are held, and the peaks of each phase of a call."""

import pytest
import torch
from torch.utils._python_dispatch import return_and_correct_aliasing

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.gates import generation as generation_gate
from nanobench.probes import memory
from nanobench.samplers import greedy
from nanobench.schema import Point
from nanobench.worker.workloads.peak_memory import PeakMemoryMeter

POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=6)


class Wrapped(torch.Tensor):
    """A tensor like those of torchao: it looks like float32, and holds packed numbers and scales."""

    @staticmethod
    def __new__(cls, packed, scale):
        return torch.Tensor._make_wrapper_subclass(cls, packed.shape, dtype=torch.float32)

    def __init__(self, packed, scale):
        self.packed, self.scale = packed, scale

    def __tensor_flatten__(self):
        return ["packed", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["packed"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        return return_and_correct_aliasing(function, arguments, keywords, arguments[0])


def test_a_tensor_that_wraps_others_counts_as_what_it_holds():
    packed, scale = torch.zeros(16, 8, dtype=torch.int32), torch.ones(16)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(Wrapped(packed, scale), requires_grad=False)
    assert memory.tensor_bytes(module) == packed.nbytes + scale.nbytes
    assert memory.tensor_bytes([module, {"again": scale}]) == packed.nbytes + scale.nbytes
    assert memory.tensor_bytes({"plain numbers": packed}) == 0


@pytest.mark.parametrize("engine", ["cached", "uncached", "speculative", "speculative:draft=gpt2-nano,draft_len=2"])
@pytest.mark.parametrize("new_tokens", [1, 6])
def test_each_engine_has_the_peaks_of_its_phases(engine, new_tokens):
    """Of an engine that drafts too: how many steps it takes is not known before."""
    point = Point(**{**vars(POINT), "new_tokens": new_tokens})
    adapter = registry.find("models", "gpt2-nano")()
    adapter.module.eval()
    with torch.inference_mode():
        built = registry.find("engines", engine)(adapter, greedy.build(), point, Compiler("off"))
        meter = PeakMemoryMeter(built, "auto", torch.device("cpu"), last_step=new_tokens - 1)
        generation_gate.run_free(meter, torch.zeros((2, 8), dtype=torch.long), new_tokens)
    assert meter.complete
    assert set(meter.peaks_bytes) == ({"prefill", "decode"} if new_tokens > 1 else {"prefill"})
    assert min(meter.peaks_bytes.values()) > 0

"""The peaks of the allocator in the phases of a call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanobench.engines.base import Engine, EngineWrapper
from nanobench.models import _sdpa as sdpa
from nanobench.probes import memory


class PeakMemoryMeter(EngineWrapper):
    """Wraps an engine and measures the allocator's peak in the prefill and in the last, longest step.

    The step of an engine with `run_call` is a whole call. Its peak is that of the phase `call`. Of an engine that drafts, every
    step is measured: how many there are is not known before.
    """

    def __init__(self, engine: Engine, attention_choice: str, device: torch.device, last_step: int) -> None:
        super().__init__(engine)
        self.attention_choice, self.device, self.last_step = attention_choice, device, last_step
        self.steps = 0
        self.peaks_bytes: dict[str, int] = {}
        self.complete = False

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.steps = 0
        self.measure_memory("prefill", lambda: self.engine.prefill(prompt_BT))

    def step(self) -> int:
        """See Engine.step."""
        self.steps += 1
        if hasattr(self.engine, "run_call"):
            return self.measure_memory("call", self.engine.step)
        if self.steps == self.last_step or hasattr(self.engine, "draft_counts"):
            return self.measure_memory("decode", self.engine.step)
        with sdpa.use_backend(self.attention_choice):
            return self.engine.step()

    def measure_memory(self, phase: str, work: Callable[[], Any]) -> Any:
        """Does the work and records the largest peak of its phase in `peaks_bytes`."""
        with sdpa.use_backend(self.attention_choice):
            result, peak_bytes = memory.allocator_peak(work, self.device)
        self.peaks_bytes[phase] = max(self.peaks_bytes.get(phase, 0), peak_bytes)
        self.complete |= phase != "prefill" or not self.last_step
        return result

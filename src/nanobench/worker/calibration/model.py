"""A synthetic GPT-2 that records timestamps around its parts while engines run it.

A part that is timed alone is faster than the same part in a model: caches are warm and threads are awake. On CUDA the queue
is filled first, so that the time between two events is the device's time and not the host's.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.profiler import record_function

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import Uncached
from nanobench.models import _packed_linear as packed_linear
from nanobench.models import gpt2
from nanobench.models._gpt import Attention
from nanobench.models._quantized_linear import QuantizedLinear, quantized
from nanobench.models.base import Adapter
from nanobench.probes import profiler
from nanobench.probes.clock import make_clock
from nanobench.roofline import flops
from nanobench.samplers import greedy
from nanobench.schema import Point

MIN_PASSES, PASSES_S = 3, 0.1
"""A pass is repeated at least so many times, and for at least so many seconds."""
MAX_PASSES = 2000
"""A pass is repeated at most so many times, even if the clock stands still."""
STEP_CONTEXT, PROMPT = 64, 4
"""Positions that a step attends to, and positions that are filled before the first step."""
PARTS = ("matmul", "lm_head", "attention", "argmax")
QUEUE_CYCLES = 5_000_000
"""A few milliseconds on a GPU: enough time to enqueue a pass."""


@dataclass(frozen=True)
class Size:
    """The size of a GPT-2, and its passes."""

    width: int
    layers: int
    vocab: int = 50_304
    batches: tuple[int, ...] = (1, 2, 4, 16, 64)
    """rows of each decode step with a cache"""
    prompts: tuple[tuple[int, int], ...] = ((1, 64), (8, 64), (32, 64))
    """rows and tokens of each pass without a cache"""

    @property
    def is_dispatch_only(self) -> bool:
        """Whether the model is so small that its time is only the dispatch of operations."""
        return self.width <= 32


@dataclass(frozen=True)
class PassTiming:
    """The timings of some passes and of their parts, in seconds; one of each per pass."""

    host_s: list[float]
    """until the call returned"""
    total_s: list[float]
    """until the device was done"""
    parts_s: dict[str, list[float]]

    @property
    def rest_s(self) -> list[float]:
        """The time outside of all parts; negative if the clock was wrong."""
        return [total_s - sum(each[number] for each in self.parts_s.values()) for number, total_s in enumerate(self.total_s)]


class InstrumentedModel:
    """A GPT-2 of one size on one device, with timestamps before and after each part."""

    is_marking = True
    """whether parts have timestamps"""

    def __init__(self, size: Size, device: torch.device, dtype: str, weights: str = "float") -> None:
        self.size, self.device, self.dtype, self.clock, self.weights = size, device, dtype, make_clock(device), weights
        self.timestamps: list[tuple[str, Any, Any]] = []
        self.counting = False
        with torch.device("meta"):
            heads = max(1, size.width // 64)
            self.adapter: Any = gpt2.build(
                n_layer=size.layers, n_head=heads, n_embd=size.width, vocab_size=size.vocab, block_size=max(STEP_CONTEXT, 256)
            )
        module: Any = self.adapter.module.to_empty(device=device).to(getattr(torch, dtype)).eval().requires_grad_(False)
        # `to_empty` separates tied weights.
        module.head.weight = module.token_embedding.weight
        # A GPU multiplies constants faster: it needs less power.
        for parameter in module.parameters():
            parameter.normal_(std=1 / size.width)
        if weights != "float":
            self.adapter = quantized(cast(Adapter, self.adapter), weights)
            module = self.adapter.module
        packed_linear.pack(module)
        module.logits = self.instrument("lm_head", module.logits)
        for part in module.modules():
            if isinstance(part, packed_linear.Linear | QuantizedLinear) and part is not module.head:
                vars(part)["forward"] = self.instrument("matmul", part.forward)
            elif isinstance(part, Attention):
                vars(part)["sdpa"] = self.instrument("attention", part.sdpa)
        self.sampler = self.instrument("argmax", greedy.build())

    def instrument(self, kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` with a timestamp before and after it, recorded as `kind`."""

        def timestamped(*args: Any, **keywords: Any) -> Any:
            if not self.is_marking:
                return work(*args, **keywords)
            before = self.clock.timestamp()
            with record_function(kind) if self.counting else nullcontext():
                result = work(*args, **keywords)
            self.timestamps.append((kind, before, self.clock.timestamp()))
            return result

        return timestamped

    def cached_step(self, batch_size: int) -> Callable[[], Any]:
        """A decode step with a cache that attends to STEP_CONTEXT positions, the same ones in every call."""
        engine = Cached(self.adapter, self.sampler, self.point(batch_size, PROMPT, STEP_CONTEXT - PROMPT + 1), Compiler("off"))
        prompt = self.prompt(batch_size, PROMPT)
        engine.prefill(prompt)

        def work() -> None:
            # Otherwise the cache would be full after some passes.
            engine.seek(STEP_CONTEXT - 1)
            engine.step()

        return work

    def full_pass(self, batch_size: int, tokens: int) -> Callable[[], Any]:
        """A pass over whole rows, as in generation without a cache."""
        engine = Uncached(self.adapter, self.sampler, self.point(batch_size, tokens, 1), Compiler("off"), last_only=True)
        prompt = self.prompt(batch_size, tokens)
        return lambda: engine.prefill(prompt)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that each pass reads."""
        return int(flops.read_bytes(self.adapter.shape, self.dtype, self.weights))

    def point(self, batch_size: int, prompt_len: int, new_tokens: int) -> Point:
        """The point that an engine is built for."""
        return Point(
            model="calibration",
            dtype=self.dtype,
            device=str(self.device),
            threads=torch.get_num_threads(),
            batch_size=batch_size,
            prompt_len=prompt_len,
            new_tokens=new_tokens,
        )

    def prompt(self, batch_size: int, tokens: int) -> torch.Tensor:
        """A prompt of zeros [B, T]: its tokens do not matter."""
        return torch.zeros((batch_size, tokens), dtype=torch.long, device=self.device)

    def count_operations(self, work: Callable[[], Any]) -> Counter[str | None]:
        """The operations that a pass on a CPU dispatches, by part; None for those outside of all parts."""
        self.counting = True
        try:
            return profiler.count_by_part(work, PARTS)
        finally:
            self.counting = False

    def host_times(self, work: Callable[[], Any]) -> list[float]:
        """Seconds until the call returned, of passes whose parts have no timestamps: on CUDA each costs like an operation."""
        self.is_marking = False
        try:
            return self.time_pass(work).host_s
        finally:
            self.is_marking = True

    def time_pass(self, work: Callable[[], Any]) -> PassTiming:
        """The timings of some passes, after one warm-up."""
        self.time_once(work)
        passes, start = [self.time_once(work)], self.clock.now()
        while len(passes) < MIN_PASSES or (self.clock.now() - start < PASSES_S and len(passes) < MAX_PASSES):
            passes.append(self.time_once(work))
        hosts_s, totals_s, parts = zip(*passes, strict=True)
        kinds = dict.fromkeys(kind for each in parts for kind in each)
        return PassTiming([*hosts_s], [*totals_s], {kind: [each.get(kind, 0.0) for each in parts] for kind in kinds})

    def time_once(self, work: Callable[[], Any]) -> tuple[float, float, dict[str, float]]:
        """Seconds of one pass: until the call returned, until the device was done, and by part."""
        self.timestamps.clear()
        self.clock.sync()
        if self.clock.enqueues:
            torch.cuda._sleep(QUEUE_CYCLES)
        begin, start = self.clock.timestamp(), self.clock.now()
        work()
        host_s, end = self.clock.now() - start, self.clock.timestamp()
        self.clock.sync()
        flat = self.clock.resolve([begin, end, *(timestamp for _, *pair in self.timestamps for timestamp in pair)])
        parts: dict[str, float] = defaultdict(float)
        for (kind, _, _), before, after in zip(self.timestamps, flat[2::2], flat[3::2], strict=True):
            parts[kind] += after - before
        return host_s, flat[1], parts

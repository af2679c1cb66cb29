"""What this machine reaches: passes of synthetic GPT-2s, each part timed where it is; and its memory. Ten seconds or so.

A part by itself is faster than the same part in a model: caches are warm, threads awake. So nothing here runs by itself.
On CUDA the queue is filled first, so that what lies between two events is the device's time and not the host's.
"""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nanobench import costs, stats
from nanobench.costs import Pass
from nanobench.engines.base import Compiler
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import Uncached
from nanobench.limits import Limit, Limits
from nanobench.models import gpt2
from nanobench.models.base import Attention
from nanobench.probes import dispatches
from nanobench.probes.clock import Clock, make_clock
from nanobench.samplers import greedy
from nanobench.schema import DTYPE_BYTES, Point

MIB = 1 << 20
LARGE_BYTES = 256 * MIB
LEAST_PASSES, PASSES_S = 3, 0.1
SPAN, PROMPT = 64, 4
"""Positions of the cache, and those that are filled before the first step."""
LEAST_WORK = 0.1
"""What dispatching a part may leave of its time at least."""
LEAST_ROWS = 16
"""With fewer rows norms and additions take no longer than with one."""
QUEUE_CYCLES = 5_000_000
"""A few milliseconds on a GPU: time enough to enqueue a pass."""


@dataclass(frozen=True)
class Size:
    """A GPT-2 and how it is run."""

    width: int
    layers: int
    vocab: int = 50_304
    batches: tuple[int, ...] = (1, 2, 4, 16, 64)
    """rows of a step with a cache"""
    prompts: tuple[tuple[int, int], ...] = ((1, 64), (8, 64), (32, 64))
    """rows and tokens of a pass without one"""

    @property
    def is_hollow(self) -> bool:
        """Whether it is so small that only dispatching its operations takes time."""
        return self.width <= 32


HOLLOW = Size(32, 4, 64, (1,), ())
SIZES = (
    HOLLOW,
    Size(128, 4),
    Size(320, 4, prompts=((1, 64), (8, 64), (32, 64), (4, 256))),
    Size(640, 3),
    Size(1024, 2, prompts=((1, 64), (8, 64))),
)
GLANCE = (Size(128, 4, 64, (1,), ()), Size(640, 2, 32_768, (1, 4), ()), Size(320, 2, 64, (), ((8, 64),)))
"""What a brief calibration looks at: dispatch, memory and multiplication."""


@dataclass(frozen=True)
class Spent:
    """Median seconds of a pass and of its parts."""

    host_s: float
    """until the call returned"""
    whole_s: float
    """until the device was done"""
    parts: dict[str, float]
    calls: dict[str, int]
    """how often each part was called"""
    spreads: dict[str, float]
    """relative interquartile ranges"""

    @property
    def rest_s(self) -> float:
        """What lies between the parts."""
        return max(0.0, self.whole_s - sum(self.parts.values()))


class Bench:
    """A GPT-2 of one size on one device, whose parts leave marks before and after them."""

    def __init__(self, size: Size, device: torch.device, dtype: str) -> None:
        self.size, self.device, self.dtype, self.clock = size, device, dtype, make_clock(device)
        self.marks: list[tuple[str, Any, Any]] = []
        with torch.device("meta"):
            heads = max(1, size.width // 64)
            self.adapter: Any = gpt2.build(
                n_layer=size.layers, n_head=heads, n_embd=size.width, vocab_size=size.vocab, block_size=max(SPAN, 256)
            )
        module: Any = self.adapter.module.to_empty(device=device).to(getattr(torch, dtype)).eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter.fill_(1 / size.width)
        module.logits = self.around("head", module.logits)
        for part in module.modules():
            if isinstance(part, nn.Linear):
                vars(part)["forward"] = self.around("matmul", part.forward)
            elif isinstance(part, Attention):
                vars(part)["look"] = self.around("attention", part.look)
        self.sampler = self.around("pick", greedy.build())

    def around(self, kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work between two marks."""

        def marked(*args: Any, **keywords: Any) -> Any:
            before = self.clock.mark()
            result = work(*args, **keywords)
            self.marks.append((kind, before, self.clock.mark()))
            return result

        return marked

    def step(self, batch_size: int) -> Callable[[], Any]:
        """One token more for each row, from the prompt's end again where the cache is full."""
        engine = Cached(self.adapter, self.sampler, self.point(batch_size, PROMPT, SPAN - PROMPT), Compiler("off"))
        prompt = self.prompt(batch_size, PROMPT)
        engine.prefill(prompt)

        def work() -> None:
            # A fill is what the engine's own step does to the position, so that this loop never ends at the cache's.
            engine.pos_1.fill_(SPAN // 2)
            engine.step()

        return work

    def read(self, batch_size: int, tokens: int) -> Callable[[], Any]:
        """A pass over whole rows, as generation without a cache makes it."""
        engine = Uncached(self.adapter, self.sampler, self.point(batch_size, tokens, 1), Compiler("off"), last_only=True)
        prompt = self.prompt(batch_size, tokens)
        return lambda: engine.prefill(prompt)

    def point(self, batch_size: int, prompt_len: int, new_tokens: int) -> Point:
        """What an engine must know."""
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
        """Tokens that nobody reads."""
        return torch.zeros((batch_size, tokens), dtype=torch.long, device=self.device)

    def spent(self, work: Callable[[], Any]) -> Spent:
        """Times of some passes, after one that does not count."""
        self.once(work)
        passes, start = [self.once(work)], time.perf_counter()
        while len(passes) < LEAST_PASSES or time.perf_counter() - start < PASSES_S:
            passes.append(self.once(work))
        parts = {kind: [parts[kind] for _, _, parts in passes] for kind in passes[0][2]}
        wholes = [whole for _, whole, _ in passes]
        return Spent(
            statistics.median(host for host, _, _ in passes),
            statistics.median(wholes),
            {kind: statistics.median(seconds) for kind, seconds in parts.items()},
            dict(Counter(kind for kind, _, _ in self.marks)),
            {kind: stats.relative_iqr(times) or 0.0 for kind, times in [*parts.items(), ("whole", wholes)]},
        )

    def once(self, work: Callable[[], Any]) -> tuple[float, float, dict[str, float]]:
        """Host seconds, seconds and seconds by part of one pass."""
        self.marks.clear()
        self.clock.sync()
        if self.clock.enqueues:
            torch.cuda._sleep(QUEUE_CYCLES)
        begin, start = self.clock.mark(), self.clock.now()
        work()
        host_s, end = self.clock.now() - start, self.clock.mark()
        self.clock.sync()
        flat = self.clock.resolve([begin, end, *(mark for _, *pair in self.marks for mark in pair)])
        parts: dict[str, float] = defaultdict(float)
        for (kind, _, _), before, after in zip(self.marks, flat[2::2], flat[3::2], strict=True):
            parts[kind] += after - before
        return host_s, flat[1], parts


def calibrate(device: torch.device, dtype: str) -> list[Limit]:
    """All limits of a device with the threads that torch is set to; each from two moments some seconds apart."""
    with torch.inference_mode():
        first = glance(device, dtype)
        sizes = [*SIZES, *reversed(SIZES)]
        found = [limit for size in sizes for limit in at_first(first, size, device, dtype)]
        return [*memory(device), *found, *first]


def brief(device: torch.device, dtype: str) -> list[Limit]:
    """The few limits that show whether the machine is as it was: passes of three small networks, in about a second."""
    with torch.inference_mode():
        return glance(device, dtype)


def at_first(first: list[Limit], size: Size, device: torch.device, dtype: str) -> list[Limit]:
    """The limits that one size shows, as they would have been at the first glance: machines change within seconds."""
    now = glance(device, dtype)
    found = list(reached(Bench(size, device, dtype)))
    moved = Limits((*now, *found)).moved([Limits(tuple(first))])
    return list(moved.found[len(now) :])


def glance(device: torch.device, dtype: str) -> list[Limit]:
    """Seconds of whole passes."""
    return [limit for size in GLANCE for limit in passes(Bench(size, device, dtype))]


def passes(bench: Bench) -> Iterator[Limit]:
    """Seconds of the passes of one size."""
    set_bytes = bench.adapter.shape.read_params * DTYPE_BYTES[bench.dtype]
    works = [(rows, bench.step(rows)) for rows in bench.size.batches]
    works += [(rows * tokens, bench.read(rows, tokens)) for rows, tokens in bench.size.prompts]
    for rows, work in works:
        spent = bench.spent(work)
        yield Limit("pass", spent.whole_s, spent.spreads["whole"], rows, set_bytes)


def memory(device: torch.device) -> Iterator[Limit]:
    """Reading and copying more than any cache holds; on CUDA also from the host and the price of a wait."""
    clock = make_clock(device)
    source = torch.ones(LARGE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    yield rate("read", LARGE_BYTES, seconds(clock, source.sum))
    yield rate("copy", 2 * LARGE_BYTES, seconds(clock, lambda: target.copy_(source)))
    if device.type == "cuda":
        host = torch.empty(64 * MIB, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(host, device=device)
        yield rate("host_to_device", 64 * MIB, seconds(clock, lambda: there.copy_(host, non_blocking=True)))
        waits = seconds(clock, lambda: None)
        yield Limit("sync", statistics.median(waits), stats.relative_iqr(waits) or 0.0)


def seconds(clock: Clock, work: Callable[[], Any]) -> list[float]:
    """From the device idle to the device idle again, some times, after one that does not count."""
    samples: list[float] = []
    for _ in range(6):
        clock.sync()
        start = clock.now()
        work()
        clock.sync()
        samples.append(clock.now() - start)
    return samples[1:]


def rate(kind: str, amount: float, samples: list[float]) -> Limit:
    """An amount of work over the median of its times."""
    return Limit(kind, amount / statistics.median(samples), stats.relative_iqr(samples) or 0.0)


def reached(bench: Bench) -> Iterator[Limit]:
    """The limits that the passes of one size show. On a CPU what lies between the parts of a pass of one row is dispatch."""
    on_cpu, size, operation_s = not bench.clock.enqueues, bench.size, 0.0
    operations = dispatches.count(bench.step(1), bench.device).operations
    for rows in size.batches:
        spent = bench.spent(bench.step(rows))
        between = operations - sum(spent.calls.values())
        if rows == 1 and (size.is_hollow or on_cpu):
            operation_s = spent.rest_s / between if on_cpu else spent.host_s / operations
            yield Limit("operation", operation_s, spent.spreads["whole"], 1, weight_bytes(bench))
        one = Pass(rows, 1, SPAN, 1, kv_read=SPAN, kv_written=1)
        yield from rates(bench, one, spent, between, operation_s if on_cpu else 0.0)
    operations = dispatches.count(bench.read(1, 1), bench.device).operations
    for rows, tokens in size.prompts:
        spent = bench.spent(bench.read(rows, tokens))
        between = operations - sum(spent.calls.values())
        yield from rates(bench, Pass(rows, tokens, tokens, 1), spent, between, operation_s if on_cpu else 0.0)


def weight_bytes(bench: Bench) -> int:
    """Bytes of the weights that every pass reads."""
    return int(bench.adapter.shape.read_params * DTYPE_BYTES[bench.dtype])


def rates(bench: Bench, one: Pass, spent: Spent, between: int, operation_s: float) -> Iterator[Limit]:
    """Rates of the parts of one pass, without what dispatching them takes; and of the norms and additions between them."""
    if bench.size.is_hollow:
        return
    shape = bench.adapter.shape
    cost = costs.cost(shape, bench.dtype, one)
    head_flops, rows = 2.0 * one.rows * one.heads * shape.head_params, one.rows * one.tokens
    matrix = costs.matrix_bytes(shape, bench.dtype)
    amounts = {
        "matmul": (cost.matmul_flops - head_flops, rows, matrix),
        "head": (head_flops, one.rows, shape.head_params * DTYPE_BYTES[bench.dtype]),
        "attention": (cost.attention_flops, one.tokens, costs.seen_bytes(shape, bench.dtype, one)),
        "pick": (cost.logits_bytes, 1, 0),
    }
    for kind, (amount, place, set_bytes) in amounts.items():
        if kind != "pick" or one.rows == max(bench.size.batches):
            taken = spent.parts[kind]
            seconds = max(taken * LEAST_WORK, taken - spent.calls[kind] * operation_s)
            yield Limit(kind, amount / seconds, spent.spreads[kind], place, int(set_bytes))
    between_s = spent.rest_s - between * operation_s
    if rows >= LEAST_ROWS and between_s > 0:
        yield Limit("elementwise", cost.elementwise_bytes / between_s, spent.spreads["whole"], rows, int(matrix))

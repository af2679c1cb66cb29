"""What this machine reaches: memory, products over rows, attention, dispatch. Twenty seconds of work like a GPT's own."""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanobench import stats
from nanobench.engines.base import Compiler
from nanobench.engines.cached import Cached
from nanobench.limits import KINDS, Limit
from nanobench.models import gpt2
from nanobench.probes import dispatches
from nanobench.probes.clock import Clock, make_clock
from nanobench.samplers import greedy
from nanobench.schema import DTYPE_BYTES, Point

MIB = 1 << 20
LEAST_SAMPLES, SAMPLES_S, MOST_S = 3, 0.03, 0.15
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
FEW_ROWS = 64
"""Up to so many rows a product's rate depends on where its weights lie; for more rows one place stands for all."""
MANY_ROWS_BYTES = 64 * MIB
WEIGHTS = {1 * MIB: (256, 256), 8 * MIB: (768, 768), 64 * MIB: (768, 3072), 256 * MIB: (768, 3072)}
"""Bytes of all weights -> width in and out of each."""
HEAD = (768, 50_304)
QUERIES = (1, 16, 64, 256)
ATTENDED = (1 * MIB, 8 * MIB, 128 * MIB)
HEADS, HEAD_DIM, SPAN = 12, 64, 256
BLOCK_ROWS, BLOCK_WIDTH = 1024, 768
LARGE_BYTES = 256 * MIB
DRAWN = 1 << 20
TINY = {"n_layer": 4, "n_head": 2, "n_embd": 32, "vocab_size": 64, "block_size": 64}
"""A GPT-2 so small that dispatching its operations is all that takes time."""


class Bench:
    """Times work on one device, and makes tensors there."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self.device, self.dtype, self.size = device, getattr(torch, dtype), DTYPE_BYTES[dtype]
        self.clock: Clock = make_clock(device)

    def randn(self, *sizes: int) -> Tensor:
        """Normal numbers; a large tensor repeats some, which no kernel notices."""
        count = math.prod(sizes)
        drawn = torch.randn(min(count, DRAWN), device=self.device).to(self.dtype)
        return drawn.repeat(-(-count // DRAWN))[:count].view(sizes)

    def seconds(self, work: Callable[[], Any]) -> list[float]:
        """How long `work` took, several times, after one time that does not count."""
        self.once(work)
        samples: list[float] = []
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < SAMPLES_S or len(samples) < LEAST_SAMPLES:
            samples.append(self.once(work))
            if spent > MOST_S:
                break
        return samples

    def once(self, work: Callable[[], Any]) -> float:
        """Seconds from the device idle to the device idle again."""
        self.clock.sync()
        start = self.clock.now()
        work()
        self.clock.sync()
        return self.clock.now() - start

    def rate(self, kind: str, amount: float, work: Callable[[], Any], rows: int = 1, set_bytes: int = 0) -> Limit:
        """An amount of work over the median time that it takes."""
        samples = self.seconds(work)
        return Limit(
            kind=kind, value=amount / statistics.median(samples), spread=spread(samples), rows=rows, set_bytes=set_bytes
        )


def spread(samples: list[float]) -> float:
    """Relative interquartile range; 0 of a lone sample."""
    return stats.relative_iqr(samples) or 0.0


def calibrate(device: torch.device, dtype: str) -> list[Limit]:
    """All limits of a device with the threads that torch is set to. Takes about twenty seconds.

    Everything is measured twice, some seconds apart, and the better one counts: a limit is what the machine reaches when
    nothing disturbs it.
    """
    bench = Bench(device, dtype)
    with torch.inference_mode():
        parts = (memory, products, head, attention, elementwise, pick, dispatch)
        passes = [list(itertools.chain.from_iterable(part(bench) for part in parts)) for _ in range(2)]
    return [better(*pair) for pair in zip(*passes, strict=True)]


def better(one: Limit, other: Limit) -> Limit:
    """The higher rate, or the shorter time, of two of one kind."""
    is_time = KINDS[one.kind] == "s"
    return min(one, other, key=lambda limit: limit.value if is_time else -limit.value)


def brief(device: torch.device, dtype: str) -> list[Limit]:
    """The few limits that show whether the machine is as it was: memory, some products and dispatch, in about two seconds."""
    bench = Bench(device, dtype)
    with torch.inference_mode():
        weights = {set_bytes: WEIGHTS[set_bytes] for set_bytes in (8 * MIB, MANY_ROWS_BYTES)}
        return list(itertools.chain(memory(bench), products(bench, (1, 8, 64, 512), weights), dispatch(bench)))


def memory(bench: Bench) -> Iterator[Limit]:
    """Reading and copying more than any cache holds; on CUDA also from the host and the price of a wait."""
    source = bench.randn(LARGE_BYTES // bench.size)
    target = torch.empty_like(source)
    yield bench.rate("read", LARGE_BYTES, source.sum)
    yield bench.rate("copy", 2 * LARGE_BYTES, lambda: target.copy_(source))
    if bench.device.type == "cuda":
        host = torch.empty(64 * MIB, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(host, device=bench.device)
        yield bench.rate("host_to_device", 64 * MIB, lambda: there.copy_(host, non_blocking=True))
        samples = bench.seconds(lambda: None)
        yield Limit(kind="sync", value=statistics.median(samples), spread=spread(samples))


def products(bench: Bench, rows: tuple[int, ...] = ROWS, weights: dict[int, tuple[int, int]] = WEIGHTS) -> Iterator[Limit]:
    """Products with the weights of layers: a few rows with weights from each level of the memory, many rows with near ones."""
    for set_bytes, (width, out) in weights.items():
        matrices = [bench.randn(out, width) for _ in range(max(1, set_bytes // (width * out * bench.size)))]
        for count in rows:
            if count > FEW_ROWS and set_bytes != MANY_ROWS_BYTES:
                continue
            used = matrices if count <= FEW_ROWS else matrices[:2]
            work = functools.partial(multiply, bench.randn(count, width), used)
            yield bench.rate("matmul", 2.0 * count * width * out * len(used), work, count, set_bytes)


def multiply(x: Tensor, matrices: list[Tensor]) -> None:
    """One product with each matrix."""
    for matrix in matrices:
        F.linear(x, matrix)


def head(bench: Bench) -> Iterator[Limit]:
    """Products with a head as wide as a vocabulary."""
    width, out = HEAD
    matrix = bench.randn(out, width)
    for count in ROWS[:-3]:
        work = functools.partial(F.linear, bench.randn(count, width), matrix)
        yield bench.rate("head", 2.0 * count * width * out, work, count, out * width * bench.size)


def attention(bench: Bench) -> Iterator[Limit]:
    """A single query over caches of several sizes, and a whole prompt over itself."""
    for queries in QUERIES:
        span = SPAN if queries == 1 else queries
        one = 2 * HEADS * span * HEAD_DIM * bench.size
        for set_bytes in ATTENDED if queries == 1 else ATTENDED[1:2]:
            rows = max(1, min(16, set_bytes // one))
            sizes, count = (rows, HEADS, span, HEAD_DIM), max(1, set_bytes // (one * rows))
            caches = [(bench.randn(*sizes), bench.randn(*sizes)) for _ in range(count)]
            mask = torch.zeros(queries, span, device=bench.device, dtype=bench.dtype)
            work = functools.partial(attend, bench.randn(rows, HEADS, queries, HEAD_DIM), caches, mask)
            yield bench.rate("attention", 4.0 * rows * HEADS * queries * span * HEAD_DIM * count, work, queries, set_bytes)


def attend(query: Tensor, caches: list[tuple[Tensor, Tensor]], mask: Tensor) -> None:
    """Attention over each of the caches."""
    for keys, values in caches:
        F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def elementwise(bench: Bench) -> Iterator[Limit]:
    """A block's norms, additions and activation, without its products: 10 + 2 x 4 values a token and unit of width."""
    x, wide = bench.randn(BLOCK_ROWS, BLOCK_WIDTH), bench.randn(BLOCK_ROWS, 4 * BLOCK_WIDTH)
    weight = torch.ones(BLOCK_WIDTH, device=bench.device, dtype=bench.dtype)

    def work() -> None:
        y = x + F.layer_norm(x, (BLOCK_WIDTH,), weight, weight)
        F.gelu(wide, approximate="tanh")
        y + F.layer_norm(y, (BLOCK_WIDTH,), weight, weight)

    yield bench.rate("elementwise", BLOCK_ROWS * BLOCK_WIDTH * 18 * bench.size, work)


def pick(bench: Bench) -> Iterator[Limit]:
    """Choosing the largest of a vocabulary's logits, which are written and read."""
    logits = bench.randn(16, HEAD[1])
    yield bench.rate("pick", 2 * logits.numel() * bench.size, lambda: logits.argmax(-1, keepdim=True))


def dispatch(bench: Bench) -> Iterator[Limit]:
    """Seconds of the host per operation, over the steps of a GPT that is too small to take time otherwise."""
    adapter: Any = gpt2.build(**TINY)
    adapter.module.to(device=bench.device, dtype=bench.dtype).eval()
    name = str(bench.dtype).removeprefix("torch.")
    point = Point(model="tiny", dtype=name, device=str(bench.device), threads=0, batch_size=1, prompt_len=8, new_tokens=40)
    engine = Cached(adapter, greedy.build(), point, Compiler("off"))
    prompt = torch.zeros((1, 8), dtype=torch.long, device=bench.device)
    engine.prefill(prompt)
    operations = dispatches.count(engine.step, bench.device).operations

    def steps() -> None:
        engine.prefill(prompt)
        for _ in range(30):
            engine.step()

    samples = [seconds / (31 * operations) for seconds in bench.seconds(steps)]
    yield Limit(kind="operation", value=statistics.median(samples), spread=spread(samples))

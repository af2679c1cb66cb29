"""What this machine reaches: parts of passes of synthetic GPT-2s from 32 to 1,024 wide, and its memory. Within a minute."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nanobench.probes import profiler
from nanobench.probes.clock import Clock, make_clock
from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limit, Limits
from nanobench.schema import DTYPE_BYTES
from nanobench.stats import intervals
from nanobench.worker.calibration.model import SPAN, InstrumentedModel, PassTiming, Size

MIB = 1 << 20
LARGE_BYTES = 256 * MIB
LEAST_WORK = 0.1
"""What dispatching a part may leave of its time at least."""
LEAST_ROWS = 16
"""With fewer rows norms and additions take no longer than with one."""
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


def calibrate(device: torch.device, dtype: str) -> list[Limit]:
    """All limits of a device with the threads that torch is set to; each from two moments some seconds apart."""
    with torch.inference_mode():
        first = brief_calibration(device, dtype)
        sizes = [*SIZES, *reversed(SIZES)]
        found = [limit for size in sizes for limit in at_first(first, size, device, dtype)]
        return [*memory(device), *found, *first]


def brief(device: torch.device, dtype: str) -> list[Limit]:
    """The few limits that show whether the machine is as it was: passes of three small networks, in about a second."""
    with torch.inference_mode():
        return brief_calibration(device, dtype)


def at_first(first: list[Limit], size: Size, device: torch.device, dtype: str) -> list[Limit]:
    """The limits that one size shows, as they would have been at the first glance: machines change within seconds."""
    now = brief_calibration(device, dtype)
    found = list(reached(InstrumentedModel(size, device, dtype)))
    moved = Limits((*now, *found)).moved([Limits(tuple(first))])
    return list(moved.found[len(now) :])


def brief_calibration(device: torch.device, dtype: str) -> list[Limit]:
    """Seconds of whole passes."""
    return [limit for size in GLANCE for limit in passes(InstrumentedModel(size, device, dtype))]


def passes(bench: InstrumentedModel) -> Iterator[Limit]:
    """Seconds of the passes of one size."""
    works = [(rows, bench.step(rows)) for rows in bench.size.batches]
    works += [(rows * tokens, bench.read(rows, tokens)) for rows, tokens in bench.size.prompts]
    for rows, work in works:
        spent = bench.spent(work)
        yield Limit("pass", spent.whole_s, spent.spreads["whole"], rows, bench.weight_bytes)


def memory(device: torch.device) -> Iterator[Limit]:
    """Reading and copying more than any cache holds; on CUDA also from the host and the price of a wait."""
    clock = make_clock(device)
    source = torch.ones(LARGE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    yield rate("read", LARGE_BYTES, samples(clock, source.sum))
    yield rate("copy", 2 * LARGE_BYTES, samples(clock, lambda: target.copy_(source)))
    if device.type == "cuda":
        host = torch.empty(64 * MIB, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(host, device=device)
        yield rate("host_to_device", 64 * MIB, samples(clock, lambda: there.copy_(host, non_blocking=True)))
        waits = samples(clock, lambda: None)
        yield Limit("sync", statistics.median(waits), intervals.relative_iqr(waits) or 0.0)


def samples(clock: Clock, work: Callable[[], Any]) -> list[float]:
    """From the device idle to the device idle again, some times, after one that does not count."""
    seconds: list[float] = []
    for _ in range(6):
        clock.sync()
        start = clock.now()
        work()
        clock.sync()
        seconds.append(clock.now() - start)
    return seconds[1:]


def rate(kind: str, amount: int, seconds: list[float]) -> Limit:
    """Bytes over the median of the times that they take."""
    return Limit(kind, amount / statistics.median(seconds), intervals.relative_iqr(seconds) or 0.0, set_bytes=amount)


def reached(bench: InstrumentedModel) -> Iterator[Limit]:
    """The limits that the passes of one size show. On a CPU what lies between the parts of a pass of one row is dispatch."""
    on_cpu, size, operation_s = not bench.clock.enqueues, bench.size, 0.0
    works = [(bench.step(rows), Pass(rows, 1, SPAN, 1, kv_read=SPAN, kv_written=1)) for rows in size.batches]
    works += [(bench.read(rows, tokens), Pass(rows, tokens, tokens, 1)) for rows, tokens in size.prompts]
    for work, one in works:
        spent = bench.spent(work)
        operations: Counter[str | None] = bench.operations(work) if on_cpu else Counter()
        if one.rows == one.tokens == 1 and (size.is_hollow or on_cpu):
            seconds, count = (spent.rest_s, operations[None]) if on_cpu else (spent.host_s, launches(bench, work))
            operation_s = seconds / count
            yield Limit("operation", operation_s, spent.spreads["whole"], 1, bench.weight_bytes)
        yield from rates(bench, one, spent, {part: count * operation_s for part, count in operations.items()})


def launches(bench: InstrumentedModel, work: Callable[[], Any]) -> int:
    """Kernels that the host hands out in a pass."""
    return profiler.count(work, bench.device).operations


def rates(bench: InstrumentedModel, one: Pass, spent: PassTiming, dispatch_s: dict[str | None, float]) -> Iterator[Limit]:
    """Rates of the parts of one pass, without what dispatching them takes; and of the norms and additions between them."""
    if bench.size.is_hollow:
        return
    shape = bench.adapter.shape
    cost = flops.cost(shape, bench.dtype, one)
    head_flops, rows = 2.0 * one.rows * one.logits_positions * shape.head_params, one.rows * one.tokens
    matrix = flops.matrix_bytes(shape, bench.dtype)
    amounts = {
        "matmul": (cost.matmul_flops - head_flops, rows, matrix),
        "head": (head_flops, one.rows, shape.head_params * DTYPE_BYTES[bench.dtype]),
        "attention": (cost.attention_flops, one.tokens, flops.attended_kv_bytes(shape, bench.dtype, one)),
        "pick": (cost.logits_bytes, 1, cost.logits_bytes),
    }
    for kind, (amount, place, set_bytes) in amounts.items():
        if kind != "pick" or one.rows == max(bench.size.batches):
            taken = spent.parts[kind]
            seconds = max(taken * LEAST_WORK, taken - dispatch_s.get(kind, 0.0))
            yield Limit(kind, amount / seconds, spent.spreads[kind], place, int(set_bytes))
    between_s = spent.rest_s - dispatch_s.get(None, 0.0)
    if rows >= LEAST_ROWS and between_s > 0:
        yield Limit("elementwise", cost.elementwise_bytes / between_s, spent.spreads["whole"], rows, int(matrix))

"""The attainable limits of this machine: memory, and the parts of passes of synthetic GPT-2s from 32 to 1,024 wide.

A calibration takes about a minute. Every size is measured twice, some seconds apart, because machines change their speed.
What the timings do not show is an unresolved limit with a reason; noise never raises an error.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nanobench.probes import profiler
from nanobench.probes.clock import Clock, make_clock
from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limit, Limits, Unresolved
from nanobench.worker.calibration.model import STEP_CONTEXT, InstrumentedModel, PassTiming, Size
from nanobench.worker.calibration.samples import (
    NO_TIME,
    Duration,
    NotResolved,
    duration,
    per_operation,
    rate,
    resolve,
    without_dispatch,
)

MIB = 1 << 20
LARGE_BYTES = 256 * MIB
"""More than any cache holds."""
TRANSFERS = 5
"""Timed repetitions of a memory limit."""
TRANSFERS_ENQUEUED = 8
"""Transfers of a repetition on a device that enqueues them: one takes about 0.1 ms, of which the host needs a good part."""
MIN_ELEMENTWISE_ROWS = 16
"""With fewer rows, norms and additions take as long as with one."""
DISPATCH_SIZE = Size(32, 4, 64, (1,), ())
SIZES = (
    DISPATCH_SIZE,
    Size(128, 4),
    Size(320, 4, prompts=((1, 64), (8, 64), (32, 64), (4, 256))),
    Size(640, 3),
    Size(1024, 2, prompts=((1, 64), (8, 64))),
)
BRIEF_SIZES = (Size(128, 4, 64, (1,), ()), Size(640, 2, 32_768, (1, 4), ()), Size(320, 2, 64, (), ((8, 64),)))
"""The sizes of a drift check: one each for dispatch, memory and matmuls."""


def calibrate(device: torch.device, dtype: str, weights: str = "float") -> Limits:
    """All limits of a device at a dtype and a kind of weights, with torch's current number of threads. Raises Skip for weights
    that the device cannot multiply by.
    """
    with torch.inference_mode():
        first_passes = brief_limits(device, dtype)
        sizes = [*SIZES, *reversed(SIZES)]
        limits = [limit for size in sizes for limit in limits_at_start(first_passes, size, device, dtype, weights)]
        return Limits.of([*memory(device), *limits, *first_passes.found, *first_passes.unresolved])


def brief(device: torch.device, dtype: str) -> Limits:
    """A drift check: the times of passes of three small networks, in about a second."""
    with torch.inference_mode():
        return brief_limits(device, dtype)


def limits_at_start(
    first_passes: Limits, size: Size, device: torch.device, dtype: str, weights: str
) -> list[Limit | Unresolved]:
    """The limits of one size, corrected for the drift of the machine since `first_passes` were measured, with float weights."""
    changes = brief_limits(device, dtype).pass_changes([first_passes])
    corrected = Limits.of(limits_of(InstrumentedModel(size, device, dtype, weights))).changed(changes)
    return [*corrected.found, *corrected.unresolved]


def brief_limits(device: torch.device, dtype: str) -> Limits:
    """The times of whole passes of BRIEF_SIZES."""
    return Limits.of(limit for size in BRIEF_SIZES for limit in pass_limits(InstrumentedModel(size, device, dtype)))


def pass_limits(model: InstrumentedModel) -> Iterator[Limit | Unresolved]:
    """The times of whole passes of one size."""
    works = [(rows, model.cached_step(rows)) for rows in model.size.batches]
    works += [(rows * tokens, model.full_pass(rows, tokens)) for rows, tokens in model.size.prompts]
    for rows, work in works:
        yield duration("pass", resolve(model.time_pass(work).total_s), rows, model.weight_bytes)


def memory(device: torch.device) -> Iterator[Limit | Unresolved]:
    """Rates of reading and copying memory; on CUDA also of a transfer from the host, and the time of a synchronization."""
    clock = make_clock(device)
    source = torch.rand(LARGE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    count = TRANSFERS_ENQUEUED if clock.enqueues else 1
    yield transfer_rate("read", LARGE_BYTES, transfer_times(clock, source.sum, count))
    yield transfer_rate("copy", 2 * LARGE_BYTES, transfer_times(clock, lambda: target.copy_(source), count))
    if device.type == "cuda":
        host = torch.empty(64 * MIB, dtype=torch.uint8).pin_memory()
        on_device = torch.empty_like(host, device=device)
        times = transfer_times(clock, lambda: on_device.copy_(host, non_blocking=True))
        yield transfer_rate("host_to_device", 64 * MIB, times)
        yield duration("sync", resolve(transfer_times(clock, lambda: None)))


def transfer_times(clock: Clock, work: Callable[[], Any], count: int = 1) -> list[float]:
    """Seconds of `work`, each the mean of `count` in a row from an idle device to an idle device, after one warm-up."""
    seconds: list[float] = []
    for _ in range(1 + TRANSFERS):
        clock.sync()
        start = clock.now()
        for _ in range(count):
            work()
        clock.sync()
        seconds.append((clock.now() - start) / count)
    return seconds[1:]


def transfer_rate(kind: str, amount: int, samples_s: list[float]) -> Limit | Unresolved:
    """The rate of a transfer of `amount` bytes."""
    return rate(kind, amount, resolve(samples_s), set_bytes=amount)


def limits_of(model: InstrumentedModel) -> Iterator[Limit | Unresolved]:
    """The limits that the passes of one size show.

    The time of a dispatch comes from a pass of one row: on a CPU the time outside of all parts, on CUDA the host's time.
    """
    on_cpu, size, context = not model.clock.enqueues, model.size, STEP_CONTEXT
    operation: Duration | NotResolved = NO_TIME
    works = [(model.cached_step(rows), Pass(rows, 1, context, 1, kv_read=context, kv_written=1)) for rows in size.batches]
    works += [(model.full_pass(rows, tokens), Pass(rows, tokens, tokens, 1)) for rows, tokens in size.prompts]
    for work, one in works:
        timing = model.time_pass(work)
        operations: Counter[str | None] = model.count_operations(work) if on_cpu else Counter()
        if one.rows == one.tokens == 1 and (size.is_dispatch_only or on_cpu):
            samples_s, count = (
                (timing.rest_s, operations[None]) if on_cpu else (model.host_times(work), kernel_launches(model, work))
            )
            operation = per_operation(samples_s, count)
            yield duration("operation", operation, 1, model.weight_bytes)
        if not size.is_dispatch_only:
            yield from part_rates(model, one, timing, operation, operations)


def kernel_launches(model: InstrumentedModel, work: Callable[[], Any]) -> int:
    """Kernel launches by the host in a pass."""
    return profiler.count(work, model.device).operations


def part_rates(
    model: InstrumentedModel,
    one: Pass,
    timing: PassTiming,
    operation: Duration | NotResolved,
    operations: Counter[str | None],
) -> Iterator[Limit | Unresolved]:
    """The rates of the parts of one pass, and of the norms and additions between them, without the time of their dispatch."""
    shape, weights = model.adapter.shape, model.weights
    cost = flops.cost(shape, model.dtype, one, weights)
    head_flops, rows = 2.0 * one.rows * one.logits_positions * shape.head_params, one.rows * one.tokens
    matrix_bytes = flops.matrix_bytes(shape, model.dtype, weights)
    amounts = {
        "matmul": (cost.matmul_flops - head_flops, rows, matrix_bytes),
        "lm_head": (head_flops, one.rows, flops.head_bytes(shape, model.dtype, weights)),
        "attention": (cost.attention_flops, one.tokens, flops.layer_attentions(shape, model.dtype, one)[0].layer_bytes),
        "argmax": (cost.logits_bytes, 1, cost.logits_bytes),
    }
    for kind, (amount, place, set_bytes) in amounts.items():
        if kind != "argmax" or one.rows == max(model.size.batches):
            part = without_dispatch(timing.parts_s.get(kind, []), operation, operations[kind])
            yield rate(kind, amount, part, place, int(set_bytes))
    if rows >= MIN_ELEMENTWISE_ROWS:
        between = without_dispatch(timing.rest_s, operation, operations[None])
        yield rate("elementwise", cost.elementwise_bytes, between, rows, int(matrix_bytes))

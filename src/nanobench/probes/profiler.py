"""Counts of dispatched operations and kernels, from torch's profiler in an untimed run."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Dispatches:
    """The counts of one profiled call."""

    operations: int
    """dispatched by the host: kernel launches on CUDA, torch operations on a CPU"""
    kernels: int
    """run by the device; on a CPU equal to `operations`"""
    busy: float | None
    """share of the time during which the device ran a kernel; None on a CPU"""
    graph_launches: int = 0
    """replays of captured CUDA graphs"""
    names: frozenset[str] = frozenset()
    """of all operators, including those called by other operators"""


def count(work: Callable[[], Any], device: torch.device, trace: Path | None = None) -> Dispatches:
    """Runs `work` under the profiler; writes a Chrome trace to `trace` if given."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    events = profiler.events() or []
    names = frozenset(event.name for event in events)
    if not cuda:
        operations = sum(is_dispatched(event) for event in events)
        return Dispatches(operations, operations, None, names=names)
    return replace(on_cuda(events), names=names)


def on_cuda(events: Any) -> Dispatches:
    """The counts of a profile on CUDA; the busy share is over the time from the first to the last event."""
    kernels = [event for event in events if is_kernel(event)]
    launches = [event.name for event in events if event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))]
    begin, end = min(e.time_range.start for e in events), max(e.time_range.end for e in events)
    busy_us = sum(kernel.time_range.elapsed_us() for kernel in kernels)
    graphs = sum(name.startswith("cudaGraphLaunch") for name in launches)
    return Dispatches(len(launches), len(kernels), min(1.0, busy_us / max(1.0, end - begin)), graphs)


def is_kernel(event: Any) -> bool:
    """Whether an event is a kernel of the device: no copy, no fill, and no range that an annotation opened (pytorch#130730)."""
    if event.device_type != DeviceType.CUDA or getattr(event, "is_user_annotation", False):
        return False
    return not event.name.startswith(("Memcpy", "Memset"))


def count_by_part(work: Callable[[], Any], parts: Collection[str]) -> Counter[str | None]:
    """The number of dispatched operations on a CPU in each of `parts`, which are names of `record_function` ranges.

    The key None counts the operations outside of all parts.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    dispatched = [event for event in profiler.events() or [] if is_dispatched(event)]
    return Counter(next((parent.name for parent in parents(event) if parent.name in parts), None) for event in dispatched)


def parents(event: Any) -> Iterator[Any]:
    """The enclosing events of an event, innermost first."""
    while (event := event.cpu_parent) is not None:
        yield event


def is_dispatched(event: Any) -> bool:
    """Whether an event is an operation dispatched by Python, not by another operation."""
    if event.device_type != DeviceType.CPU or not event.name.startswith(("aten::", "inductor::", "mkl::", "mkldnn::")):
        return False
    return not any(parent.name.startswith("aten::") for parent in parents(event))

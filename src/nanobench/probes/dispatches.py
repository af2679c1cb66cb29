"""What the host dispatches and the device runs, counted by torch's profiler in an untimed run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Dispatches:
    """Counts of one piece of work."""

    operations: int
    """what the host hands out one by one: kernel launches on CUDA, torch operations on a CPU"""
    kernels: int
    """what the device runs: on a CPU the same"""
    busy: float | None
    """share of the time in which the device ran a kernel; None on a CPU"""
    graph_launches: int = 0
    """captured CUDA graphs that were replayed"""
    names: frozenset[str] = frozenset()
    """of all operators, parts of others too"""


def count(work: Callable[[], Any], device: torch.device, trace: Path | None = None) -> Dispatches:
    """Runs `work` under the profiler; keeps Chrome's trace of it where asked for."""
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
    """Launches by the host and kernels on the device, with the device's busy share from the first event to the last."""
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and "Mem" not in event.name]
    launches = [event.name for event in events if event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))]
    begin, end = min(e.time_range.start for e in events), max(e.time_range.end for e in events)
    busy_us = sum(kernel.time_range.elapsed_us() for kernel in kernels)
    graphs = sum(name.startswith("cudaGraphLaunch") for name in launches)
    return Dispatches(len(launches), len(kernels), min(1.0, busy_us / max(1.0, end - begin)), graphs)


def is_dispatched(event: Any) -> bool:
    """Whether an event is an operation that Python asked for, and no part of another one."""
    if event.device_type != DeviceType.CPU or not event.name.startswith(("aten::", "inductor::", "mkl::", "mkldnn::")):
        return False
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith("aten::"):
            return False
        parent = parent.cpu_parent
    return True

"""Memory: the limit of a worker, the allocator's peak during some work, and the detection of out-of-memory errors."""

import ctypes
import mmap
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Parameters of mallopt, from glibc's malloc.h."""
QUANTIZED = (torch.int8, torch.uint8)
"""Dtypes of quantised weights and caches."""
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "can't start new thread",
    "Thread creation failed",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Messages of torch, cuBLAS, the interpreter and libgomp for it, in exceptions of a general type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def limited(limit_bytes: int | None) -> Iterator[None]:
    """Within the context, limits the process's private memory (RLIMIT_DATA); None means no limit.

    Only the soft limit changes, so that it can be removed: near the limit a process cannot even start a thread.
    """
    if limit_bytes is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def keep_freed() -> None:
    """Makes glibc keep freed memory instead of returning it to the kernel, as torch's CUDA allocator does.

    Otherwise an arm may or may not pay for new pages, up to twice the time of a prefill, depending on what ran before it.
    """
    # Larger blocks are returned: kept blocks of several hundred MiB cause fragmentation. Old versions of glibc accept at most
    # 32 MiB. Setting only the trim threshold would also freeze the mmap threshold at its current value.
    if set_malloc(M_MMAP_THRESHOLD, 128 << 20) or set_malloc(M_MMAP_THRESHOLD, 32 << 20):
        set_malloc(M_TRIM_THRESHOLD, -1)


@contextmanager
def release_freed() -> Iterator[None]:
    """Memory allocated within the context in blocks above 1 MiB is returned to the kernel (or the GPU) when it is freed."""
    set_malloc(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        keep_freed()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def on_disk(vector: Tensor) -> Tensor:
    """A copy in an unnamed temporary file, which is not part of the process's private memory.

    The file is written to disk before this returns, not during timed work. Returns the vector itself if the disk is full.
    """
    with tempfile.TemporaryFile() as file:
        try:
            # Without this, a full disk causes SIGBUS when a page is written.
            os.posix_fallocate(file.fileno(), 0, vector.nbytes)
        except OSError:
            return vector
        pages = mmap.mmap(file.fileno(), vector.nbytes)
    kept = torch.frombuffer(pages, dtype=vector.dtype).copy_(vector)
    pages.flush()
    return kept


def shared(vector: Tensor) -> Tensor:
    """A copy on the host in shared memory, which is no private memory of the process. Raises OSError if there is none."""
    size = max(1, vector.nbytes)
    file = os.memfd_create("nanobench")
    try:
        os.posix_fallocate(file, 0, size)
        pages = mmap.mmap(file, size)
    finally:
        os.close(file)
    return torch.frombuffer(pages, dtype=vector.dtype, count=vector.numel()).view(vector.shape).copy_(vector)


def set_malloc(parameter: int, value: int) -> bool:
    """Sets a parameter of glibc's malloc; False if that is not possible."""
    return sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt") and bool(libc.mallopt(parameter, value))


def allocator_peak(work: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """The result of `work`, and the peak of torch's allocator during it, in bytes above the level before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return result, peak


def tensor_bytes(holder: Any) -> int:
    """Bytes of all floating-point and quantised tensors reachable from an object; each storage is counted once.

    A tensor that wraps others, as torchao's weights do, has no storage of its own: those inside count, whatever their dtype.
    """
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(value: Any, is_inside: bool = False) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if hasattr(value, "__tensor_flatten__"):
                for name in value.__tensor_flatten__()[0]:
                    visit(getattr(value, name), is_inside=True)
            elif is_inside or value.is_floating_point() or value.dtype in QUANTIZED:
                found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return
        parts: Any = ()
        if isinstance(value, torch.nn.Module):
            parts = (*value.parameters(), *value.buffers())
        elif isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        elif hasattr(value, "__dict__"):
            parts = vars(value).values()
        for part in parts:
            visit(part)

    visit(holder)
    return sum(found.values())


def alloc_retries(device: torch.device) -> int | None:
    """How often CUDA's allocator had to free its cache and retry; None on a CPU."""
    return torch.cuda.memory_stats(device).get("num_alloc_retries", 0) if device.type == "cuda" else None


def rss_peak_bytes() -> int:
    """The process's peak resident set size in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes() -> int:
    """Bytes that are available to a new process now."""
    return psutil.virtual_memory().available

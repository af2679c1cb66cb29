"""Memory: a limit on the worker, the allocator's peak over a piece of work, and how to tell out-of-memory from other errors."""

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
"""As in glibc's malloc.h."""
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "can't start new thread",
    "Thread creation failed",
    "Cannot allocate memory",
)
"""Texts that torch, the interpreter and libgomp use for it when no exception type says so."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def limited(limit_bytes: int | None) -> Iterator[None]:
    """Limits the process's private memory (RLIMIT_DATA) while an arm runs and lifts it afterwards.

    Only the soft limit moves: close to it a process can't even start a thread, so whatever follows must run without it.
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
    """Asks glibc to keep what is freed instead of giving it back to the kernel, as torch's allocator on CUDA does.

    Else an arm pays for fresh pages or doesn't, up to twice the time of a prefill, depending on what ran before it.
    """
    # Not all: kept blocks of several hundred MiB fit together badly. Old versions of glibc take 32 MiB at most, and a
    # threshold of trimming alone would fix that of mmap where it is.
    if set_malloc(M_MMAP_THRESHOLD, 128 << 20) or set_malloc(M_MMAP_THRESHOLD, 32 << 20):
        set_malloc(M_TRIM_THRESHOLD, -1)


@contextmanager
def release_freed() -> Iterator[None]:
    """Whatever larger than 1 MiB is allocated meanwhile goes back to the kernel, or to the GPU, once it is freed."""
    set_malloc(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        keep_freed()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def on_disk(vector: Tensor) -> Tensor:
    """A copy in a temporary file without a name, which is no part of the process's private memory, and is written before this
    returns: not beside what is timed. The vector itself where the temporary folder has no room.
    """
    with tempfile.TemporaryFile() as file:
        try:
            # Else a full disk is found out by a signal, when a page is written to.
            os.posix_fallocate(file.fileno(), 0, vector.nbytes)
        except OSError:
            return vector
        pages = mmap.mmap(file.fileno(), vector.nbytes)
    kept = torch.frombuffer(pages, dtype=vector.dtype).copy_(vector)
    pages.flush()
    return kept


def set_malloc(parameter: int, value: int) -> bool:
    """Sets one of glibc's parameters; False where there is none that takes it."""
    return sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt") and bool(libc.mallopt(parameter, value))


def allocator_peak(work: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """The result of `work`, and the most bytes that torch's allocator held at once during it, above what it held before."""
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
    """Bytes of all floating-point tensors that an object holds, each storage counted once."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.is_floating_point():
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
    """How often CUDA's allocator had to free its cache to go on, so far; None on a CPU."""
    return torch.cuda.memory_stats(device).get("num_alloc_retries", 0) if device.type == "cuda" else None


def rss_peak_bytes() -> int:
    """The process's largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes() -> int:
    """Memory that this machine can give to a new process now."""
    return psutil.virtual_memory().available

"""What an arm changes in the measuring process or leaves running in it: clocks, threads, child processes.

Code in the same process can hide from this; see docs/checked.md for what is promised and what is not.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from nanobench.probes import clock as clocks
from nanobench.probes.clock import Clock, CudaClock, HostClock

SETTLE_S, WINDOW_S = 0.02, 0.02
"""OpenMP's threads wait for the next work in a loop for some milliseconds; what still runs after that is an arm's own."""
MIN_RUNNING = 0.3
"""A thread is still running if it has a core for this share of the window."""
LOADED_WINDOW_S, MIN_READY = 0.2, 0.9
"""Where threads of an arm wait for a core: a thread is still running if it has or wants a core for this share of a longer
window."""
MIN_CHILD_S = 0.05
"""CPU time of a child process that counts as work."""
PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)"""
TASKS = Path("/proc/self/task")
TIMERS = ("perf_counter", "perf_counter_ns", "time", "monotonic", "thread_time", "process_time")
CLOCK_METHODS = ("now", "sync", "timestamp", "resolve")
COMPILE_WORKER = "torch._inductor.compile_worker"


def guarded(clock: Clock) -> list[tuple[Any, str]]:
    """Owner and name of every function that a time depends on."""
    functions: list[tuple[Any, str]] = [(time, name) for name in TIMERS]
    cuda = [(torch.cuda, "synchronize"), *((torch.cuda.Event, name) for name in ("record", "elapsed_time", "synchronize"))]
    ours = [(owner, name) for owner in (HostClock, CudaClock, clock) for name in CLOCK_METHODS]
    return [*functions, *cuda, (clocks, "perf_counter"), (clocks, "synchronize"), *ours]


class Scheduled(NamedTuple):
    """Seconds of a thread."""

    ran_s: float
    waited_s: float
    """ready to run, without a core"""

    @property
    def ready_s(self) -> float:
        """Seconds with a core or waiting for one."""
        return self.ran_s + self.waited_s


class Leftovers:
    """Make one before any plug-in is imported."""

    def __init__(self, clock: Clock) -> None:
        self.originals: list[tuple[Any, str, Callable[..., Any]]] = [
            (owner, name, getattr(owner, name)) for owner, name in guarded(clock)
        ]
        adopt_orphans()
        self.owner_of_thread = dict.fromkeys(thread_ids(), -1)
        self.owner_of_child = dict.fromkeys(child_cpu_s(), -1)

    def claim(self, arm: int) -> None:
        """Threads and child processes that are new since the last call belong to this arm."""
        for thread in thread_ids():
            self.owner_of_thread.setdefault(thread, arm)
        for child in child_cpu_s():
            self.owner_of_child.setdefault(child, arm)

    def replaced(self) -> str | None:
        """The functions that no longer are the original ones, comma-separated; they are restored. None if there are none."""
        changed = [each for each in self.originals if getattr(each[0], each[1]) != each[2]]
        for owner, name, original in changed:
            setattr(owner, name, original)
        return ", ".join(f"{describe(owner)}.{name}" for owner, name, _ in changed) or None

    def still_running(self) -> dict[int, str]:
        """Arm -> what works while nothing should: a thread of its own, or a child process with CPU time.

        Takes SETTLE_S + WINDOW_S seconds, and LOADED_WINDOW_S more if a thread of an arm waits for a core meanwhile. A thread
        that the interpreter did not start counts only if it appeared with the arm.
        """
        time.sleep(SETTLE_S)
        used = self.used(WINDOW_S)
        found = {owner for owner, each in used if each.ran_s > MIN_RUNNING * WINDOW_S}
        if any(owner not in found and each.ready_s > MIN_RUNNING * WINDOW_S for owner, each in used):
            found |= {owner for owner, each in self.used(LOADED_WINDOW_S) if each.ready_s > MIN_READY * LOADED_WINDOW_S}
        reasons = dict.fromkeys(found, "a thread that it started was still running when the clock had stopped")
        for child, cpu_s in child_cpu_s().items():
            owner = self.owner_of_child.get(child, -1)
            if owner >= 0 and cpu_s > MIN_CHILD_S:
                reasons[owner] = f"a process that it started used {cpu_s:.2g} s of CPU time"
        return reasons

    def used(self, seconds: float) -> list[tuple[int, Scheduled]]:
        """Owner, and what each thread of an arm gets during so many seconds; the main thread belongs to no arm."""
        before = scheduled()
        time.sleep(seconds)
        main = threading.main_thread().native_id
        return [
            (self.owner_of_thread[thread], Scheduled(*(now - then for now, then in zip(each, before[thread], strict=True))))
            for thread, each in scheduled().items()
            if thread in before and thread != main and self.owner_of_thread.get(thread, -1) >= 0
        ]


def adopt_orphans() -> None:
    """A process whose parent ends becomes a child of this one, and not of init: it stays in sight. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def describe(owner: Any) -> str:
    """The name of a module, of a class, or of an instance's class."""
    return str(getattr(owner, "__name__", type(owner).__name__))


def thread_ids() -> list[int]:
    """The kernel's ids of this process's threads; empty where there is no /proc."""
    with suppress(OSError):
        return [int(name) for name in os.listdir(TASKS)]
    return []


def scheduled() -> dict[int, Scheduled]:
    """Thread id -> its seconds so far, from /proc/self/task/*/schedstat (nanoseconds)."""
    found = {}
    for thread in thread_ids():
        with suppress(OSError, ValueError, IndexError):
            ran, waited = (TASKS / str(thread) / "schedstat").read_text().split()[:2]
            found[thread] = Scheduled(int(ran) / 1e9, int(waited) / 1e9)
    return found


def child_cpu_s() -> dict[int, float]:
    """Process id -> CPU seconds so far of each child process, except the compiler's own."""
    if not has_children():
        return {}
    found = {}
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            if not any(COMPILE_WORKER in word or "compile_worker" in word for word in child.cmdline()):
                found[child.pid] = times.user + times.system
    return found


def has_children() -> bool:
    """Whether this process has child processes; cheap, where the kernel lists them."""
    try:
        return any((TASKS / str(thread) / "children").read_text() for thread in thread_ids())
    except OSError:
        return True

"""A device that exists only in numbers: an in-order stream, a launch cost and a script of what goes wrong.

It stands in for a GPU, so that the whole protocol can be held against exact times. Nothing here sleeps or reads a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

EVENT_S = 1e-6
"""Host time to record an event. A guess until it was measured on a GPU; so are the two below."""
SYNC_S = 2e-6
LAUNCH_S = 5e-6


@dataclass(frozen=True)
class Kernel:
    """A piece of work as it is launched; times in seconds."""

    number: int
    """how many were launched before it"""
    host_s: float
    """host time that the launch takes"""
    device_s: float
    begins_s: float
    """when the stream would begin it"""


Effect = Callable[[Kernel], Kernel]


@dataclass
class VirtualDevice:
    """Host time moves by what the host does; the stream is busy until `ready_s`."""

    effects: tuple[Effect, ...] = ()
    host_s: float = 0.0
    ready_s: float = 0.0
    launches: int = 0
    syncs: int = field(default=0)

    def launch(self, device_s: float, host_s: float = LAUNCH_S) -> None:
        """Enqueues work of `device_s` seconds behind all that was enqueued before; the host goes on after `host_s`."""
        kernel = Kernel(self.launches, host_s, device_s, max(self.ready_s, self.host_s + host_s))
        self.launches += 1
        for effect in self.effects:
            kernel = effect(kernel)
        self.host_s += kernel.host_s
        self.ready_s = max(self.ready_s, self.host_s) + kernel.device_s

    def record(self) -> float:
        """When the stream reaches the moment marked now; recording costs the host EVENT_S."""
        self.host_s += EVENT_S
        return max(self.ready_s, self.host_s)

    def synchronize(self) -> None:
        """The host waits for the stream; that costs SYNC_S even where there is nothing to wait for."""
        self.syncs += 1
        self.host_s = max(self.host_s, self.ready_s) + SYNC_S


class VirtualClock:
    """Clock over a virtual device; behaves as CudaClock does over a GPU."""

    enqueues = True

    def __init__(self, device: VirtualDevice, timestamp_interval: int = 5) -> None:
        self.device, self.timestamp_interval = device, timestamp_interval

    def now(self) -> float:
        """See Clock.now."""
        return self.device.host_s

    def sync(self) -> None:
        """See Clock.sync."""
        self.device.synchronize()

    def timestamp(self) -> float:
        """See Clock.mark."""
        return self.device.record()

    def resolve(self, marks: list[float]) -> list[float]:
        """See Clock.resolve."""
        return [mark - marks[0] for mark in marks]


def compile_spike(launches: int, host_s: float) -> Effect:
    """The first launches cost the host `host_s` more each: a compiler, an autotuner, an allocator that grows."""
    return lambda kernel: replace(kernel, host_s=kernel.host_s + host_s) if kernel.number < launches else kernel


def ramp(per_s: float) -> Effect:
    """Everything becomes slower by `per_s` of its time per second: a chip that warms up."""
    return lambda kernel: replace(kernel, device_s=kernel.device_s * (1 + per_s * kernel.begins_s))


def clock_event_reasons(begin_s: float, end_s: float, factor: float) -> Effect:
    """Within a stretch of time everything takes `factor` times as long."""

    def effect(kernel: Kernel) -> Kernel:
        held = begin_s <= kernel.begins_s < end_s
        return replace(kernel, device_s=kernel.device_s * factor) if held else kernel

    return effect


def late(number: int, extra_s: float) -> Effect:
    """One piece of work takes longer on the device."""
    return lambda kernel: replace(kernel, device_s=kernel.device_s + extra_s) if kernel.number == number else kernel


def out_of_memory(number: int) -> Effect:
    """From this launch on there is no memory: raises torch.OutOfMemoryError, as the allocator of a GPU does."""

    def effect(kernel: Kernel) -> Kernel:
        if kernel.number >= number:
            raise torch.OutOfMemoryError("virtual device out of memory")
        return kernel

    return effect

"""A simulated device: an in-order stream, a launch cost, and effects that disturb its kernels.

It replaces a GPU, so that tests compare the whole protocol with exact times. Nothing here sleeps or reads a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

EVENT_S = 1e-6
"""Host time to record an event. An estimate, like the two below, until it is measured on a GPU."""
SYNC_S = 2e-6
LAUNCH_S = 5e-6


@dataclass(frozen=True)
class Kernel:
    """A launched kernel; times in seconds."""

    number: int
    """number of kernels launched before it"""
    host_s: float
    """host time of the launch"""
    device_s: float
    begins_s: float
    """when the stream would start it"""


Effect = Callable[[Kernel], Kernel]


@dataclass
class VirtualDevice:
    """Host calls advance `host_s`; the stream is busy until `ready_s`."""

    effects: tuple[Effect, ...] = ()
    host_s: float = 0.0
    ready_s: float = 0.0
    launches: int = 0
    syncs: int = field(default=0)

    def launch(self, device_s: float, host_s: float = LAUNCH_S) -> None:
        """Enqueues a kernel of `device_s` seconds after all earlier ones; the call takes the host `host_s` seconds."""
        kernel = Kernel(self.launches, host_s, device_s, max(self.ready_s, self.host_s + host_s))
        self.launches += 1
        for effect in self.effects:
            kernel = effect(kernel)
        self.host_s += kernel.host_s
        self.ready_s = max(self.ready_s, self.host_s) + kernel.device_s

    def record(self) -> float:
        """When the stream reaches an event recorded now; recording costs the host EVENT_S."""
        self.host_s += EVENT_S
        return max(self.ready_s, self.host_s)

    def synchronize(self) -> None:
        """The host waits for the stream; this costs at least SYNC_S."""
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
        """See Clock.timestamp."""
        return self.device.record()

    def resolve(self, timestamps: list[float]) -> list[float]:
        """See Clock.resolve."""
        return [timestamp - timestamps[0] for timestamp in timestamps]


def compile_spike(launches: int, host_s: float) -> Effect:
    """The first launches cost the host `host_s` seconds more each, as with a compiler, an autotuner or a growing allocator."""
    return lambda kernel: replace(kernel, host_s=kernel.host_s + host_s) if kernel.number < launches else kernel


def ramp(per_s: float) -> Effect:
    """Kernels become slower by the share `per_s` per second, as on a chip that warms up."""
    return lambda kernel: replace(kernel, device_s=kernel.device_s * (1 + per_s * kernel.begins_s))


def throttled(begin_s: float, end_s: float, factor: float) -> Effect:
    """Between two times all kernels take `factor` times as long, as with reduced clocks."""

    def effect(kernel: Kernel) -> Kernel:
        is_throttled = begin_s <= kernel.begins_s < end_s
        return replace(kernel, device_s=kernel.device_s * factor) if is_throttled else kernel

    return effect


def late(number: int, extra_s: float) -> Effect:
    """One kernel takes longer on the device."""
    return lambda kernel: replace(kernel, device_s=kernel.device_s + extra_s) if kernel.number == number else kernel


def out_of_memory(number: int) -> Effect:
    """From this launch on raises torch.OutOfMemoryError, as the allocator of a GPU does."""

    def effect(kernel: Kernel) -> Kernel:
        if kernel.number >= number:
            raise torch.OutOfMemoryError("virtual device out of memory")
        return kernel

    return effect

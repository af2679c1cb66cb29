"""The clocks: one interface, one clock for the host and one for CUDA.

No clock waits for the device inside a timed interval.
"""

from time import perf_counter
from typing import Any, Protocol

import torch

# Bound here, before any plug-in is imported: code that replaces them later does not change what is measured.
synchronize = torch.cuda.synchronize


class Clock(Protocol):
    """Timestamps are recorded while work is enqueued; `resolve` turns them into times after `sync`."""

    timestamp_interval: int
    """One repetition in this many has a timestamp per token; 1 if timestamps cost almost nothing."""
    enqueues: bool
    """Whether calls return before their work is done, as on a GPU."""

    def now(self) -> float:
        """Host time in seconds since an arbitrary start."""
        ...

    def sync(self) -> None:
        """Waits until the device has done all enqueued work."""
        ...

    def timestamp(self) -> Any:
        """Records a timestamp in the device's stream."""
        ...

    def resolve(self, timestamps: list[Any]) -> list[float]:
        """Seconds from the first timestamp to each of them. Call it after `sync`."""
        ...


class HostClock:
    """For work that is done when the call returns: a timestamp is a reading of the monotonic clock."""

    timestamp_interval = 1
    enqueues = False

    def now(self) -> float:
        """See Clock.now."""
        return perf_counter()

    def sync(self) -> None:
        """Nothing to wait for."""

    def timestamp(self) -> float:
        """See Clock.timestamp."""
        return perf_counter()

    def resolve(self, timestamps: list[float]) -> list[float]:
        """See Clock.resolve."""
        return [timestamp - timestamps[0] for timestamp in timestamps]


class CudaClock:
    """CUDA events recorded in the stream. Events are reused, so that none is created inside a repetition."""

    timestamp_interval = 5
    enqueues = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.events: list[torch.cuda.Event] = []
        self.used = 0

    def now(self) -> float:
        """See Clock.now."""
        return perf_counter()

    def sync(self) -> None:
        """See Clock.sync."""
        synchronize(self.device)

    def timestamp(self) -> torch.cuda.Event:
        """See Clock.timestamp."""
        if self.used == len(self.events):
            self.events.append(torch.cuda.Event(enable_timing=True))
        event = self.events[self.used]
        self.used += 1
        event.record()
        return event

    def resolve(self, timestamps: list[torch.cuda.Event]) -> list[float]:
        """See Clock.resolve. The resolution is about 0.5 us. All events can be reused afterwards."""
        self.used = 0
        return [timestamps[0].elapsed_time(timestamp) / 1e3 for timestamp in timestamps]


def make_clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


def timestamp_cost_s(clock: Clock, timestamps: int = 10_000) -> float | None:
    """Seconds per host timestamp, measured now. None on CUDA: there, repetitions with and without timestamps give the cost."""
    if clock.timestamp_interval > 1:
        return None
    start = clock.now()
    for _ in range(timestamps):
        clock.timestamp()
    return (clock.now() - start) / timestamps

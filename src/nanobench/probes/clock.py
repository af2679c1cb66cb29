"""The clocks: one interface, a member for the host and one for CUDA (probes.virtual has the third, which needs neither).

No clock waits for the device in what it times.
"""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks are taken while work is enqueued and become times only after `sync`."""

    timestamp_interval: int
    """One repetition in so many carries a mark per token; 1 where marks cost next to nothing."""
    enqueues: bool
    """Whether work goes on after the call that asked for it has returned."""

    def now(self) -> float:
        """Host seconds since an arbitrary moment."""
        ...

    def sync(self) -> None:
        """Waits until the device has done all that was enqueued."""
        ...

    def timestamp(self) -> Any:
        """A moment in the device's stream of work."""
        ...

    def resolve(self, timestamps: list[Any]) -> list[float]:
        """Seconds from the first mark to each of them; call it after `sync`."""
        ...


class HostClock:
    """For work that is done when the call returns: a mark is a reading of the monotonic clock."""

    timestamp_interval = 1
    enqueues = False

    def now(self) -> float:
        """See Clock.now."""
        return time.perf_counter()

    def sync(self) -> None:
        """Nothing to wait for."""

    def timestamp(self) -> float:
        """See Clock.mark."""
        return time.perf_counter()

    def resolve(self, timestamps: list[float]) -> list[float]:
        """See Clock.resolve."""
        return [timestamp - timestamps[0] for timestamp in timestamps]


class CudaClock:
    """CUDA events recorded in the stream. Events are kept and used again, so that none is created inside a repetition."""

    timestamp_interval = 5
    enqueues = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.events: list[torch.cuda.Event] = []
        self.used = 0

    def now(self) -> float:
        """See Clock.now."""
        return time.perf_counter()

    def sync(self) -> None:
        """See Clock.sync; all events are free again afterwards once they were resolved."""
        torch.cuda.synchronize(self.device)

    def timestamp(self) -> torch.cuda.Event:
        """See Clock.mark."""
        if self.used == len(self.events):
            self.events.append(torch.cuda.Event(enable_timing=True))
        event = self.events[self.used]
        self.used += 1
        event.record()
        return event

    def resolve(self, timestamps: list[torch.cuda.Event]) -> list[float]:
        """See Clock.resolve; resolution about half a microsecond."""
        self.used = 0
        return [timestamps[0].elapsed_time(timestamp) / 1e3 for timestamp in timestamps]


def make_clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


def timestamp_cost_s(clock: Clock, timestamps: int = 10_000) -> float | None:
    """Seconds that one host mark takes, measured now; None on CUDA, where marked repetitions stand beside plain ones."""
    if clock.timestamp_interval > 1:
        return None
    start = clock.now()
    for _ in range(timestamps):
        clock.timestamp()
    return (clock.now() - start) / timestamps

"""The instruments of a trial: its clock, and the probes that are read before and after each repetition."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nanobench.probes.base import Probe
from nanobench.probes.clock import Clock, make_clock
from nanobench.probes.host import HostProbe
from nanobench.records import ReadingValues, Repetition

SUSTAINED_S = 3.5
"""Duration of the sustained phase: NVML updates its utilization slowly, so it is meaningless for less than 3 s."""


@dataclass
class Instruments:
    """A clock and its probes."""

    clock: Clock
    probes: list[Probe] = field(default_factory=list)
    sustained_s: float = 0.0
    """seconds of untimed work after the pairs of an arm's first launch; 0 if no probe needs it"""

    def ready(self) -> None:
        """See Probe.ready."""
        for probe in self.probes:
            probe.ready()

    def observe(self, work: Callable[[], Repetition]) -> Repetition:
        """Does the work and adds the probes' readings to its repetition."""
        for probe in self.probes:
            probe.before()
        done = work()
        readings: ReadingValues = {}
        for probe in reversed(self.probes):
            readings |= probe.after()
        return replace(done, **readings)

    @property
    def note(self) -> str | None:
        """The notes of all probes, joined; None if no reading is missing."""
        return "; ".join(probe.note for probe in self.probes if probe.note) or None

    def close(self) -> list[Repetition]:
        """Ends the probes and returns their samples."""
        return [sample for probe in self.probes for sample in probe.close()]


def make_instruments(device: torch.device, folder: Path) -> Instruments:
    """The clock of a device, a probe of the host, and on CUDA a probe of the GPU, which writes its samples to `folder`."""
    if device.type != "cuda":
        return Instruments(make_clock(device), [HostProbe()])
    from nanobench.probes.nvml import NvmlProbe

    return Instruments(make_clock(device), [HostProbe(), NvmlProbe(device, folder)], SUSTAINED_S)

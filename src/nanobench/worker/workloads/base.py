"""The contracts inside a worker: Workload, one per arm, and TrialContext, the state that all arms of a trial share."""

from pathlib import Path
from typing import Protocol

from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition
from nanobench.schema import Arm


class Workload(Protocol):
    """An arm at a point."""

    phases: list[Repetition]
    """The repetitions before the steady phase: build, first_call, gate, warmup."""

    def begin(self) -> None:
        """Builds the arm and runs it once at the measured shape. Raises Skip if this device cannot run it."""
        ...

    def time(self, kind: str, repetition: int, block: int | None, timestamped: bool) -> Repetition:
        """One repetition of any kind."""
        ...

    def prepare(self, known: Gate | None) -> Gate:
        """Builds, runs once and returns the gate's verdict. `known` is the verdict of an earlier launch.

        Raises Skip if this device cannot run the arm.
        """
        ...

    def warm_up(self) -> None:
        """Runs at the measured shape until the steady phase can begin."""
        ...

    def repeat(self, repetition: int, block: int, timestamped: bool) -> Repetition:
        """One timed repetition; if `timestamped`, with one timestamp per token or training step."""
        ...

    def sustain(self, seconds: float) -> Repetition:
        """Work for at least `seconds` without timestamps, as one repetition that enters no ratio."""
        ...

    def profile(self, trace: Path | None) -> None:
        """Counts the dispatched operations, untimed; writes a Chrome trace to `trace` if given."""
        ...

    def outcome(self) -> Outcome:
        """The arm's outcome, after it has run."""
        ...


class TrialContext(Protocol):
    """The state that the arms of a trial share. The constructor loads the model."""

    inference: bool
    """whether no gradients are needed"""

    def ready(self, gated: bool) -> None:
        """Called before the first arm is built. `gated`: an earlier launch has gated the arms."""
        ...

    def reserve_gate_memory(self) -> None:
        """Allocates as much memory as the gate needs, in less time. Raises an exception if it runs out of memory."""
        ...

    def make_workload(self, arm: Arm, clock: Clock) -> Workload:
        """The workload of one arm, not yet built."""
        ...

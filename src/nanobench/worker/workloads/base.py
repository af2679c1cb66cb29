"""The contracts of a workload: one object per arm, and what all arms of a trial share. Both live in one worker."""

from pathlib import Path
from typing import Protocol

from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition
from nanobench.schema import Arm


class Workload(Protocol):
    """An arm at a point."""

    phases: list[Repetition]
    """What happened before the steady phase: build, first_call, gate, warmup."""

    def begin(self) -> None:
        """Builds, and runs once at the measured shape."""
        ...

    def time(self, kind: str, repetition: int, block: int | None, timestamped: bool) -> Repetition:
        """One repetition of any kind."""
        ...

    def prepare(self, known: Gate | None) -> Gate:
        """Builds, runs once and passes the gate; `known` is an earlier launch's verdict. Raises Skip if infeasible."""
        ...

    def warm_up(self) -> None:
        """Runs at the measured shape until the steady phase may begin."""
        ...

    def repeat(self, repetition: int, block: int, timestamped: bool) -> Repetition:
        """One timed repetition; with marks, one per token."""
        ...

    def sustain(self, seconds: float) -> Repetition:
        """Unmarked work for so long at least, as one repetition that enters no ratio."""
        ...

    def profile(self, trace: Path | None) -> None:
        """Counts what the work dispatches, untimed; keeps a trace where a path is given."""
        ...

    def outcome(self) -> Outcome:
        """What is known of the arm once it has run."""
        ...


class TrialContext(Protocol):
    """What the arms of a trial share; making it loads the model."""

    inference: bool
    """whether nothing asks for gradients"""

    def ready(self, gated: bool) -> None:
        """Whatever must be done before the first arm; `gated` where none will ask the gate for the first time."""
        ...

    def reserve_gate_memory(self) -> None:
        """Takes what memory the gate takes before the first arm, in less time. Raises where it finds none."""
        ...

    def arm(self, arm: Arm, clock: Clock) -> Workload:
        """One of its arms, not yet built."""
        ...

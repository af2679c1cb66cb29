"""The contract that every workload meets: one object per arm, living in one worker."""

from pathlib import Path
from typing import Protocol

from nanobench.gate import Reference
from nanobench.record import Gate, Outcome, Repetition


class Workload(Protocol):
    """An arm at a point."""

    phases: list[Repetition]
    """What happened before the steady phase: build, first_call, gate, warmup."""

    def prepare(self, reference: Reference, known: Gate | None) -> Gate:
        """Builds, runs once and passes the gate; `known` is an earlier launch's verdict. Raises Skip if infeasible."""
        ...

    def warm_up(self) -> None:
        """Runs at the measured shape until the steady phase may begin."""
        ...

    def repeat(self, repetition: int, block: int, marked: bool) -> Repetition:
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

"""The contracts inside a worker: Workload, one per arm, and TrialContext, the state that all arms of a trial share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from nanobench.models.base import Adapter
from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition
from nanobench.schema import Arm


@dataclass(frozen=True)
class Block:
    """One round of turns, in which every arm runs one repetition over the same inputs."""

    number: int
    timestamped: bool
    """whether the repetitions have one timestamp per token or training step"""
    prompt_seed: int
    """drawn just before the block: no arm can know its prompts earlier"""
    is_recorded: bool = False
    """training: whether the state before the repetition is kept, so that it can be replayed after the launch"""


class Workload(Protocol):
    """An arm at a point."""

    phases: list[Repetition]
    """The repetitions before the steady phase: build, first_call, gate, warmup."""

    def begin(self) -> None:
        """Builds the arm and runs it once at the measured shape. Raises Skip if this device cannot run it."""
        ...

    def time(self, kind: str, repetition: int, block: Block | None) -> Repetition:
        """One repetition of any kind; without timestamps and over the gate's inputs if it is in no block."""
        ...

    def prepare(self, known: Gate | None) -> Gate:
        """Builds, runs once and returns the gate's verdict. `known` is the verdict of an earlier launch.

        Raises Skip if this device cannot run the arm.
        """
        ...

    def warm_up(self) -> None:
        """Runs at the measured shape until the steady phase can begin."""
        ...

    def lay_out(self, block: Block) -> None:
        """Untimed: puts the inputs of the next repetition on the device, and keeps what the last one put out."""
        ...

    def repeat(self, repetition: int, block: Block) -> Repetition:
        """One timed repetition, after `lay_out` of its block."""
        ...

    def count_sustained(self, seconds: float) -> int:
        """How many times a repetition's calls fill `seconds`, from one that is run now."""
        ...

    def sustain(self, count: int) -> Repetition:
        """That many times the calls of a repetition, without timestamps, as one repetition that enters no ratio."""
        ...

    def profile(self, trace: Path | None) -> None:
        """Counts the dispatched operations, untimed; writes a Chrome trace to `trace` if given."""
        ...

    def save_outputs(self, path: Path) -> bool:
        """Writes what the timed repetitions put out to a file, for the check after the launch; False if there is nothing."""
        ...

    def outcome(self) -> Outcome:
        """The arm's outcome, after it has run."""
        ...


class TrialContext(Protocol):
    """The state that the arms of a trial share. The constructor loads the model."""

    inference: bool
    """whether no gradients are needed"""
    adapter: Adapter
    """the model of all arms; in training each has a copy"""

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that arms share: that of the model, and those made of it."""
        ...

    def ready(self, gated: bool) -> None:
        """Called before the first arm is built. `gated`: an earlier launch has gated the arms."""
        ...

    def reserve_gate_memory(self) -> None:
        """Allocates as much memory as the gate needs, in less time. Raises an exception if it runs out of memory."""
        ...

    def make_workload(self, arm: Arm, clock: Clock) -> Workload:
        """The workload of one arm, not yet built."""
        ...

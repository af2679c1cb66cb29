"""What is said of a sweep that runs, to whatever shows it."""

from collections.abc import Callable
from dataclasses import dataclass

from nanobench.records import JsonObject
from nanobench.results.derive import CellRow
from nanobench.schema import Trial


@dataclass(frozen=True)
class Progress:
    """How far the sweep is, for whatever shows it."""

    trial: Trial
    done: int
    total: int
    left: Callable[[], float]
    report: JsonObject | None
    """what the worker said; None when the trial is finished"""
    look: Callable[[], list[CellRow]]

    @property
    def left_s(self) -> float:
        """The seconds that the sweep may still take."""
        return self.left()

    @property
    def cells(self) -> list[CellRow]:
        """Those of the trials that are finished."""
        return self.look()


Watch = Callable[[Progress], None]

"""A recorded run that is compared with another: its cells by what identifies them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nanobench.errors import UserError
from nanobench.records import LaunchRecord
from nanobench.results import finder
from nanobench.results.cell import Cell
from nanobench.results.derive import cells_of
from nanobench.results.run_info import RunInfo

Key = tuple[Any, ...]
"""What makes two cells the same: the values of `key_of`."""


@dataclass(frozen=True)
class RecordedRun:
    """A recorded run."""

    name: str
    info: RunInfo
    launches: Sequence[LaunchRecord]

    @cached_property
    def cells(self) -> Mapping[Key, Cell]:
        """What identifies a cell -> the cell."""
        return {key_of(cell): cell for cell in cells_of(self.launches, self.info.machine)}


def read(path: str | Path) -> RecordedRun:
    """The run in a folder. Raises UserError where it holds none or several."""
    runs = finder.find_runs(path)
    if len(runs) != 1:
        raise UserError(f"{path} holds {len(runs)} runs; give the folder of one")
    return RecordedRun(str(path), runs[0].info(), runs[0].read_raw())


def key_of(cell: Cell) -> Key:
    """What makes two cells the same: the point without its device's number, and the arm."""
    point = {**vars(cell.point), "device": cell.point.device.partition(":")[0]}
    return (*point.values(), *vars(cell.arm).values())

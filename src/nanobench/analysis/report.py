"""A run with everything that its report says of it, and which of several runs were measured alike."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nanobench.analysis.cost import in_order
from nanobench.analysis.crossover import Crossover, crossovers
from nanobench.analysis.explain import explained
from nanobench.analysis.verdict import SETTING
from nanobench.records import LaunchRecord
from nanobench.results import derive
from nanobench.results.derive import CellRow
from nanobench.results.run_info import RunInfo
from nanobench.results.store import Run, frame, records


@dataclass(frozen=True)
class Study:
    """A run, as its report needs it."""

    folder: Path
    info: RunInfo
    cells: pd.DataFrame
    """in the order of point and arm"""
    launches: list[LaunchRecord]
    rows: list[CellRow]
    """the same cells, explained"""
    crossovers: list[Crossover]
    timed_share: float | None
    """part of the wall time that was timed, warm-up included; None where it is not known"""
    place: str = ""
    """the URI or the folder that a user knows the run by"""

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.resolve().name

    @property
    def files(self) -> dict[str, str]:
        """Key of a trial -> the name of its raw file."""
        return {path.stem.rpartition("-")[2]: path.name for path in sorted(Run(self.folder).raw.glob("*.parquet"))}


def study(run: Run) -> Study:
    """A run, its cells and all that follows from them; without cells where no trial has finished yet."""
    info, launches = run.info(), run.read_raw()
    made = derive.cells_of(launches, info.machine)
    derived = derive.corrected(derive.in_order(list(map(derive.row_of, made))))
    cells = in_order(frame(run, derived))
    rows = explained(records(cells), made, info.description.identity.get("cores"))
    share = derive.timed_share(launches, info.wall_s) if info.wall_s else None
    # The sides of an A/B comparison have an answer of their own, over a threshold.
    pays = [] if any(arm.side for arm in info.plan.arms) else crossovers(rows, made)
    return Study(run.folder, info, cells, launches, rows, pays, share, run.place)


# Several runs
def names_of(studies: list[Study]) -> list[str]:
    """A name for each run: that of its folder, with the folder above it where several have the same."""
    names = [each.name for each in studies]
    paths = ["/".join(each.folder.resolve().parts[-2:]) for each in studies]
    return [name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]


def alike(studies: list[Study]) -> list[list[CellRow]]:
    """The cells that two runs or more measured alike, setting by setting, in the order of batch size, arm and run.

    Alike are the setting, the machine, the software, the source code, the protocol, and the arm that ratios refer to. A cell
    without an identity is like no other.
    """
    groups: dict[tuple[Any, ...], list[CellRow]] = defaultdict(list)
    names = names_of(studies)
    for name, each in zip(names, studies, strict=True):
        reference = each.info.plan.arms[0].label
        for row in records(each.cells.assign(run=name)):
            if row["identity"]:
                groups[(row["identity"], row["protocol"], reference, *(row[field] for field in SETTING))].append(row)
    order = {name: number for number, name in enumerate(names)}
    return [
        sorted(rows, key=lambda row: (row["batch_size"], row["arm"], order[row["run"]]))
        for rows in groups.values()
        if len({row["run"] for row in rows}) > 1
    ]


def differences(studies: list[Study]) -> dict[str, list[Any]]:
    """What differs between the machines and the software of runs -> its value in each of them."""
    identities = [each.info.description.identity for each in studies]
    names = dict.fromkeys(name for identity in identities for name in identity)
    values = {name: [identity.get(name) for identity in identities] for name in names}
    return {name: found for name, found in values.items() if any(each != found[0] for each in found)}

"""How fast the machine was in each launch, as a loop of fixed length saw it in the process that was timed."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

from nanobench.records import LaunchRecord
from nanobench.results.cell import Cell
from nanobench.results.metrics.formulas import rate
from nanobench.results.run_info import RunInfo
from nanobench.schema import Point
from nanobench.stats.two_samples import Sample

Turns = tuple[Point, int, int]
"""Point, launch and process: its arms took turns."""
Speeds = Mapping[Turns, float]
"""Turns -> the mean log of loops per second; without those that ran no loop."""
CALLS = rate("calls")
LOOP = "nanobench/probes/host.py"
"""The file that has the loop."""


def turns_of(launch: LaunchRecord) -> Turns:
    """Where an arm ran."""
    return launch.point, launch.launch, launch.process


def speeds(cells: Iterable[Cell]) -> Speeds:
    """Of the machine, over the timed repetitions of some cells. A GPU's speed is not that of the loop."""
    found: dict[Turns, list[float]] = defaultdict(list)
    for cell in (each for each in cells if each.point.device == "cpu"):
        for launch in cell.launches:
            steady = cell.steady_by_launch.get(launch.launch, [])
            found[turns_of(launch)] += [-math.log(each.spin_s) for each in steady if each.spin_s]
    return {turns: fmean(logs) for turns, logs in found.items() if logs}


def is_same_loop(base: RunInfo, new: RunInfo) -> bool:
    """Whether the loop takes as long in both runs on an equal machine: it depends on the interpreter."""
    about = [each.description for each in (base, new)]
    files = [each.code["nanobench"].files.get(LOOP) if "nanobench" in each.code else None for each in about]
    return about[0].identity.get("python") == about[1].identity.get("python") and files[0] == files[1]


def throughput(cell: Cell, known: Speeds) -> Sample:
    """The log throughput of a cell in each launch, with the speed of the machine where that is known for every launch."""
    logs = {launch: math.log(CALLS(found)) for launch, found in cell.untimestamped_by_launch.items()}
    turns = {launch.launch: turns_of(launch) for launch in cell.launches}
    found = [known[turns[launch]] for launch in logs if turns[launch] in known]
    return Sample(list(logs.values()), found if len(found) == len(logs) else None)

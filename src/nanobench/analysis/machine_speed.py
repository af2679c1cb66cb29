"""How fast the machine was in each launch, as a loop of fixed length saw it in the process of the launch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

from nanobench.records import LaunchRecord
from nanobench.results.repetitions import steady
from nanobench.schema import Point

Speeds = Mapping[tuple[Point, int], float]
"""Point and launch -> the mean log of loops per second; without launches that ran no loop."""


def speeds(launches: Iterable[LaunchRecord]) -> Speeds:
    """Of each launch, over the timed repetitions of all its arms: they took turns."""
    found: dict[tuple[Point, int], list[float]] = defaultdict(list)
    for launch in launches:
        found[launch.point, launch.launch] += [-math.log(each.spin_s) for each in steady(launch) if each.spin_s]
    return {where: fmean(logs) for where, logs in found.items() if logs}


def ratio(base: Speeds, new: Speeds) -> float | None:
    """How much faster the machine was in NEW; None where a run ran no loop."""
    return math.exp(fmean(new.values()) - fmean(base.values())) if base and new else None

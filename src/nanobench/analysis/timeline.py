"""What happened when: the timed repetitions of cells, and what the probes saw meanwhile, launch by launch."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nanobench.records import MEASURED, LaunchRecord, Repetition
from nanobench.results.cell import by_point_and_arm
from nanobench.results.repetitions import arm_of, point_of, seconds, steady
from nanobench.results.set_aside import counted
from nanobench.schema import Point

KINDS = ("steady", "sustained", "sample")
Process = tuple[Point, int, int]
"""Point, launch and process: arms that ran in processes of their own start apart."""


@dataclass(frozen=True)
class Start:
    """The first timed repetition of a launch, whichever arm ran it."""

    at_s: float
    """Unix time"""
    spin_s: float | None
    """of the first fixed loop"""


def moments(cells: pd.DataFrame, launches: Iterable[LaunchRecord]) -> pd.DataFrame:
    """One row per timed repetition, sustained phase and GPU sample of the measured cells, in order of time.

    `cell` is the index of the cell, `at_s` counts from the launch's first timed repetition, `counts` says whether a
    repetition went into the cell's figures. Empty where no repetition says when it began.
    """
    launches = list(launches)
    aside = {process_of(each) for each in counted(launches) if each.set_aside}
    launches_of = by_point_and_arm(launches)
    starts = starts_of(launch for found in launches_of.values() for launch in found)
    found = []
    for index, cell in cells[cells["status"].isin(MEASURED)].iterrows():
        for launch in launches_of.get((point_of(cell), arm_of(cell)), []):
            start = starts.get(process_of(launch))
            if start and launch.finished:
                counts = set() if process_of(launch) in aside else {id(each) for each in steady(launch)}
                shown = (each for each in launch.repetitions if each.kind in KINDS and (each.started_at or 0) >= start.at_s)
                found += [{"cell": index, "counts": id(each) in counts, **moment(launch, each, start)} for each in shown]
    return pd.DataFrame(found).sort_values("at_s", kind="stable", ignore_index=True) if found else pd.DataFrame()


def process_of(launch: LaunchRecord) -> Process:
    """The worker process that a launch of an arm ran in."""
    return launch.point, launch.launch, launch.process


def starts_of(launches: Iterable[LaunchRecord]) -> dict[Process, Start]:
    """Worker process -> when its timed repetitions began."""
    timed: dict[Process, list[tuple[float, Repetition]]] = defaultdict(list)
    for launch in launches:
        timed[process_of(launch)] += [
            (each.started_at, each) for each in launch.of_kind("steady") if each.started_at is not None
        ]
    starts = {}
    for process, found in timed.items():
        ordered = [each for _, each in sorted(found, key=lambda pair: pair[0])]
        if ordered:
            starts[process] = Start(ordered[0].started_at or 0.0, next((each.spin_s for each in ordered if each.spin_s), None))
    return starts


def moment(launch: LaunchRecord, repetition: Repetition, start: Start) -> dict[str, Any]:
    """One repetition as the timeline needs it. Numbers that are not known are NaN."""
    steady = repetition.kind == "steady"
    wall_s = number(repetition.wall_s)
    return {
        "kind": repetition.kind,
        "launch": launch.launch,
        "process": launch.process,
        "at_s": (repetition.started_at or 0.0) - start.at_s,
        "wall_s": wall_s,
        "call_s": seconds(repetition) / repetition.calls if steady else float("nan"),
        "valid": repetition.valid,
        "reason": repetition.reason if steady else None,
        "on_cpu_fraction": min(1.0, repetition.cpu_s / wall_s)
        if steady and launch.point.device == "cpu" and repetition.cpu_s is not None
        else float("nan"),
        "spin_ratio": repetition.spin_s / start.spin_s if steady and repetition.spin_s and start.spin_s else float("nan"),
        **{name: number(getattr(repetition, name)) for name in ("gpu_util", "clock_sm_hz", "power_w")},
    }


def number(value: float | None) -> float:
    """NaN for what is not known."""
    return float("nan") if value is None else value

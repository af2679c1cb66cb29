"""What stands behind each row of the table of cells: all its columns, and its launches with their repetitions, as JSON."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from nanobench.analysis.timeline import Process, process_of
from nanobench.records import JsonObject, LaunchRecord, Repetition
from nanobench.results import derive
from nanobench.results.cell import by_point_and_arm
from nanobench.results.derive import CellRow
from nanobench.results.metrics.metric import Metric
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS, arm_of, call_s, point_of, steady
from nanobench.results.set_aside import counted
from nanobench.views import format

MOST_REPETITIONS = 20_000
"""A page of a run with more timed repetitions than this does not hold them."""
SETTING = (*POINT_FIELDS, *ARM_FIELDS)
NOTHING: tuple[object, ...] = (None, "", 0, [])
"""Values of a field of a setting that say nothing."""


def of_rows(rows: list[CellRow], launches: Iterable[LaunchRecord], files: Mapping[str, str]) -> JsonObject:
    """The document behind rows; `files` names the raw file of each trial."""
    launches = list(launches)
    facts = [*known_setting(rows), *known_metrics(rows)]
    found, aside = by_point_and_arm(launches), set_aside(launches)
    fits = sum(len(each.of_kind("steady")) for each in launches) <= MOST_REPETITIONS
    return {
        "facts": [head(name) for name in facts],
        "rows": [
            {
                "facts": [[number, *fact(row, name)] for number, name in enumerate(facts) if row.get(name) is not None],
                "launches": [
                    launch_facts(each, files, process_of(each) in aside, fits)
                    for each in found.get((point_of(row), arm_of(row)), [])
                ],
            }
            for row in rows
        ],
        "complete": fits,
    }


# Columns
def known_setting(rows: list[CellRow]) -> list[str]:
    """The fields of a setting that say something in some row."""
    return [name for name in SETTING if any(row[name] not in NOTHING for row in rows)]


def known_metrics(rows: list[CellRow]) -> list[str]:
    """The columns that some row knows, without bounds, which stand beside their values."""
    bounds = {name for metric in by_name().values() for name in bounds_of(metric)}
    return [name for name in by_name() if name not in bounds and any(row.get(name) is not None for row in rows)]


@cache
def by_name() -> dict[str, Metric]:
    """The columns, those of plug-ins too."""
    return {metric.name: metric for metric in derive.all_metrics()}


def bounds_of(metric: Metric) -> tuple[str, ...]:
    """The columns with the bounds of a value; empty for one without an interval."""
    tail = "_s" if metric.name.endswith("_s") and metric.unit == "s" else ""
    names = tuple(f"{metric.name.removesuffix(tail)}_{bound}{tail}" for bound in ("lo", "hi"))
    return names if all(name in by_name() for name in names) else ()


def head(name: str) -> list[str]:
    """The name of a column and its formula in words."""
    metric = by_name().get(name)
    return [name, f"{metric.formula} ({metric.unit})" if metric else "setting"]


def fact(row: CellRow, name: str) -> tuple[str, float | None]:
    """The text of a value, with its interval, and the number that orders it."""
    metric = by_name().get(name)
    value: Any = row.get(name)
    text = format.text(value, metric.unit) if metric else str(value)
    if metric and (bounds := bounds_of(metric)) and None not in (low_high := [row[each] for each in bounds]):
        text += f" [{', '.join(format.text(each, metric.unit) for each in low_high)}]"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return text, float(f"{value:.9g}") if is_number and math.isfinite(value) else None


# Launches
def set_aside(launches: Iterable[LaunchRecord]) -> set[Process]:
    """The worker processes whose times do not count."""
    return {process_of(each) for each in counted(launches) if each.set_aside}


def launch_facts(launch: LaunchRecord, files: Mapping[str, str], aside: bool, fits: bool) -> JsonObject:
    """A launch of an arm: its trial, its file, its outcome and its timed repetitions."""
    outcome = launch.outcome
    return {
        "launch": launch.launch,
        "process": launch.process,
        "trial": launch.trial,
        "file": files.get(launch.trial, ""),
        "arm_index": launch.arm_index,
        "status": str(outcome.status),
        "reason": outcome.reason or "",
        "gate": " ".join(filter(None, [outcome.gate and str(outcome.gate), outcome.gate_note and f"({outcome.gate_note})"])),
        "note": "; ".join(notes(launch, aside)),
        "repetitions": list(repetitions(launch, aside)) if fits else [],
    }


def notes(launch: LaunchRecord, aside: bool) -> Iterator[str]:
    """What is special about a launch."""
    if launch.extra:
        yield "extra: beyond the planned launches"
    if aside:
        yield "set aside: an extra launch replaces it"
    if launch.outcome.check_note:
        yield launch.outcome.check_note


def repetitions(launch: LaunchRecord, aside: bool) -> Iterator[list[Any]]:
    """Each timed repetition: its number, block, time per call, calls, whether it has timestamps, and why it does not count."""
    counting = set() if aside or not launch.finished else {id(each) for each in steady(launch)}
    for each in launch.of_kind("steady"):
        time = format.seconds(call_s(each)) if each.wall_s is not None else format.MISSING
        why = "" if id(each) in counting else reason_of(launch, each, aside)
        yield [each.repetition, each.block, time, each.calls, each.timestamped, why]


def reason_of(launch: LaunchRecord, repetition: Repetition, aside: bool) -> str:
    """Why a repetition does not count."""
    if not repetition.valid:
        return repetition.reason or "invalid"
    if not launch.finished:
        return "the launch failed"
    return "the launch is set aside" if aside else "before the launch settled"

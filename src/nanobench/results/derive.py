"""The one list of columns, and the cells that follow from the launches of a run.

Storage is in SI base units with the unit as the tail of the name; ratios are fractions; what cannot be known is None.
Launches go in, cells come out, on writing and on loading alike: an old file gains a new metric by itself.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from nanobench.records import MEASURED, LaunchRecord
from nanobench.results import set_aside
from nanobench.results.cell import Cell, make_cells
from nanobench.results.metrics import checks, common, generation, roofline, training
from nanobench.results.metrics import plug_ins as of_plug_ins
from nanobench.results.metrics.metric import Metric
from nanobench.results.metrics.plug_ins import PlugIn
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS
from nanobench.results.run_context import Machine
from nanobench.stats import intervals

CellRow = dict[str, Any]
"""One row of cells.parquet: column -> value; None where it cannot be known."""
METRICS: tuple[Metric, ...] = (*common.METRICS, *checks.METRICS, *generation.METRICS, *training.METRICS, *roofline.METRICS)
"""Our own columns; `all_metrics` has those of plug-ins too."""
BY_NAME = {metric.name: metric for metric in METRICS}
HEADS = (*POINT_FIELDS, *ARM_FIELDS, "arm", "arm_index", "run")
"""Columns that name a cell."""
KNOWN_OF_FAILED = {
    *("status", "reason", "gate", "gate_note", "gate_max_error", "gate_tolerance"),
    *("failures", "launches_ok", "launches_failed", "repetitions", "identity", "protocol", "probe_note"),
    *("checked_calls", "check_note"),
    *("speedup_status", "speedup_reason"),
}
"""What may be said of a cell that was not measured."""
TIMED_KINDS = ("first_call", "warmup", "steady")


@cache
def plug_ins() -> tuple[PlugIn, ...]:
    """The metrics of plug-ins, loaded when the first cell needs them."""
    return of_plug_ins.load({*BY_NAME, *HEADS})


def all_metrics() -> tuple[Metric, ...]:
    """Our own metrics, then those of plug-ins."""
    return (*METRICS, *(each.metric for each in plug_ins()))


def derive(launches: Iterable[LaunchRecord], machine: Machine | None = None) -> list[CellRow]:
    """The cells of a run's launches, in the order of point and arm; what rests on a calibration is null without one."""
    return corrected(in_order([row_of(cell) for cell in cells_of(launches, machine)]))


def cells_of(launches: Iterable[LaunchRecord], machine: Machine | None = None) -> list[Cell]:
    """The cells of a run's launches, without the times of those that are set aside."""
    return make_cells(set_aside.counted(launches), machine)


def in_order(cells: list[CellRow]) -> list[CellRow]:
    """Sorted by point and arm."""
    return sorted(cells, key=lambda cell: tuple(cell[name] for name in (*POINT_FIELDS, "arm_index")))


def corrected(cells: list[CellRow]) -> list[CellRow]:
    """The same cells, their p values corrected for one another (Holm 1979)."""
    tested = [cell for cell in cells if cell["speedup_p"] is not None]
    adjusted = intervals.holm([cell["speedup_p"] for cell in tested])
    for cell, p_value in zip(tested, adjusted, strict=True):
        cell["speedup_p_holm"] = p_value
    return cells


def row_of(cell: Cell) -> CellRow:
    """A cell as a row of cells.parquet: its point, its arm and every metric. Unmeasured cells keep only words, and no plug-in
    computes anything of them.
    """
    workload = training.METRICS if cell.point.trains else generation.METRICS
    own = (*common.METRICS, *checks.METRICS, *workload, *roofline.METRICS)
    known = {**dict.fromkeys(BY_NAME), **{metric.name: metric.compute(cell) for metric in own}}
    measured = known["status"] in MEASURED
    if not measured:
        known = {name: value if name in KNOWN_OF_FAILED else None for name, value in known.items()}
    added = {each.metric.name: each.metric.compute(cell) if measured else None for each in plug_ins()}
    return {**vars(cell.point), **vars(cell.arm), "arm": cell.arm.label, "arm_index": cell.arm_index, **known, **added}


def timed_share(launches: Sequence[LaunchRecord], wall_s: float) -> float:
    """The share of a sweep's wall time that was spent in timed repetitions and warm-up, first calls included."""
    spent_s = (each.wall_s or 0.0 for launch in launches for each in launch.repetitions if each.kind in TIMED_KINDS)
    return sum(spent_s) / wall_s

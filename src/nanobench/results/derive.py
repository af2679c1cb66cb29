"""The one list of columns, and how each follows from the raw rows of a cell.

Storage is in SI base units with the unit as the tail of the name; ratios are fractions; what cannot be known is None.
Raw rows go in, cells come out, on writing and on loading alike: an old file gains a new metric by itself.
"""

from typing import Any

from nanobench.records import MEASURED
from nanobench.results.cell import Cell, make_cells
from nanobench.results.metrics import common, generation, training
from nanobench.results.metrics.metric import Metric
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS, Row
from nanobench.results.run_context import Machine
from nanobench.schema import Arm
from nanobench.stats import intervals

CellRow = dict[str, Any]
"""One row of cells.parquet: column -> value; None where it cannot be known."""

METRICS: tuple[Metric, ...] = (*common.METRICS, *generation.METRICS, *training.METRICS)
BY_NAME = {metric.name: metric for metric in METRICS}
KNOWN_OF_FAILED = {"status", "reason", "gate", "gate_note", "gate_max_error", "gate_tolerance"}

KNOWN_OF_FAILED |= {"failures", "launches_ok", "launches_failed", "repetitions", "identity", "protocol", "probe_note"}
"""What may be said of a cell that was not measured."""


def derive(rows: list[Row], machine: Machine | None = None) -> list[Row]:
    """The cells of a run's raw rows, in the order of point and arm; what rests on a calibration is null without one."""
    return corrected(in_order([row_of(cell) for cell in make_cells(rows, machine)]))


def in_order(cells: list[Row]) -> list[Row]:
    """Sorted by point and arm."""
    return sorted(cells, key=lambda cell: tuple(cell[name] for name in (*POINT_FIELDS, "arm_index")))


def corrected(cells: list[Row]) -> list[Row]:
    """The same cells, their p values corrected for one another (Holm 1979)."""
    asked = [cell for cell in cells if cell["speedup_p"] is not None]
    adjusted = intervals.holm([cell["speedup_p"] for cell in asked])
    for cell, p_value in zip(asked, adjusted, strict=True):
        cell["speedup_p_holm"] = p_value
    return cells


def row_of(cell: Cell) -> Row:
    """A cell as a row of cells.parquet: its point, its arm and every metric. Unmeasured cells keep only words."""
    head = {name: cell.rows[0][name] for name in (*POINT_FIELDS, *ARM_FIELDS)}
    label = Arm(**{name: head[name] for name in ARM_FIELDS}).label
    own = (*common.METRICS, *(training if cell.point.trains else generation).METRICS)
    known = {**dict.fromkeys(BY_NAME), **{metric.name: metric.compute(cell) for metric in own}}
    if known["status"] not in MEASURED:
        known = {name: value if name in KNOWN_OF_FAILED else None for name, value in known.items()}
    return {**head, "arm": label, "arm_index": cell.rows[0]["arm_index"], **known}


def timed_share(rows: list[Row], wall_s: float) -> float:
    """The share of a sweep's wall time that was spent in timed repetitions and warm-up, first calls included."""
    return sum(row["wall_s"] for row in rows if row["kind"] in ("first_call", "warmup", "steady")) / wall_s

"""Why a cell is as fast as it is: predicted beside measured, what binds its step, what to try, and where an arm begins to pay.

docs/explain.md has the rules. Figures that were published, not measured here, are judged by a datasheet alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nanobench import costs, datasheet, lookup
from nanobench.analysis.cost import in_order
from nanobench.analysis.verdict import SETTING
from nanobench.cells import ARM_FIELDS, POINT_FIELDS, Cell
from nanobench.datasheet import Sheet
from nanobench.errors import UserError
from nanobench.machine import Machine, setting
from nanobench.roofline import Operations, predict
from nanobench.schema import COMPILE_MODES, DTYPE_BYTES, DTYPES, JUDGED, MEASURED, Arm, GPTShape, Point

Row = dict[str, Any]
FLAT = 0.25
"""A step time is flat over the batch sizes at which it lies within this share of its smallest."""
FAR = 10.0
"""A published step that is flat and so many times above both of its floors is bound by the host."""
NEAR = 2.0
"""A published step that is at most so many times above a floor is bound by it."""
MOST_BATCH = 4096
PUBLISHED = "published"
"""Status of a figure that somebody else measured."""
PUBLISHED_DTYPE = "bfloat16"
GRAPHS, COMPILED = "reduce-overhead", "default"
TRUST = (
    "speedup",
    "speedup_lo",
    "speedup_hi",
    "predicted_ttft_s",
    "predicted_tpot_s",
    "predicted_e2e_s",
    "predicted_speedup",
    "naive_speedup",
    "prediction_error",
    "bound_by",
    "host_floor_s",
    "operations_per_step",
    "kernels_per_step",
    "graph_launches_per_step",
    "device_busy",
    "alloc_retries",
    "mfu",
    "hfu",
    "mbu",
)
HEAD = ("run", *POINT_FIELDS, *ARM_FIELDS, "arm", "arm_index", "status", "reason")
MEASURES = ("output_tok_s", "output_tok_s_lo", "output_tok_s_hi", "ttft_s", "tpot_s", "e2e_s")
PLACE = (*POINT_FIELDS, "arm_index")


@dataclass(frozen=True)
class Pays:
    """From which batch size on an arm is faster than the reference."""

    start: int | None
    """None where it never is"""
    least: int
    """the smallest batch size that was asked"""
    most: int


@dataclass(frozen=True)
class Crossover:
    """Where one arm begins to pay, as predicted and as measured; None for what is not known."""

    where: Row
    reference: str
    arm: str
    predicted: Pays | None
    earliest: Pays | None
    """where the predictions are wrong in the arm's favour"""
    latest: Pays | None
    measured: Pays | None


def explained(cells: pd.DataFrame, made: list[Cell], cores: int | None) -> pd.DataFrame:
    """The cells of a run by point and arm, each with its reason; null for what is not known."""
    cells = in_order(cells)
    found = cells.reindex(columns=[*HEAD, *MEASURES, *TRUST])
    cell_of = {place_of(cell): cell for cell in made}
    steps = [of_step(cell_of.get(tuple(row[name] for name in PLACE))) for _, row in cells.iterrows()]
    found = found.join(pd.DataFrame(steps, index=found.index))
    unknown = ~found["status"].isin(MEASURED)
    found.loc[unknown, list(steps[0])] = None
    for name in ("predicted", "naive"):
        found[f"{name}_share"] = found["speedup"].astype(float) / found[f"{name}_speedup"].astype(float)
    found = found.join(flatness(found))
    found["floor_ratio"] = found["tpot_s"].astype(float) / found["weight_floor_s"].astype(float)
    arms = set(found["arm"])
    found["tries"] = [
        "; ".join(mends(row.to_dict(), cell_of.get(tuple(row[name] for name in PLACE)), cores, arms))
        for _, row in found.iterrows()
    ]
    return found


def place_of(cell: Cell) -> tuple[Any, ...]:
    """What tells a cell from all others of its run."""
    return tuple(cell.rows[0][name] for name in PLACE)

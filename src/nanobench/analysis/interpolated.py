"""The curves of a sweep at all its candidate batch sizes: as measured, or interpolated with the uncertainty of that."""

import math
from collections.abc import Sequence

import pandas as pd

from nanobench.analysis.cost import TAILS, in_order
from nanobench.analysis.verdict import SETTING, THROUGHPUTS, is_concluded
from nanobench.records import JUDGED, MEASURED
from nanobench.results.derive import CellRow
from nanobench.results.store import records
from nanobench.schema import Plan
from nanobench.stats.curve import LEAST, Known, interpolate

VALUES = ("speedup", *THROUGHPUTS)
COLUMNS = [name + tail for name in VALUES for tail in TAILS]
ARM = ["arm", "arm_index"]
STATUSES = ["status", "speedup_status"]


def curve(cells: pd.DataFrame, candidates: Sequence[int]) -> pd.DataFrame:
    """One row per setting, arm and candidate batch size, in the order of point and arm. Units are those of the cells.

    Columns: `run` if the cells have it, those of SETTING, `batch_size`, ARM, `measured`, STATUSES and COLUMNS.
    A candidate that has a cell is a copy of it, and `measured` says whether the cell has numbers. Any other candidate has no
    status; its values are interpolated, and null beyond the cells, or if a neighbouring cell failed or says nothing reliable
    (a ratio without a conclusion, an absolute figure that is not reliable), or if fewer than three cells say something.
    Bounds are null if a neighbouring value has none.
    """
    by = [name for name in ("run", *SETTING) if name in cells]
    sizes = sorted(set(candidates))
    groups = cells.groupby([*by, "arm"], sort=False, dropna=False)
    rows = [row for _, found in groups for row in of_arm(found, sizes, [*by, *ARM])]
    made = pd.DataFrame(rows, columns=[*by, "batch_size", *ARM, "measured", *STATUSES, *COLUMNS])
    return in_order(made.astype({**dict.fromkeys(COLUMNS, float), "measured": bool}))


def of_run(cells: pd.DataFrame, plan: Plan) -> list[CellRow]:
    """The rows of `curve` over the candidates of a run's plan; none for a plan that is not adaptive."""
    return records(curve(cells, [point.batch_size for point in plan.points])) if plan.adaptive else []


def of_arm(cells: pd.DataFrame, sizes: Sequence[int], head: list[str]) -> list[CellRow]:
    """The rows of one arm of a setting, of which there is at most one cell per batch size."""
    name_of = cells.iloc[0][head].to_dict()
    cells = cells.set_index("batch_size")
    made: dict[int, dict[str, float]] = {size: {} for size in sizes}
    for name in VALUES:
        for size, values in between(cells, name, sizes).items():
            made[size] |= values
    rows = []
    for size in sizes:
        row = {**name_of, "batch_size": size, "measured": False, **made[size]}
        if size in cells.index:
            cell = cells.loc[size]
            row |= {**cell[[*STATUSES, *COLUMNS]].to_dict(), "measured": cell["status"] in MEASURED}
        rows.append(row)
    return rows


def between(cells: pd.DataFrame, name: str, sizes: Sequence[int]) -> dict[int, dict[str, float]]:
    """One value with its bounds, at those sizes between two reliable cells that have no cell."""
    known = reliable(cells, name)
    if len(known) < LEAST:
        return {}
    neighbours = {size: pair for size in sizes if (pair := neighbours_of(size, cells.index.tolist())) and {*pair} <= {*known}}
    found = {}
    for size, estimate in interpolate(known, list(neighbours)).items():
        bounded = all(known[each].sd for each in neighbours[size])
        bounds = (estimate.low, estimate.high) if bounded else (math.nan, math.nan)
        found[size] = dict(zip((name + tail for tail in TAILS), (estimate.value, *bounds), strict=True))
    return found


def reliable(cells: pd.DataFrame, name: str) -> dict[int, Known]:
    """What enters the curve of a value, by batch size: concluded ratios, or reliable absolute figures."""
    kept = cells[(is_concluded(cells) if name == "speedup" else cells["status"].isin(JUDGED)) & cells[name].gt(0)]
    columns = (kept[name + tail].astype(float) for tail in TAILS)
    return {int(size): Known.of(*values) for size, *values in zip(kept.index, *columns, strict=True)}


def neighbours_of(size: int, measured: Sequence[int]) -> tuple[int, int] | None:
    """The nearest batch sizes below and above; None beyond the measured ones, and for one of them."""
    below, above = [each for each in measured if each < size], [each for each in measured if each > size]
    return (max(below), min(above)) if below and above and size not in measured else None

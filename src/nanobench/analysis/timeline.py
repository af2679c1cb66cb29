"""What happened when: the timed repetitions of cells, and what the probes saw meanwhile, launch by launch."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nanobench import cells as raw
from nanobench.schema import MEASURED

POINT_AND_LAUNCH = (*raw.POINT_FIELDS, "launch", "process")
GPU_READINGS = ("gpu_util", "clock_sm_hz", "power_w")
KINDS = ("steady", "sustained", "sample")


@dataclass(frozen=True)
class Start:
    """The first timed repetition of a launch, whichever arm ran it."""

    at_s: float
    """Unix time"""
    spin_s: float | None
    """the first fixed loop"""


def moments(cells: pd.DataFrame, raw_rows: list[raw.Row]) -> pd.DataFrame:
    """One row per timed repetition, sustained phase and GPU sample of the measured cells, in order of time.

    `cell` is the index of the cell, `at_s` counts from the launch's first timed repetition, `counts` says whether a
    repetition went into the cell's figures. Empty where no row says when it began.
    """
    names = [*raw.POINT_FIELDS, *raw.ARM_FIELDS]
    rows_of, starts = raw.by_key(raw_rows, *names), starts_of(raw_rows)
    found = []
    for index, cell in cells[cells["status"].isin(MEASURED)].iterrows():
        rows = rows_of.get(tuple(cell[names]), [])
        counted = {id(row) for row in raw.steady_rows(rows)}
        for row in rows:
            start = starts.get(tuple(row[name] for name in POINT_AND_LAUNCH))
            if start and row["kind"] in KINDS and row["started_at"] is not None and row["started_at"] >= start.at_s:
                found.append({"cell": index, "counts": id(row) in counted, **moment(row, start)})
    return pd.DataFrame(found).sort_values("at_s", kind="stable", ignore_index=True) if found else pd.DataFrame()


def starts_of(raw_rows: list[raw.Row]) -> dict[Any, Start]:
    """Point, launch and process -> the launch's start. Arms that ran in processes of their own start apart."""
    timed = [row for row in raw.timed_rows_of_arms(raw_rows) if row["started_at"] is not None]
    return {
        key: Start(min(row["started_at"] for row in rows), first_spin_s(rows))
        for key, rows in raw.by_key(timed, *POINT_AND_LAUNCH).items()
    }

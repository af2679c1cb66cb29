"""What happened when: the timed repetitions of cells, and what the probes saw meanwhile, launch by launch."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nanobench.records import MEASURED, Status
from nanobench.results import repetitions as raw

POINT_AND_LAUNCH = (*raw.POINT_FIELDS, "launch", "process")
KINDS = ("steady", "sustained", "sample")


@dataclass(frozen=True)
class Start:
    """The first timed repetition of a launch, whichever arm ran it."""

    at_s: float
    """Unix time"""
    spin_s: float | None
    """of the first fixed loop"""


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
        finished = {row["launch"] for row in rows if row["status"] == Status.OK}
        counted = {id(row) for row in raw.steady_rows(rows)}
        for row in rows:
            start = starts.get(tuple(row[name] for name in POINT_AND_LAUNCH))
            if start and row["launch"] in finished and row["kind"] in KINDS and (row["started_at"] or 0) >= start.at_s:
                found.append({"cell": index, "counts": id(row) in counted, **moment(row, start)})
    return pd.DataFrame(found).sort_values("at_s", kind="stable", ignore_index=True) if found else pd.DataFrame()


def starts_of(raw_rows: list[raw.Row]) -> dict[Any, Start]:
    """Point, launch and process -> the launch's start. Arms that ran in processes of their own start apart."""
    timed = [row for row in raw_rows if row["kind"] == "steady" and row["started_at"] is not None]
    starts = {}
    for key, rows in raw.by_key(timed, *POINT_AND_LAUNCH).items():
        rows.sort(key=lambda row: row["started_at"])
        starts[key] = Start(rows[0]["started_at"], next((row["spin_s"] for row in rows if row["spin_s"]), None))
    return starts


def moment(row: raw.Row, start: Start) -> dict[str, Any]:
    """One raw row as the timeline needs it. Numbers that are not known are NaN."""
    steady = row["kind"] == "steady"
    on_cpu = steady and row["device"] == "cpu" and row["cpu_s"] is not None
    spun = steady and row["spin_s"] is not None and start.spin_s is not None
    return {
        "kind": row["kind"],
        "launch": row["launch"],
        "process": row["process"],
        "at_s": row["started_at"] - start.at_s,
        "wall_s": number(row["wall_s"]),
        "call_s": row["wall_s"] / row["calls"] if steady else float("nan"),
        "valid": row["valid"] is not False,
        "reason": row["reason"] if steady else None,
        "on_cpu_fraction": min(1.0, row["cpu_s"] / row["wall_s"]) if on_cpu else float("nan"),
        "spin_ratio": row["spin_s"] / start.spin_s if spun else float("nan"),
        **{name: number(row[name]) for name in ("gpu_util", "clock_sm_hz", "power_w")},
    }


def number(value: float | None) -> float:
    """NaN for what is not known."""
    return float("nan") if value is None else value

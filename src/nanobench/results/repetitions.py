"""A cell: one point with one arm, as its raw rows tell it. Times, contrasts and readings; nothing here judges."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from nanobench.records import Status
from nanobench.schema import Arm, Point
from nanobench.stats import steady_state

Row = dict[str, Any]
POINT_FIELDS = [each.name for each in fields(Point)]
ARM_FIELDS = [each.name for each in fields(Arm)]
LEAST_SERIES = 30
"""Repetitions of a launch from which on it is asked whether they are steady: of 20 noisy ones, one series in six fails."""
settles_at = lru_cache(maxsize=1 << 14)(steady_state.steady_from)


@dataclass(frozen=True)
class Call:
    """One marked generate call, in seconds from its start."""

    ttft_s: float
    e2e_s: float
    itl_s: tuple[float, ...]
    """gaps between consecutive tokens"""

    @property
    def decode_s(self) -> float:
        """From the first token to the last."""
        return self.e2e_s - self.ttft_s


def timed_rows(rows: Iterable[Row]) -> list[Row]:
    """The timed repetitions of the launches that finished, valid or not."""
    rows = list(rows)
    finished = {row["launch"] for row in rows if row["status"] == Status.OK}
    return [row for row in rows if row["kind"] == "steady" and row["launch"] in finished]


def steady_rows(rows: Iterable[Row]) -> list[Row]:
    """The timed repetitions that count: no recorded cause made them invalid, and their launch had settled by then.

    A launch that never settles, or is too short to tell, counts as a whole.
    """
    valid = [row for row in timed_rows(rows) if row["valid"]]
    begins = {}
    for launch, times in launch_series(valid).items():
        if len(times) >= LEAST_SERIES and (first := settles_at(times)):
            begins[launch] = plain([row for row in valid if row["launch"] == launch])[first]["block"]
    return [row for row in valid if row["block"] is None or row["block"] >= begins.get(row["launch"], 0)]


def launch_series(rows: list[Row]) -> dict[int, tuple[float, ...]]:
    """Launch -> seconds per call of its plain, valid repetitions, in order."""
    launches = by_key([row for row in rows if row["valid"]], "launch")
    return {launch: tuple(row["wall_s"] / row["calls"] for row in plain(each)) for launch, each in launches.items()}


def plain(rows: list[Row]) -> list[Row]:
    """The unmarked of these repetitions; all of them where every one is marked."""
    unmarked = [row for row in rows if not row["timestamped"]]
    return unmarked or rows


def split_calls(row: Row) -> list[Call]:
    """The calls of a marked repetition. They run back to back, so each begins at the last token of the one before."""
    times = np.asarray(row["token_times_s"], dtype=float).reshape(row["calls"], -1)
    starts = np.concatenate(([0.0], times[:-1, -1]))
    return [Call(t[0] - s, t[-1] - s, tuple(np.diff(t).tolist())) for t, s in zip(times, starts, strict=True)]


def call_times(rows: list[Row]) -> dict[int, list[float]]:
    """Block -> seconds per call, from the plain repetitions."""
    return {row["block"]: [row["wall_s"] / row["calls"]] for row in plain(rows)}


def decode_times(rows: list[Row]) -> dict[int, list[float]]:
    """Block -> seconds of decode of each call, from the marked repetitions."""
    return {row["block"]: [call.decode_s for call in split_calls(row)] for row in rows if row["timestamped"]}


def mean_logs(times: dict[int, list[float]]) -> dict[int, float]:
    """Block -> mean log of its times; blocks with a time of 0 (no decode at all) are left out."""
    return {block: float(np.mean(np.log(values))) for block, values in times.items() if values and min(values) > 0}


def by_key(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """Rows grouped by one column's value, or by a tuple of several, in order of appearance."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)].append(row)
    return dict(groups)

"""A cell: one point with one arm, as its repetitions tell it. Times, contrasts and readings; nothing here judges."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nanobench.results.repetitions import (
    ARM_FIELDS,
    LEAST_SERIES,
    POINT_FIELDS,
    Call,
    Row,
    by_key,
    call_times,
    decode_times,
    launch_series,
    mean_logs,
    plain,
    settles_at,
    split_calls,
    steady_rows,
    timed_rows,
)
from nanobench.results.run_context import Machine
from nanobench.roofline import flops
from nanobench.roofline.prediction import Operations, Prediction, predict
from nanobench.schema import GPTShape, Point
from nanobench.stats import intervals

Times = Callable[[list[Row]], dict[int, list[float]]]
TREND = 0.1
"""An arm has a trend over positions where the gaps of the last quarter differ by more from those of the first."""


@dataclass
class Cell:
    """One point with one arm: its raw rows, and those of arms that it is held against."""

    rows: list[Row]
    reference_rows: list[Row]
    uncompiled_rows: list[Row]
    machine: Machine = field(default_factory=Machine)
    single_rank_rows: list[Row] = field(default_factory=list)
    """of the same arm, training on one rank"""

    @cached_property
    def point(self) -> Point:
        """What was run."""
        return Point(**{name: self.rows[0][name] for name in POINT_FIELDS})

    @cached_property
    def shape(self) -> GPTShape | None:
        """The model's sizes, where the run tells them."""
        return self.machine.shapes.get(self.point.model)

    @cached_property
    def kv_access(self) -> str | None:
        """How the engine walks through the point; None where it does not say, or says what is not known."""
        kv_access = self.first("kv_access")
        return kv_access if kv_access in flops.KV_ACCESS else None

    @cached_property
    def prediction(self) -> Prediction | None:
        """How long a call should take; None without a calibration, a profile or a known path."""
        limits = self.machine.limits_of(self.point)
        prefill, step = self.first("operations_prefill"), self.first("operations_per_step")
        if self.shape is None or limits is None or self.kv_access is None or prefill is None:
            return None
        return predict(self.shape, self.point, self.kv_access, limits, Operations(prefill, step or 0.0))

    @cached_property
    def reference(self) -> "Cell | None":
        """The reference arm's cell at this point; None for the reference itself."""
        return None if self.is_reference or not self.reference_rows else Cell(self.reference_rows, [], [], self.machine)

    @property
    def uncompiled(self) -> "Cell":
        """The cell of the same arm, not compiled."""
        return Cell(self.uncompiled_rows, [], [], self.machine)

    @cached_property
    def outcomes(self) -> list[Row]:
        """One row per launch that says what became of the arm."""
        return self.of_kind("outcome")

    @cached_property
    def steady(self) -> list[Row]:
        """The timed repetitions that count."""
        return steady_rows(self.rows)

    @cached_property
    def plain(self) -> list[Row]:
        """Repetitions that throughput comes from: without marks where marks cost something, else all."""
        return plain(self.steady)

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of the marked repetitions, with a time for every token."""
        return [call for row in self.steady if row["timestamped"] for call in split_calls(row)]

    @cached_property
    def invalid(self) -> list[Row]:
        """The timed repetitions that a recorded cause made invalid, of the launches that finished."""
        return [row for row in timed_rows(self.rows) if not row["valid"]]

    @cached_property
    def sustained(self) -> list[Row]:
        """The long stretches of untimed work: the last one of each launch, after the one that gave its length."""
        return [rows[-1] for rows in by_key(self.of_kind("sustained"), "launch").values()]

    @cached_property
    def samples(self) -> list[Row]:
        """What the GPU was seen to do, ten times a second, while this arm ran for long enough."""
        spans = [(row["started_at"], row["started_at"] + row["wall_s"]) for row in self.sustained]
        return [row for row in self.of_kind("sample") if any(low <= row["started_at"] <= high for low, high in spans)]

    @property
    def is_reference(self) -> bool:
        """Whether this is the arm that speed-ups refer to."""
        return self.rows[0]["arm_index"] == 0

    def of_kind(self, kind: str) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row["kind"] == kind]

    def first(self, name: str) -> Any:
        """The first known value of an outcome's field over the launches."""
        return next((row[name] for row in self.outcomes if row[name] is not None), None)

    def most(self, name: str) -> Any:
        """The largest known value of an outcome's field over the launches."""
        return max((row[name] for row in self.outcomes if row[name] is not None), default=None)

    def seen(self, name: str, rows: list[Row] | None = None) -> list[Any]:
        """The known values of a reading over the timed repetitions, or over other rows."""
        return [row[name] for row in (self.steady if rows is None else rows) if row[name] is not None]

    def per_second(self, name: str) -> float | None:
        """A reading summed over the timed repetitions that have it, per second of theirs."""
        rows = [row for row in self.steady if row[name] is not None]
        return sum(row[name] for row in rows) / sum(row["wall_s"] for row in rows) if rows else None

    @cached_property
    def speedup_logs(self) -> list[list[float]]:
        """Log of the reference's end-to-end time over this arm's, per pair, launch by launch."""
        return paired_logs(self, call_times)

    @cached_property
    def speedup(self) -> intervals.Interval | None:
        """End-to-end time of the reference over this arm's."""
        return intervals.ratio(self.speedup_logs) if self.speedup_logs else None

    @cached_property
    def decode_speedup(self) -> intervals.Interval | None:
        """The same for decode alone: all tokens but the first."""
        logs = paired_logs(self, decode_times)
        return intervals.ratio(logs) if logs else None

    @cached_property
    def aa_logs(self) -> list[list[float]]:
        """The reference against itself at this point: see `alternating_logs`."""
        launches = by_key(steady_rows(self.reference_rows), "launch").values()
        return list(filter(None, (alternating_logs(rows) for rows in launches)))

    @cached_property
    def aa(self) -> intervals.Interval | None:
        """The ratio of the reference to itself, which is 1 unless the measuring is at fault."""
        return intervals.ratio(self.aa_logs) if self.aa_logs else None

    @cached_property
    def components(self) -> intervals.Components | None:
        """The spread of the log ratios within and between launches."""
        return intervals.components(self.speedup_logs) if self.speedup_logs else None

    @cached_property
    def unsteady(self) -> int:
        """Launches with enough repetitions to tell, and which never settled."""
        series = launch_series(timed_rows(self.rows))
        return sum(settles_at(times) is None for times in series.values() if len(times) >= LEAST_SERIES)

    @cached_property
    def gaps(self) -> tuple[np.ndarray, list[int], str | None]:
        """Gaps between tokens in seconds, the call that each belongs to, and the positions that they cover.

        All positions, or the last quarter where the time per token grows with the position.
        """
        if not self.calls or not self.calls[0].itl_s:
            return np.empty(0), [], None
        gaps = np.array([call.itl_s for call in self.calls])
        last, begin = gaps.shape[1], 0
        middle, quarter = np.median(gaps, axis=0), max(1, last // 4)
        ends = float(np.median(middle[:quarter])), float(np.median(middle[-quarter:]))
        if last >= 8 and ends[0] > 0 and abs(ends[1] / ends[0] - 1) > TREND:
            begin = last - quarter
        chosen = gaps[:, begin:]
        calls = np.repeat(np.arange(len(chosen)), chosen.shape[1])
        return chosen.ravel(), calls.tolist(), f"{begin + 2}-{last + 1}"


def paired_logs(cell: Cell, times: Times) -> list[list[float]]:
    """Log of the reference's time over the arm's, launch by launch: paired by block where both ran in one process,
    else one value of the launch's mean log times. Empty for the reference itself.
    """
    if cell.is_reference:
        return []
    logs = []
    launches = by_key(cell.reference_rows, "launch")
    for launch, rows in by_key(cell.rows, "launch").items():
        others = launches.get(launch, [])
        mine, reference = mean_logs(times(steady_rows(rows))), mean_logs(times(steady_rows(others)))
        together = rows[0]["process"] == (others[0]["process"] if others else None)
        if together:
            logs.append([reference[block] - mine[block] for block in mine if block in reference])
        elif mine and reference:
            logs.append([float(np.mean(list(reference.values())) - np.mean(list(mine.values())))])
    return [pairs for pairs in logs if pairs]


def alternating_logs(rows: list[Row]) -> list[float]:
    """Log ratios of neighbouring repetitions of one arm in one launch, as if it had two names and ran as ABBA.

    The null contrast costs nothing this way; a drift cancels as it does between two arms.
    """
    logs = [math.log(row["wall_s"] / row["calls"]) for row in plain(rows)]
    pairs = zip(logs[::2], logs[1::2], strict=False)
    flip = rows[0]["launch"]
    return [first - second if (number + flip) % 2 else second - first for number, (first, second) in enumerate(pairs)]


def make_cells(rows: list[Row], machine: Machine | None = None) -> list[Cell]:
    """The cells of raw rows, a point with an arm each."""
    machine = machine or Machine()
    cells = []
    for point_rows in by_key(rows, *POINT_FIELDS).values():
        arms = by_key(sorted(point_rows, key=lambda row: row["arm_index"]), "arm_index")
        for arm_rows in arms.values():
            twin = [row for row in point_rows if is_uncompiled_twin(row, arm_rows[0])]
            alone = [row for row in rows if arm_rows[0]["world_size"] > 1 and is_alone(row, arm_rows[0])]
            cells.append(Cell(arm_rows, arms.get(0, []), twin, machine, alone))
    return cells


def is_alone(row: Row, of: Row) -> bool:
    """Whether a row is of the same arm at the same point, but on one rank."""
    return row["world_size"] == 1 and all(row[n] == of[n] for n in (*POINT_FIELDS, *ARM_FIELDS) if n != "world_size")


def is_uncompiled_twin(row: Row, of: Row) -> bool:
    """Whether a row is of the same arm but for the compile mode, which is off."""
    same = all(row[name] == of[name] for name in ARM_FIELDS if name != "compile_mode")
    return same and row["compile_mode"] == "off"

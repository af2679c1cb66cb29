"""What the columns of training are computed by: functions of a cell. Each gives None where the cell cannot know."""

from collections.abc import Callable

import numpy as np

from nanobench.results.cell import Cell
from nanobench.results.metrics import formulas
from nanobench.results.repetitions import Row, by_key, plain, steady_rows
from nanobench.roofline import flops
from nanobench.schema import GPTShape
from nanobench.stats import intervals


def per_second(name: str, part: str = "value") -> Callable[[Cell], float | None]:
    """Tokens of one kind per second."""
    return formulas.over_launches(formulas.rate(name), part)


def step_s(part: str) -> Callable[[Cell], float | None]:
    """Mean seconds of a step."""
    return formulas.over_launches(lambda rows: 1 / formulas.rate("calls")(rows), part)


def padding_fraction(cell: Cell) -> float | None:
    """Tokens that carry no loss over all."""
    tokens = sum(row["tokens"] for row in cell.plain)
    return 1 - sum(row["useful_tokens"] for row in cell.plain) / tokens if tokens else None


def loss(kind: str, last: bool) -> Callable[[Cell], float | None]:
    """The median over launches of the loss that a launch began or ended with."""

    def compute(cell: Cell) -> float | None:
        launches = by_key([row for row in cell.of_kind(kind) if row["loss"] is not None], "launch").values()
        return intervals.median([rows[-1 if last else 0]["loss"] for rows in launches])

    return compute


def executed_flops_per_s(cell: Cell) -> float | None:
    """Operations that the steps execute over all ranks, padding and recomputation included, per second."""
    recomputed = cell.rows[0]["checkpointing"] != "off"
    return flops_per_s(
        cell, lambda shape, row: flops.training_flops(shape, row["tokens"], row["attended_positions"], recomputed)
    )


def useful_flops_per_s(cell: Cell) -> float | None:
    """The least operations for the tokens that carry loss, per second."""
    return flops_per_s(
        cell, lambda shape, row: flops.training_flops(shape, row["useful_tokens"], row["useful_attended_positions"])
    )


def flops_per_s(cell: Cell, flops: Callable[[GPTShape, Row], float]) -> float | None:
    """Operations of the plain repetitions over their time."""
    wall_s, shape = sum(row["wall_s"] for row in cell.plain), cell.shape
    return sum(flops(shape, row) for row in cell.plain) / wall_s if wall_s and shape is not None else None


def of_peak(compute: Callable[[Cell], float | None]) -> Callable[[Cell], float | None]:
    """A rate over the datasheets' peak of all devices; None where that is unknown."""

    def share(cell: Cell) -> float | None:
        found, sheet = compute(cell), cell.machine.sheet
        peak = sheet.flops.get(cell.point.dtype) if sheet else None
        return found / (peak * cell.point.world_size) if found and peak else None

    return share


def breakeven_steps(cell: Cell) -> float | None:
    """Steps until the cold compile time is paid back; None where the arm is no faster than the same one uncompiled."""
    cost_s, mine, plain = formulas.compile_s(cell, cold=True), step_s("value")(cell), step_s("value")(cell.uncompiled)
    return None if cost_s is None or not mine or not plain or mine >= plain else cost_s / (plain - mine)


def scaling(part: str) -> Callable[[Cell], float | None]:
    """Tokens per second of all ranks over as many times those of one alone, launch by launch; None without one alone."""

    def compute(cell: Cell) -> float | None:
        if cell.point.world_size == 1 or not cell.single_rank_rows:
            return None
        alone = {
            launch: formulas.rate("tokens")(rows)
            for launch, rows in by_key(plain(steady_rows(cell.single_rank_rows)), "launch").items()
        }
        mine = {launch: formulas.rate("tokens")(rows) for launch, rows in by_key(cell.plain, "launch").items()}
        logs = [[float(np.log(mine[n] / alone[n] / cell.point.world_size))] for n in mine if n in alone]
        return getattr(intervals.ratio(logs), part) if logs else None

    return compute

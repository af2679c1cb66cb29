"""The physical floor: what a call, a decode step or a training step takes at least, however it is implemented.

It comes from the best rates that the calibration measured anywhere on this machine, in its caches too, or from the datasheet
of a GPU. What is faster than the floor by more than SLACK is implausible.
"""

from collections.abc import Iterator
from typing import NamedTuple

from nanobench.results.cell import Cell
from nanobench.results.metrics.training import useful_flops_per_s
from nanobench.roofline import flops
from nanobench.schema import DTYPE_BYTES
from nanobench.stats import intervals

SLACK = 3.0
"""A calibration beside other work may have seen half of the machine's speed, and a best rate is rarely the best possible."""


class Rates(NamedTuple):
    """The best rates of a machine; None where they are not known."""

    flops_per_s: float | None
    bytes_per_s: float | None


class Work(NamedTuple):
    """What has to be done in a measured time."""

    name: str
    measured_s: float
    flops: float
    bytes: float


def implausible(cell: Cell) -> str | None:
    """Why a cell is faster than possible, with the arithmetic; None if it is not, or if no rates are known."""
    rates = rates_of(cell)
    for work in works_of(cell):
        for amount, unit, rate in ((work.flops, "FLOP", rates.flops_per_s), (work.bytes, "B", rates.bytes_per_s)):
            if rate and work.measured_s * SLACK < amount / rate:
                return (
                    f"{work.name} took {work.measured_s:.3g} s, but {amount:.3g} {unit} at the best measured rate of "
                    f"{rate:.3g} {unit}/s take {amount / rate:.3g} s"
                )
    return None


def works_of(cell: Cell) -> Iterator[Work]:
    """The call and the decode step of a generation cell, or the operations per second of a training cell."""
    shape, point = cell.shape, cell.point
    if shape is None:
        return
    if point.trains:
        rate = useful_flops_per_s(cell)
        if rate:
            yield Work("a second's worth of training", 1.0, rate / point.world_size, 0.0)
        return
    weights = flops.read_bytes(shape, point.dtype, cell.arm.weights)
    e2e_s, steps = intervals.median(cell.e2e_s), cell.first("steps_per_call")
    if e2e_s:
        yield Work("a call", e2e_s, flops.useful_flops(shape, point), weights * (1 + (steps or 0)))
    step_s = intervals.median([(call.e2e_s - call.ttft_s) / steps for call in cell.calls]) if steps else None
    if step_s is not None and steps:
        tokens = (point.new_tokens - 1) / steps
        per_token = 2.0 * point.batch_size * (shape.block_params + shape.head_params)
        yield Work("a decode step", step_s, per_token * tokens, weights)


def rates_of(cell: Cell) -> Rates:
    """The best rates that the calibration measured for the dtype; of a GPU without a calibration those of its datasheet."""
    limits, sheet, size = cell.machine.limits_of(cell.point), cell.machine.sheet, DTYPE_BYTES[cell.point.dtype]
    if limits is not None:
        matmuls = [each for each in limits.found if each.kind in ("matmul", "lm_head") and each.value]
        reads = [each.value for each in limits.found if each.kind == "read" and each.value]
        reads += [each.value / 2 * size for each in matmuls if each.rows == 1]
        return Rates(max((each.value for each in matmuls), default=None), max(reads, default=None))
    if sheet is not None:
        return Rates(sheet.flops.get("tf32" if cell.point.dtype == "float32" else cell.point.dtype), sheet.bytes_per_s)
    return Rates(None, None)

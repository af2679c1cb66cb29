"""The columns that say why: what a call should cost on this machine, how much of its limits was reached, and what binds it."""

from nanobench.results.cell import Cell
from nanobench.results.metrics import formulas, training_formulas
from nanobench.roofline import flops
from nanobench.stats import intervals

UNEXPLAINED = 0.3
"""A cell whose time is so much larger or smaller than predicted is explained by nothing here."""


def host_floor_s(cell: Cell) -> float | None:
    """What dispatching a step's operations takes, however small their work."""
    prediction = cell.prediction
    return prediction.host_floor_s if prediction and prediction.steps else None


def predicted_ttft_s(cell: Cell) -> float | None:
    """Seconds to the first token."""
    return cell.prediction.prefill.total_s if cell.prediction else None


def predicted_tpot_s(cell: Cell) -> float | None:
    """Seconds per step."""
    return cell.prediction.tpot_s if cell.prediction else None


def predicted_e2e_s(cell: Cell) -> float | None:
    """Seconds of a call."""
    return cell.prediction.call.total_s if cell.prediction else None


def prediction_error(cell: Cell) -> float | None:
    """Measured over predicted, less one: per step where there are steps, else of the whole call."""
    if cell.prediction is None:
        return None
    pairs = (
        (formulas.tpot_s(cell), cell.prediction.tpot_s),
        (intervals.median([call.e2e_s for call in cell.calls]), cell.prediction.call.total_s),
    )
    return next((measured / predicted - 1 for measured, predicted in pairs if measured and predicted), None)


def predicted_speedup(cell: Cell) -> float | None:
    """The ratio of two predictions."""
    reference = cell.reference.prediction if cell.reference else None
    return reference.call.total_s / cell.prediction.call.total_s if reference and cell.prediction else None


def naive_speedup(cell: Cell) -> float | None:
    """The ratio of tokens processed: what a count of operations promises."""
    reference = cell.reference.kv_access if cell.reference else None
    return flops.naive_speedup(cell.point, reference, cell.kv_access) if reference and cell.kv_access else None


def bound_by(cell: Cell) -> str | None:
    """The largest part of the predicted step; 'allocator' where it had to retry, 'unexplained' where nothing fits."""
    error = prediction_error(cell)
    if cell.prediction is None or error is None:
        return None
    if cell.most("alloc_retries"):
        return "allocator"
    if abs(error) > UNEXPLAINED:
        return "unexplained"
    return (cell.prediction.decode if cell.prediction.steps else cell.prediction.prefill).bound_by


def mfu(cell: Cell) -> float | None:
    """Useful operations over the datasheet's."""
    if cell.point.trains:
        return training_formulas.of_peak(training_formulas.useful_flops_per_s)(cell)
    return used_flops(cell, flops.useful_flops(cell.shape, cell.point)) if cell.shape else None


def hfu(cell: Cell) -> float | None:
    """Executed operations over the datasheet's."""
    if cell.point.trains:
        return training_formulas.of_peak(training_formulas.executed_flops_per_s)(cell)
    if cell.shape is None or cell.kv_access is None:
        return None
    return used_flops(
        cell, sum(flops.cost(cell.shape, cell.point.dtype, one).flops for one in flops.KV_ACCESS[cell.kv_access](cell.point))
    )


def used_flops(cell: Cell, flops: float) -> float | None:
    """Operations of a call over the median call's time and the datasheet's rate."""
    seconds = intervals.median([call.e2e_s for call in cell.calls])
    peak = cell.machine.sheet.flops.get(cell.point.dtype) if cell.machine.sheet else None
    return flops / seconds / peak if seconds and peak else None


def mbu(cell: Cell) -> float | None:
    """Weights and cache that the steps read over the datasheet's bandwidth; tables that are only looked up do not count."""
    sheet, seconds = cell.machine.sheet, formulas.tpot_s(cell)
    if cell.shape is None or cell.kv_access is None or sheet is None or not sheet.bytes_per_s or not seconds:
        return None
    steps = flops.KV_ACCESS[cell.kv_access](cell.point)[1:]
    kv_bytes = cell.shape.kv_bytes_per_token(cell.point.dtype)
    weights = [flops.cost(cell.shape, cell.point.dtype, one).weight_bytes for one in steps]
    read = sum(weights) + sum(one.rows * one.context * kv_bytes for one in steps if one.kv_read)
    return read / len(steps) / seconds / sheet.bytes_per_s

"""Columns that say why: what a call should cost on this machine, how much of its limits was reached, and what binds it."""

from collections.abc import Iterable

import numpy as np

from nanobench.results.cell import Cell
from nanobench.results.metrics.formulas import value_of
from nanobench.results.metrics.generation import tpot_s, ttft_s
from nanobench.results.metrics.metric import (
    BYTES,
    BYTES_PER_S,
    COUNT,
    FLOPS,
    FLOPS_PER_BYTE,
    FLOPS_PER_S,
    HIGHER,
    LOWER,
    NEITHER,
    RATIO,
    SECONDS,
    TEXT,
    Metric,
    outcome_first,
    outcome_max,
)
from nanobench.results.metrics.training import executed_flops_per_s, step_s, useful_flops_per_s
from nanobench.roofline import flops, training
from nanobench.roofline.flops import Cost
from nanobench.roofline.prediction import Time
from nanobench.schema import GPTShape
from nanobench.stats import intervals

UNEXPLAINED = 0.3
"""Beyond this share of error a prediction explains nothing."""
AS_MEASURED = "from the acceptance that was measured"
"""What a prediction says that needs the acceptance of drafted tokens: it is no prediction of the model's output."""


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


def predicted_step_s(cell: Cell) -> float | None:
    """Seconds per optimizer step."""
    return cell.step_prediction.total_s if cell.step_prediction else None


def prediction_uncertainty(cell: Cell) -> float | None:
    """By how much the limits leave the predicted time of a step open, of the prefill for a single token."""
    found = cell.prediction or cell.step_prediction
    return found.uncertainty if found else None


def notes_of(cell: Cell, notes: Iterable[str]) -> str | None:
    """What a prediction of a cell's arm rests on besides resolved limits; None for nothing else."""
    measured = [AS_MEASURED] if cell.drafting and cell.drafting.accept is None else []
    return "; ".join([*measured, *sorted(notes)]) or None


def prediction_note(cell: Cell) -> str | None:
    """Why there is no prediction, or which limits it lacks; None for a prediction from resolved limits."""
    if found := cell.prediction or cell.step_prediction:
        return notes_of(cell, found.notes)
    weights = cell.arm.weights
    limits = cell.machine.limits_of(cell.point, weights)
    if cell.point.trains and (reason := training.why_not(cell.point, cell.arm)):
        return reason
    if cell.arm.kv_cache != "float":
        return "attention over a quantised cache is not calibrated"
    if not cell.has_calibrated_attention:
        return "FlexAttention is not calibrated"
    if limits is None:
        return "there is no calibration" + (f" with {weights} weights" if weights != "float" else "")
    if reason := limits.missing():
        return reason
    if cell.shape is None:
        return "the sizes of the model are not known"
    if cell.drafting and not cell.is_predictable:
        mixed = cell.drafting.draft is not None and weights != "float"
        return "a draft model beside quantised weights is not predicted" if mixed else "no token was drafted"
    if cell.drafting is None and cell.kv_access is None and not cell.point.trains:
        return f"the engine has no attribute kv_access that is one of {', '.join(flops.KV_ACCESS)}"
    return "its operations were not counted"


def prediction_error(cell: Cell) -> float | None:
    """Measured over predicted, minus 1: per step where there are steps, also of training, else of the whole call."""
    if cell.step_prediction:
        measured_s = value_of(step_s(cell))
        return measured_s / cell.step_prediction.total_s - 1 if measured_s else None
    if cell.prediction is None:
        return None
    pairs = (
        (tpot_s(cell), cell.prediction.tpot_s),
        (intervals.median(cell.e2e_s), cell.prediction.call.total_s),
    )
    return next((measured / predicted - 1 for measured, predicted in pairs if measured and predicted), None)


def predicted_speedup(cell: Cell) -> float | None:
    """The ratio of two predictions."""
    if cell.reference is None:
        return None
    if cell.reference.step_prediction and cell.step_prediction:
        return cell.reference.step_prediction.total_s / cell.step_prediction.total_s
    reference = cell.reference.prediction
    return reference.call.total_s / cell.prediction.call.total_s if reference and cell.prediction else None


def naive_speedup(cell: Cell) -> float | None:
    """The ratio of tokens processed: what a count of operations promises."""
    reference = cell.reference.kv_access if cell.reference else None
    return flops.naive_speedup(cell.point, reference, cell.kv_access) if reference and cell.kv_access else None


def bound_by(cell: Cell) -> str | None:
    """The largest part of the predicted step; 'allocator' where it had to retry, 'unexplained' where nothing fits."""
    error = prediction_error(cell)
    if error is None:
        return None
    if cell.largest("alloc_retries"):
        return "allocator"
    if abs(error) > UNEXPLAINED:
        return "unexplained"
    step = step_of(cell)
    return step.bound_by if step else None


def bound_share(cell: Cell) -> float | None:
    """The share of the largest part in the predicted time of a step."""
    step = step_of(cell)
    return step.bound_share if step else None


def step_of(cell: Cell) -> Time | None:
    """The predicted time of the steps of a call, of its prefill if it has none, or of an optimizer step."""
    return cell.prediction.step if cell.prediction else cell.step_prediction


def of_peak(cell: Cell, flops_per_s: float | None) -> float | None:
    """A rate over the datasheets' peak of all devices; None where that is unknown."""
    peak = cell.machine.sheet.flops.get(cell.point.dtype) if cell.machine.sheet else None
    return flops_per_s / (peak * cell.point.world_size) if flops_per_s and peak else None


def per_call_s(cell: Cell, call_flops: float) -> float | None:
    """Operations of a call per second of the median call."""
    e2e_s = intervals.median(cell.e2e_s)
    return call_flops / e2e_s if e2e_s else None


def mfu(cell: Cell) -> float | None:
    """Model FLOPs utilization: useful operations per second over the datasheet's peak."""
    if cell.point.trains:
        return of_peak(cell, useful_flops_per_s(cell))
    return of_peak(cell, per_call_s(cell, flops.useful_flops(cell.shape, cell.point))) if cell.shape else None


def hfu(cell: Cell) -> float | None:
    """Hardware FLOPs utilization: executed operations per second over the datasheet's peak."""
    if cell.point.trains:
        return of_peak(cell, executed_flops_per_s(cell))
    if cell.shape is None or cell.kv_access is None:
        return None
    passes = flops.KV_ACCESS[cell.kv_access](cell.point)
    return of_peak(cell, per_call_s(cell, sum(flops.cost(cell.shape, cell.point.dtype, each).flops for each in passes)))


def mbu(cell: Cell) -> float | None:
    """Memory bandwidth utilization: weights and cache that the steps read, per second, over the datasheet's bandwidth.

    Tables that are only looked up do not count.
    """
    sheet, step_s = cell.machine.sheet, tpot_s(cell)
    if cell.shape is None or cell.kv_access is None or sheet is None or not sheet.bytes_per_s or not step_s:
        return None
    steps = flops.KV_ACCESS[cell.kv_access](cell.point)[1:]
    weights = sum(flops.cost(cell.shape, cell.point.dtype, each, cell.arm.weights).weight_bytes for each in steps)
    layers = (flops.layer_attentions(cell.shape, cell.point.dtype, each) for each in steps if each.kv_read)
    read = weights + kv_share(cell, cell.shape) * sum(each.read_bytes for found in layers for each in found)
    return read / len(steps) / step_s / sheet.bytes_per_s


def kv_share(cell: Cell, shape: GPTShape) -> float:
    """The bytes of an arm's KV cache as a share of those of a cache in the point's dtype."""
    return flops.kv_bytes_per_token(shape, cell.point.dtype, cell.arm.kv_cache) / shape.kv_bytes_per_token(cell.point.dtype)


def step_costs(cell: Cell) -> list[Cost]:
    """The costs of the decode steps, or of the prefill for a single token. Empty where the passes are not known."""
    if cell.shape is None or cell.kv_access is None:
        return []
    first, *steps = flops.KV_ACCESS[cell.kv_access](cell.point)
    return [flops.cost(cell.shape, cell.point.dtype, each, cell.arm.weights) for each in steps or [first]]


def step_flops(cell: Cell) -> float | None:
    """Operations of a decode step, mean over the growing lengths."""
    return float(np.mean([cost.flops for cost in costs])) if (costs := step_costs(cell)) else None


def step_bytes(cell: Cell) -> float | None:
    """Bytes of weights and cache that a decode step moves, mean over the growing lengths, as this arm keeps them."""
    costs = step_costs(cell)
    if not costs or cell.shape is None:
        return None
    share = kv_share(cell, cell.shape)
    return float(np.mean([cost.weight_bytes + share * cost.kv_bytes for cost in costs]))


def flops_per_byte(cell: Cell) -> float | None:
    """Arithmetic intensity of a step."""
    operations, moved = step_flops(cell), step_bytes(cell)
    return operations / moved if operations and moved else None


def step_flops_per_s(cell: Cell) -> float | None:
    """Operations of a step over its time; of the prefill for a single token."""
    operations, step_s = step_flops(cell), tpot_s(cell) if cell.point.new_tokens > 1 else ttft_s(cell)
    return operations / step_s if operations and step_s else None


def limit_flops_per_s(cell: Cell) -> float | None:
    """The highest rate of matmuls that the calibration of the run reached."""
    limits = cell.machine.limits_of_run(cell.point)
    return limits.best("matmul") if limits and "matmul" in limits.by_kind else None


def limit_bytes_per_s(cell: Cell) -> float | None:
    """The rate at which the calibration of the run read memory."""
    limits = cell.machine.limits_of_run(cell.point)
    return limits.at("read") if limits and "read" in limits.by_kind else None


METRICS = (
    Metric("host_floor_s", SECONDS, LOWER, "operations_per_step * calibrated time of one operation", host_floor_s),
    Metric("predicted_ttft_s", SECONDS, NEITHER, "roofline of the prefill over calibrated limits", predicted_ttft_s),
    Metric("predicted_tpot_s", SECONDS, NEITHER, "roofline of the steps / (new_tokens - 1)", predicted_tpot_s),
    Metric("predicted_e2e_s", SECONDS, NEITHER, "roofline of the prefill and all steps", predicted_e2e_s),
    Metric("predicted_step_s", SECONDS, NEITHER, "roofline of an optimizer step", predicted_step_s),
    Metric(
        "prediction_error",
        RATIO,
        NEITHER,
        "tpot_s / predicted_tpot_s - 1; of e2e_s for a single token, of step_s in training",
        prediction_error,
    ),
    Metric(
        "prediction_uncertainty",
        RATIO,
        LOWER,
        "u: the predicted step lies between it / (1 + u) and it * (1 + u), as far as the limits of the calibration decide it",
        prediction_uncertainty,
    ),
    Metric(
        "prediction_note",
        TEXT,
        NEITHER,
        "why nothing is predicted, which limits were not resolved, or that it rests on a measured acceptance",
        prediction_note,
    ),
    Metric(
        "predicted_speedup",
        RATIO,
        NEITHER,
        "predicted_e2e_s, in training predicted_step_s, of the reference over this arm's",
        predicted_speedup,
    ),
    Metric(
        "naive_speedup",
        RATIO,
        NEITHER,
        "tokens processed by the reference over those by this arm, as in operation counts",
        naive_speedup,
    ),
    Metric(
        "bound_by",
        TEXT,
        NEITHER,
        "largest part of the predicted step: host, bandwidth, compute; allocator, or unexplained beyond 30 % of error",
        bound_by,
    ),
    Metric("bound_share", RATIO, NEITHER, "share of the largest part in the predicted time of a step", bound_share),
    *outcome_first(
        RATIO,
        LOWER,
        operations_per_step="what the host dispatches for a step, by an untimed profiler pass",
        kernels_per_step="what the device runs for a step; on a CPU the operations",
    ),
    *outcome_first(RATIO, NEITHER, graph_launches_per_step="captured CUDA graphs replayed in a step"),
    *outcome_first(RATIO, HIGHER, gpu_busy_fraction="share of a profiled step in which the GPU ran a kernel"),
    *outcome_max(COUNT, LOWER, alloc_retries="how often CUDA's allocator freed its cache to go on"),
    Metric("mfu", RATIO, HIGHER, "useful FLOPs / time / datasheet peak; null where that is unknown", mfu),
    Metric("hfu", RATIO, NEITHER, "executed FLOPs / time / datasheet peak", hfu),
    Metric("mbu", RATIO, HIGHER, "(weights read + cache read) / tpot_s / datasheet bandwidth", mbu),
    Metric(
        "step_flops",
        FLOPS,
        NEITHER,
        "executed FLOPs of a decode step, mean over the growing lengths; of the prefill for a single token",
        step_flops,
    ),
    Metric(
        "step_bytes", BYTES, NEITHER, "weights and cache that such a step reads and writes, without activations", step_bytes
    ),
    Metric("flops_per_byte", FLOPS_PER_BYTE, NEITHER, "arithmetic intensity: step_flops / step_bytes", flops_per_byte),
    Metric("step_flops_per_s", FLOPS_PER_S, HIGHER, "step_flops / tpot_s; / ttft_s for a single token", step_flops_per_s),
    Metric("limit_flops_per_s", FLOPS_PER_S, NEITHER, "highest rate of matmuls in the run's calibration", limit_flops_per_s),
    Metric("limit_bytes_per_s", BYTES_PER_S, NEITHER, "rate of reading memory in the run's calibration", limit_bytes_per_s),
)

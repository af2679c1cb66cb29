"""A run's cells predicted for another device, from its datasheet and the efficiency of this machine.

If the datasheet of this machine is known, each measured limit is a share of it, and the other device is assumed to reach the
same share of its own. If it is not known, the other device is assumed to reach its full rates: the predicted time is a lower
bound. The dispatch of an operation is assumed to cost as much as on this host. The uncertainty of a prediction is that of the
limits of this machine; that of these assumptions is not known and comes on top.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace

import pandas as pd

from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow
from nanobench.results.repetitions import ARM_FIELDS
from nanobench.results.run_info import RunInfo
from nanobench.roofline import flops
from nanobench.roofline.datasheet import Datasheet, find
from nanobench.roofline.limits import Limit, Limits
from nanobench.roofline.prediction import Operations, Prediction, predict
from nanobench.schema import DTYPE_BYTES

SAME = ["model", "dtype", "batch_size", "prompt_len", "new_tokens", *ARM_FIELDS]
"""What a measured cell must share with a predicted one."""


def rows(cells: list[Cell], sheet: Datasheet, dtype: str | None, measured: pd.DataFrame | None) -> list[CellRow]:
    """One row per cell that can be predicted, at its own dtype or another, with the throughput of the same point in `measured`,
    the cells of runs on that device. Raises UserError if the run has nothing to predict from.
    """
    ordered = sorted(cells, key=lambda cell: (*vars(cell.point).values(), cell.arm_index))
    predictions = [(cell, prediction) for cell in ordered if (prediction := elsewhere(cell, sheet, dtype)) is not None]
    if not predictions:
        limits = [cell.machine.limits_of(cell.point, cell.arm.weights) for cell in ordered]
        reason = next((reason for each in limits if each and (reason := each.missing())), None)
        why = reason or "no cell has a calibration, a profile and a dtype that its datasheet has"
        raise UserError(
            f"nothing to predict for {sheet.name}: {why}; measure again with: nanobench kv-sweep --calibration auto"
        )
    references = {cell.point: prediction for cell, prediction in predictions if cell.is_reference}
    found = []
    for cell, prediction in predictions:
        reference = None if cell.is_reference else references.get(cell.point)
        head = {**asdict(cell.point), **asdict(cell.arm), "gpu": sheet.name}
        head |= {"arm": cell.arm.label, "dtype": dtype or cell.point.dtype, "device": "cuda"}
        found.append({**head, **figures(cell, prediction, reference, seen_there(head, measured))})
    return found


def figures(cell: Cell, found: Prediction, reference: Prediction | None, there: float | None) -> CellRow:
    """The prediction of a cell, and the throughput that was measured there."""
    call_s = found.call.total_s
    speedup = reference.call.total_s / call_s if reference else None
    return {
        "predicted_output_tok_s": cell.point.batch_size * cell.point.new_tokens / call_s,
        "predicted_ttft_s": found.prefill.total_s,
        "predicted_tpot_s": found.tpot_s,
        "prediction_uncertainty": found.uncertainty,
        "prediction_note": "; ".join(found.notes) or None,
        "predicted_speedup": speedup,
        "predicted_bound_by": found.step.bound_by,
        "measured_output_tok_s": there,
        "prediction_error": None if there is None else cell.point.batch_size * cell.point.new_tokens / call_s / there - 1,
    }


def uncertainties(rows: list[CellRow]) -> tuple[float, float]:
    """The median and the largest uncertainty of some predictions. Needs at least one."""
    known = [row["prediction_uncertainty"] for row in rows]
    return statistics.median(known), max(known)


def seen_there(head: CellRow, measured: pd.DataFrame | None) -> float | None:
    """The throughput of the same point and arm on that device; None if it was not measured."""
    if measured is None or measured.empty:
        return None
    same = measured[(measured[SAME] == pd.Series({name: head[name] for name in SAME})).all(axis=1)]
    values = same.loc[same["status"].isin(MEASURED), "output_tok_s"]
    return float(values.iloc[-1]) if len(values) else None


def elsewhere(cell: Cell, sheet: Datasheet, dtype: str | None = None) -> Prediction | None:
    """A call on the other device; None without calibration, profile, kv_access, or the datasheet's rates for a dtype, and if
    limits are missing.
    """
    point = cell.point
    there_point = replace(point, device="cuda", dtype=dtype or point.dtype)
    limits = cell.machine.limits_of(point, cell.arm.weights)
    prefill, step = cell.first("operations_prefill"), cell.first("operations_per_step")
    if cell.shape is None or limits is None or limits.missing() or cell.kv_access is None or prefill is None:
        return None
    if cell.arm.kv_cache != "float":
        return None
    if sheet.bytes_per_s is None or there_point.dtype not in sheet.flops:
        return None
    here = cell.machine.sheet or Datasheet("unknown")
    read = sheet.bytes_per_s * share(limits.reading("read").value, here.bytes_per_s)
    peak = sheet.flops[there_point.dtype] * share(best_matmul(limits), here.flops.get(point.dtype))
    width = flops.weight_width(cell.shape, there_point.dtype, cell.arm.weights)
    there = Limits(tuple(transferred(limits, read, peak, there_point.dtype, width)), limits.unresolved)
    return predict(cell.shape, there_point, cell.kv_access, there, Operations(prefill, step or 0.0), cell.arm.weights)


def best_matmul(limits: Limits) -> float:
    """The largest rate of matmuls, or of the kind that stands in for them. Needs limits that can be predicted from."""
    return limits.best(limits.source("matmul") or "matmul")


def transferred(limits: Limits, read: float, peak: float, dtype: str, width: float | None = None) -> Iterator[Limit]:
    """Each limit on the other device, from its attainable bytes and FLOPs per second. A weight of a matmul has
    `width` bytes; without it, those of the dtype.

    A matmul over few rows takes as long as reading its weights.
    """
    here_read, here_peak = limits.reading("read").value, best_matmul(limits)
    for limit in limits.found:
        if limit.kind in ("matmul", "lm_head", "attention"):
            per_byte = 2.0 / (DTYPE_BYTES[dtype] if width is None or limit.kind == "attention" else width)
            value = min(peak * min(1.0, limits.best(limit.kind) / here_peak), limit.rows * per_byte * read)
        elif limit.kind in ("read", "copy", "elementwise", "argmax"):
            value = read * min(1.0, limit.value / here_read)
        else:
            value = limit.value
        yield replace(limit, value=value)


def share(reached: float, peak: float | None) -> float:
    """The share of a datasheet rate that was reached; 1 if the datasheet has none."""
    return min(1.0, reached / peak) if peak else 1.0


def is_on(info: RunInfo, sheet: Datasheet) -> bool:
    """Whether a run was measured on the device of a datasheet."""
    gpus = info.description.identity.get("gpus") or []
    return info.description.device.startswith("cuda") and any(find(name) == sheet for name in gpus)

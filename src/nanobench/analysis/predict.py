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
from nanobench.results.metrics.roofline import notes_of
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS
from nanobench.results.run_info import RunInfo
from nanobench.roofline import flops, training
from nanobench.roofline.datasheet import Datasheet, find
from nanobench.roofline.limits import Limit, Limits
from nanobench.roofline.prediction import Operations, Prediction, Time
from nanobench.schema import DTYPE_BYTES, Point

SAME = [*(name for name in POINT_FIELDS if name not in ("device", "threads")), *ARM_FIELDS]
"""What a measured cell must share with a predicted one."""


def rows(cells: list[Cell], sheet: Datasheet, dtype: str | None, measured: pd.DataFrame | None) -> list[CellRow]:
    """One row per cell that can be predicted, at its own dtype or another, with the throughput of the same point in `measured`,
    the cells of runs on that device. Raises UserError if the run has nothing to predict from.
    """
    ordered = sorted(cells, key=lambda cell: (*vars(cell.point).values(), cell.arm_index))
    predictions = [
        (cell, there) for cell in ordered if (there := elsewhere(cell, sheet, dtype) or step_elsewhere(cell, sheet, dtype))
    ]
    if not predictions:
        limits = [cell.machine.limits_of(cell.point, cell.arm.weights) for cell in ordered]
        reason = next((reason for each in limits if each and (reason := each.missing())), None)
        why = reason or "no cell has a calibration, a profile and a dtype that its datasheet has"
        raise UserError(
            f"nothing to predict for {sheet.name}: {why}; "
            f"measure again with: nanobench {command_of(ordered)} --calibration auto"
        )
    references = {cell.point: prediction for cell, prediction in predictions if cell.is_reference}
    found = []
    for cell, prediction in predictions:
        reference = None if cell.is_reference else references.get(cell.point)
        head = {**asdict(cell.point), **asdict(cell.arm), "gpu": sheet.name}
        head |= {"arm": cell.arm.label, "dtype": dtype or cell.point.dtype, "device": "cuda"}
        found.append({**head, **figures(cell, prediction, reference, seen_there(head, measured))})
    return found


def command_of(cells: list[Cell]) -> str:
    """The command that measures such cells."""
    return "train-throughput" if cells and cells[0].point.trains else "kv-sweep"


def throughput(point: Point) -> str:
    """The column of a point's throughput."""
    return "train_tok_s" if point.trains else "output_tok_s"


def seconds(found: Prediction | Time) -> float:
    """Those of a call, or of an optimizer step."""
    return found.total_s if isinstance(found, Time) else found.call.total_s


def figures(cell: Cell, found: Prediction | Time, reference: Prediction | Time | None, there: float | None) -> CellRow:
    """The prediction of a cell, and the throughput that was measured there."""
    point, column = cell.point, throughput(cell.point)
    tok_s = (point.step_tokens if point.trains else point.batch_size * point.new_tokens) / seconds(found)
    return {
        f"predicted_{column}": tok_s,
        **parts(found),
        "prediction_uncertainty": found.uncertainty,
        "prediction_note": notes_of(cell, found.notes),
        "predicted_speedup": seconds(reference) / seconds(found) if reference else None,
        f"measured_{column}": there,
        "prediction_error": None if there is None else tok_s / there - 1,
    }


def parts(found: Prediction | Time) -> CellRow:
    """The times of a call's phases, or of a step, and what the step waits for."""
    if isinstance(found, Time):
        return {"predicted_step_s": found.total_s, "predicted_bound_by": found.bound_by}
    times = {"predicted_ttft_s": found.prefill.total_s, "predicted_tpot_s": found.tpot_s}
    return {**times, "predicted_bound_by": found.step.bound_by}


def uncertainties(rows: list[CellRow]) -> tuple[float, float]:
    """The median and the largest uncertainty of some predictions. Needs at least one."""
    known = [row["prediction_uncertainty"] for row in rows]
    return statistics.median(known), max(known)


def seen_there(head: CellRow, measured: pd.DataFrame | None) -> float | None:
    """The throughput of the same point and arm on that device; None if it was not measured."""
    if measured is None or measured.empty:
        return None
    same = measured[(measured[SAME] == pd.Series({name: head[name] for name in SAME})).all(axis=1)]
    column = "train_tok_s" if head["seq_len"] else "output_tok_s"
    values = same.loc[same["status"].isin(MEASURED), column]
    return float(values.iloc[-1]) if len(values) else None


def elsewhere(cell: Cell, sheet: Datasheet, dtype: str | None = None) -> Prediction | None:
    """A call on the other device; None without calibration, profile, known passes, or the datasheet's rates for a dtype, and if
    limits are missing.
    """
    prefill, step = cell.first("operations_prefill"), cell.first("operations_per_step")
    if prefill is None or not cell.is_predictable:
        return None
    point = moved(cell, dtype)
    there = limits_elsewhere(cell, sheet, point.dtype)
    if there is None:
        return None
    return cell.predict(point, there, Operations(prefill, step or 0.0))


def step_elsewhere(cell: Cell, sheet: Datasheet, dtype: str | None = None) -> Time | None:
    """An optimizer step on the other device; None in generation, and where it cannot be predicted here."""
    point, operations = moved(cell, dtype), cell.first("operations_per_step")
    if not point.trains or training.why_not(point, cell.arm) or operations is None:
        return None
    there = limits_elsewhere(cell, sheet, point.dtype)
    if cell.shape is None or there is None:
        return None
    return training.predict_step(cell.shape, point, cell.arm, there, operations)


def moved(cell: Cell, dtype: str | None) -> Point:
    """A cell's point on CUDA, in its own dtype or another."""
    return replace(cell.point, device="cuda", dtype=dtype or cell.point.dtype)


def limits_elsewhere(cell: Cell, sheet: Datasheet, dtype: str) -> Limits | None:
    """The limits of the other device; None without those of this one, or without the datasheet's rates for a dtype."""
    limits = cell.machine.limits_of(cell.point, cell.arm.weights)
    if cell.shape is None or limits is None or limits.missing() or sheet.bytes_per_s is None or dtype not in sheet.flops:
        return None
    here = cell.machine.sheet or Datasheet("unknown")
    read = sheet.bytes_per_s * share(limits.reading("read").value, here.bytes_per_s)
    peak = sheet.flops[dtype] * share(best_matmul(limits), here.flops.get(cell.point.dtype))
    width = flops.weight_width(cell.shape, dtype, cell.arm.weights)
    return Limits(tuple(transferred(limits, read, peak, dtype, width)), limits.unresolved)


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

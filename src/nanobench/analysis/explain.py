"""Why a cell is as fast as it is: prediction and measurement, what limits its step, and what to try.

docs/explain.md has the rules.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nanobench.analysis.verdict import SETTING
from nanobench.records import JUDGED, MEASURED
from nanobench.results.cell import Cell
from nanobench.results.derive import CellRow
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS, point_of
from nanobench.roofline import flops
from nanobench.roofline.prediction import Prediction, Time
from nanobench.roofline.speculation import SpeculativePrediction
from nanobench.schema import DTYPE_BYTES, DTYPES, Arm, GPTShape, Point

FLAT = 0.25
"""A step time is flat over the batch sizes at which it is at most this share above its smallest."""
PUBLISHED = "published"
"""Status of a result that was published by other people, not measured here."""
UNCACHED = ("uncached", "uncached-full-logits")
NEVER_COMPILED = ("speculative",)
NEVER_REPLAYED = ("cuda-graph", "cached-cat")
"""Engines that are compiled without CUDA graphs of inductor."""
Arms = Mapping[str, bool]
"""The arms of a point, and whether each was measured."""
WEIGHTS_FIELDS = ("weights_bytes_share", "weights_rate_share")
DRAFT_FIELDS = ("draft_cost", "verification_cost")
COLUMNS = (
    *("run", *POINT_FIELDS, *ARM_FIELDS, "arm", "arm_index", "status", "reason"),
    *("output_tok_s", "output_tok_s_lo", "output_tok_s_hi", "ttft_s", "tpot_s", "e2e_s"),
    *("speedup", "speedup_lo", "speedup_hi", "speedup_basis", "speedup_status", "speedup_reason", "speedup_widening"),
    *(
        "predicted_ttft_s",
        "predicted_tpot_s",
        "predicted_e2e_s",
        "predicted_step_s",
        "predicted_speedup",
        "naive_speedup",
        "prediction_error",
    ),
    *("prediction_uncertainty", "prediction_note"),
    *("bound_by", "host_floor_s", "operations_per_step", "kernels_per_step", "graph_launches_per_step", "gpu_busy_fraction"),
    *("alloc_retries", "mfu", "hfu", "mbu"),
    *("gate", "kl_nats", "synthetic", "mean_acceptance_length", "draft_acceptance_rate", "draft_time_share"),
)
"""Columns that are copied from the cells."""


# One cell
def explained(rows: list[CellRow], made: list[Cell], cores: int | None) -> list[CellRow]:
    """The cells of one run, each with what limits it and what to try; None for what is not known."""
    cell_of = {(cell.point, cell.arm_index): cell for cell in made}
    arms: dict[Point, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        arms[point_of(row)][row["arm"]] = row["status"] in MEASURED
    found = [{**{name: row.get(name) for name in COLUMNS}, **of_step(row, cell_of.get(place(row)))} for row in rows]
    found = [{**row, **flat} for row, flat in zip(found, flatness(found, "tpot_s"), strict=True)]
    return [
        {**row, **of_ratios(row), "suggestions": list(suggestions(row, cell_of.get(place(row)), cores, arms[point_of(row)]))}
        for row in found
    ]


def place(row: CellRow) -> tuple[Point, int]:
    """The key of a cell within its run."""
    return point_of(row), row["arm_index"]


def of_step(row: CellRow, cell: Cell | None) -> CellRow:
    """The predicted parts of a step (of the prefill if there are none, of an optimizer step in training), and the minimum time
    to read its weights.
    """
    known = cell if row["status"] in MEASURED else None
    prediction = known.prediction if known else None
    steps = max(1, prediction.steps) if prediction else 1
    time = prediction.step if prediction else (known.step_prediction if known else None)
    rate, basis = read_rate(known) if known else (None, None)
    weights = of_passes(known, lambda cost: cost.weight_bytes) if known else None
    return {
        "kv_access": known.kv_access if known else None,
        **{f"predicted_{name}_s": seconds / steps if time else None for name, seconds in (time or Time()).parts_s.items()},
        "weight_floor_s": weights / rate if weights and rate else None,
        "floor_basis": basis,
        "bound_share": time.bound_share if time else None,
        **(of_weights(known) if known else dict.fromkeys(WEIGHTS_FIELDS)),
        **of_drafts(prediction),
    }


def of_drafts(prediction: Prediction | None) -> CellRow:
    """What the drafts before a pass of the model, and this pass itself, should take, in steps of plain decoding."""
    if not isinstance(prediction, SpeculativePrediction):
        return dict.fromkeys(DRAFT_FIELDS)
    return {name: getattr(prediction, name) for name in DRAFT_FIELDS}


def of_weights(cell: Cell) -> CellRow:
    """Quantised weights beside float ones, in the matmuls of the blocks of a step: the bytes that they read, and the rate at
    which they multiply at these rows, both as a share of the float weights'.
    """
    kind, shape, point = cell.arm.weights, cell.shape, cell.point
    limits, own = cell.machine.limits_of(point), cell.machine.limits_of(point, kind)
    if kind == "float" or shape is None or limits is None or own is None or limits.missing() or own.missing():
        return dict.fromkeys(WEIGHTS_FIELDS)
    rows = point.batch_size if cell.first("kv_access") not in UNCACHED else point.batch_size * point.prompt_len
    sizes = [flops.matrix_bytes(shape, point.dtype, each) for each in ("float", kind)]
    rates = [each.reading("matmul", rows, size).value for each, size in zip((limits, own), sizes, strict=True)]
    return dict(zip(WEIGHTS_FIELDS, (sizes[1] / sizes[0], rates[1] / rates[0]), strict=True))


def of_passes(cell: Cell, part: Callable[[flops.Cost], float]) -> float | None:
    """A part of the cost, mean over the steps; of the prefill if there are no steps."""
    if cell.shape is None or cell.kv_access is None:
        return None
    first, *steps = flops.KV_ACCESS[cell.kv_access](cell.point)
    return mean_cost(cell.shape, cell.point.dtype, steps or [first], part, cell.arm.weights)


def mean_cost(
    shape: GPTShape, dtype: str, passes: list[flops.Pass], part: Callable[[flops.Cost], float], weights: str = "float"
) -> float:
    """A part of the cost, mean over some passes."""
    each = {one: part(flops.cost(shape, dtype, one, weights)) for one in set(passes)}
    return float(np.mean([each[one] for one in passes]))


def read_rate(cell: Cell) -> tuple[float | None, str | None]:
    """Memory bandwidth in bytes per second: from the calibration, else from the datasheet."""
    limits, sheet = cell.machine.limits_of(cell.point), cell.machine.sheet
    if limits and "read" in limits.by_kind:
        return limits.at("read"), "calibration"
    return (sheet.bytes_per_s, "datasheet") if sheet and sheet.bytes_per_s else (None, None)


def of_ratios(row: CellRow) -> CellRow:
    """Reached shares of the predicted and the naive speedup; step time over its floor and over the prediction."""
    return {
        "predicted_share": over(row["speedup"], row["predicted_speedup"]),
        "naive_share": over(row["speedup"], row["naive_speedup"]),
        "floor_ratio": over(row["tpot_s"], row["weight_floor_s"]),
        "over_predicted": None if row["prediction_error"] is None else 1 + row["prediction_error"],
    }


def over(value: float | None, other: float | None) -> float | None:
    """Their ratio; None if one is not known."""
    return value / other if value is not None and other else None


def flatness(rows: list[CellRow], name: str) -> list[CellRow]:
    """Per cell: the batch sizes over which its arm's step time is flat, and its step time over the arm's smallest one.

    Cells of one arm differ only in batch size. The range contains the smallest step time and all neighbours that are at most
    FLAT above it; it is None for a single batch size. Unreliable cells count only if an arm has no reliable one.
    """
    arms: dict[Any, list[CellRow]] = defaultdict(list)
    for row in rows:
        if row[name] is not None:
            arms[arm_of(row)].append(row)
    found = []
    for row in rows:
        known = sorted(arms[arm_of(row)], key=lambda each: each["batch_size"])
        series = [each for each in known if each["status"] in (*JUDGED, PUBLISHED)] or known
        found.append(flat_in(row, series, name))
    return found


def of_setting(row: CellRow) -> tuple[Any, ...]:
    """The setting of a cell or a point."""
    return tuple(row[name] for name in SETTING)


def arm_of(row: CellRow) -> tuple[Any, ...]:
    """What the cells of one arm have in common."""
    return tuple(row[each] for each in ("run", *SETTING, "arm"))


def flat_in(row: CellRow, series: list[CellRow], name: str) -> CellRow:
    """The flat range of a series that is sorted by batch size, and how a cell compares with it."""
    nothing = dict.fromkeys(("flat_from", "flat_to", "is_flat", "least_step_batch", "over_least_step"))
    if row[name] is None or len(series) < 2:
        return nothing
    steps_s = [each[name] for each in series]
    least = int(np.argmin(steps_s))
    near = [step_s <= (1 + FLAT) * steps_s[least] for step_s in steps_s]
    first = max((n + 1 for n in range(least) if not near[n]), default=0)
    last = min((n - 1 for n in range(least, len(near)) if not near[n]), default=len(near) - 1)
    low, high = series[first]["batch_size"], series[last]["batch_size"]
    ratio = row[name] / steps_s[least]
    flat = first < last and low <= row["batch_size"] <= high and ratio <= 1 + FLAT
    at = series[least]["batch_size"]
    return {"flat_from": low, "flat_to": high, "is_flat": flat, "least_step_batch": at, "over_least_step": ratio}


# What to try
def suggestions(row: CellRow, cell: Cell | None, cores: int | None, arms: Arms) -> Iterator[str]:
    """What could make a cell faster, by what limits it: options of this version, or `arms` of its point in this run."""
    bound = row["bound_by"]
    if bound == "host":
        yield from compiled(row, arms)
        yield "a larger --batch"
    elif bound == "allocator":
        yield "a smaller --batch"
    elif bound == "unexplained":
        ours = ("nanobench env", "repeat", "--calibration fresh")
        yield from ours if row["status"] != PUBLISHED else ("nanobench kv-sweep on that machine",)
    elif bound in ("bandwidth", "compute"):
        if row["engine"] in UNCACHED:
            yield from other_arm(row, "engine", "cached", arms)
        elif bound == "bandwidth" and cell and reads_mostly_weights(cell):
            yield "a larger --batch"
        if cell and (dtype := faster_dtype(cell)):
            yield f"--dtype {dtype}"
        if bound == "compute" and row["device"] == "cpu" and cores and row["threads"] < cores:
            yield f"--threads {cores}"


def reads_mostly_weights(cell: Cell) -> bool:
    """Whether a step reads more bytes of weights than of the KV cache."""
    weights, cache = (of_passes(cell, part) or 0.0 for part in (lambda cost: cost.weight_bytes, lambda cost: cost.kv_bytes))
    return weights > cache


def compiled(row: CellRow, arms: Arms) -> Iterator[str]:
    """The compile mode with the fewest dispatches that the engine can have: on CUDA the one with CUDA graphs."""
    engine = row["engine"].partition(":")[0]
    has_graphs = row["device"].startswith("cuda") and engine not in NEVER_REPLAYED
    if row["compile_mode"] == "off" and engine not in NEVER_COMPILED:
        yield from other_arm(row, "compile_mode", "reduce-overhead" if has_graphs else "default", arms)


def other_arm(row: CellRow, field: str, value: str, arms: Arms) -> Iterator[str]:
    """The option that changes one field of an arm, or the arm's name if the run has it; nothing if it failed there."""
    label = Arm(**{**{name: row[name] for name in ARM_FIELDS}, field: value}).label
    if arms.get(label, True):
        yield f"{label} (in this run)" if label in arms else f"--{field.replace('_', '-')} {value}"


def faster_dtype(cell: Cell) -> str | None:
    """A narrower dtype with faster matmuls on this device, by calibration or datasheet; None if neither shows one."""
    width, sheet, now = DTYPE_BYTES[cell.point.dtype], cell.machine.sheet, cell.machine.limits_of_run(cell.point)
    for dtype in (dtype for dtype in DTYPES if DTYPE_BYTES[dtype] < width):
        other = cell.machine.limits_of_run(replace(cell.point, dtype=dtype))
        if now and other and "matmul" in now.by_kind and "matmul" in other.by_kind:
            if other.best("matmul") > now.best("matmul"):
                return dtype
        elif sheet and sheet.flops.get(dtype, 0) > sheet.flops.get(cell.point.dtype, math.inf):
            return dtype
    return None

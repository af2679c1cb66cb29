"""Why a cell is as fast as it is: predicted beside measured, what binds its step, what to try, and where an arm begins to pay.

docs/explain.md has the rules. Figures that somebody else published are judged by a datasheet alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from nanobench import costs, datasheet, lookup
from nanobench.analysis.verdict import SETTING
from nanobench.cells import ARM_FIELDS, POINT_FIELDS, Cell
from nanobench.datasheet import Sheet
from nanobench.errors import UserError
from nanobench.limits import Limits
from nanobench.machine import setting
from nanobench.roofline import Operations, predict
from nanobench.schema import COMPILE_MODES, DTYPE_BYTES, DTYPES, JUDGED, MEASURED, Arm, GPTShape, Point

Row = dict[str, Any]
FLAT = 0.25
"""A step time is flat over the batch sizes at which it is at most this share above its smallest."""
FAR = 10.0
"""A published step that is flat and so many times above both of its floors is bound by the host."""
NEAR = 2.0
"""A published step that is at most so many times above its higher floor is bound by that."""
MOST_BATCH = 4096
PUBLISHED = "published"
"""Status of a figure that somebody else measured."""
PUBLISHED_DTYPE = "bfloat16"
UNCACHED = ("uncached", "uncached-full-logits")
PATHS = {**dict.fromkeys(UNCACHED, "uncached-full-logits"), "cached": "static", "cached-cat": "cat"}
"""Published arm -> one of costs.PATHS. Copied scripts compute logits at every position where nothing is cached."""
COLUMNS = (
    *("run", *POINT_FIELDS, *ARM_FIELDS, "arm", "arm_index", "status", "reason"),
    *("output_tok_s", "output_tok_s_lo", "output_tok_s_hi", "ttft_s", "tpot_s", "e2e_s"),
    *("speedup", "speedup_lo", "speedup_hi", "speedup_basis"),
    *("predicted_ttft_s", "predicted_tpot_s", "predicted_e2e_s", "predicted_speedup", "naive_speedup", "prediction_error"),
    *("bound_by", "host_floor_s", "operations_per_step", "kernels_per_step", "graph_launches_per_step", "device_busy"),
    *("alloc_retries", "mfu", "hfu", "mbu"),
)
"""What is taken over from the cells."""
OF_PUBLISHED = (
    *("source", "hardware", "model", "n_params", "what", "arm", "batch_size", "prompt_len", "new_tokens"),
    *("value", "unit"),
)
"""Columns that a table of published figures must have."""


# One cell


def explained(rows: list[Row], made: list[Cell], cores: int | None) -> list[Row]:
    """The cells of one run, rows of plain values, each with its reason; None for what is not known."""
    cell_of = {place(cell.rows[0]): cell for cell in made}
    arms = {row["arm"] for row in rows}
    found = [{**{name: row.get(name) for name in COLUMNS}, **of_step(row, cell_of.get(place(row)))} for row in rows]
    found = [{**row, **flat} for row, flat in zip(found, flatness(found, "tpot_s"), strict=True)]
    return [{**row, **of_ratios(row), "tries": list(mends(row, cell_of.get(place(row)), cores, arms))} for row in found]


def place(row: Row) -> tuple[Any, ...]:
    """What tells a cell from all others of its run."""
    return tuple(row[name] for name in (*POINT_FIELDS, "arm_index"))


def of_step(row: Row, cell: Cell | None) -> Row:
    """The predicted parts of a step, or of the prefill where there is none, and the least time for reading its weights."""
    known = cell if row["status"] in MEASURED else None
    prediction = known.prediction if known else None
    steps = max(1, prediction.steps) if prediction else 1
    time = (prediction.decode if prediction.steps else prediction.prefill) if prediction else None
    rate, basis = read_rate(known) if known else (None, None)
    weights = of_passes(known, "weight_bytes") if known else None
    return {
        "path": known.path if known else None,
        **{
            f"predicted_{name}_s": getattr(time, f"{name}_s") / steps if time else None
            for name in ("host", "bandwidth", "compute")
        },
        "weight_floor_s": weights / rate if weights and rate else None,
        "floor_basis": basis,
        "bound_share": getattr(time, f"{time.bound_by}_s") / time.total_s if time else None,
    }


def of_passes(cell: Cell, part: str) -> float | None:
    """A part of `costs.Cost`, mean over the steps; of the prefill where there is no step."""
    if cell.shape is None or cell.path is None:
        return None
    first, *steps = costs.PATHS[cell.path](cell.point)
    return mean_cost(cell.shape, cell.point.dtype, steps or [first], part)


def mean_cost(shape: GPTShape, dtype: str, passes: list[costs.Pass], part: str) -> float:
    """A part of `costs.Cost`, mean over some passes."""
    each = {one: getattr(costs.cost(shape, dtype, one), part) for one in set(passes)}
    return float(np.mean([each[one] for one in passes]))


def read_rate(cell: Cell) -> tuple[float | None, str | None]:
    """Bytes a second that memory gives: as calibrated, else as the datasheet promises."""
    limits, sheet = limits_of(cell), cell.machine.sheet
    if limits and "read" in limits.by_kind:
        return limits.at("read"), "calibration"
    return (sheet.bytes_per_s, "datasheet") if sheet and sheet.bytes_per_s else (None, None)


def limits_of(cell: Cell, dtype: str | None = None) -> Limits | None:
    """The calibration that holds for a cell, or for the same cell at another dtype."""
    point = cell.point
    return cell.machine.limits.get(setting(point.device, dtype or point.dtype, point.threads))


def of_ratios(row: Row) -> Row:
    """Shares of the promised speedups that were reached; times the weight-read floor and the prediction that a step takes."""
    return {
        "predicted_share": over(row["speedup"], row["predicted_speedup"]),
        "naive_share": over(row["speedup"], row["naive_speedup"]),
        "floor_ratio": over(row["tpot_s"], row["weight_floor_s"]),
        "over_predicted": None if row["prediction_error"] is None else 1 + row["prediction_error"],
    }


def over(value: float | None, other: float | None) -> float | None:
    """Their ratio; None where one is not known."""
    return value / other if value is not None and other else None


def flatness(rows: list[Row], name: str) -> list[Row]:
    """Per cell the batch sizes over which its arm's step time is flat, and how many times its smallest one it takes.

    Cells of one arm differ in batch size only. The range holds the smallest step time and all neighbours that are at most
    FLAT above it; it is None for a single batch size. Cells that can't be believed set no range where others can.
    """
    arms: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row[name] is not None:
            arms[arm_of(row)].append(row)
    found = []
    for row in rows:
        known = sorted(arms[arm_of(row)], key=lambda each: each["batch_size"])
        series = [each for each in known if each["status"] in (*JUDGED, PUBLISHED)] or known
        found.append(flat_in(row, series, name))
    return found


def arm_of(row: Row) -> tuple[Any, ...]:
    """What the cells of one arm have in common."""
    return tuple(row[each] for each in ("run", *SETTING, "arm"))


def flat_in(row: Row, series: list[Row], name: str) -> Row:
    """The flat range of a series in order of the batch size, and where a cell stands to it."""
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


def mends(row: Row, cell: Cell | None, cores: int | None, arms: Iterable[str]) -> Iterator[str]:
    """What could make a cell faster, by what binds it: options of this version, or arms that the run has already."""
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
            yield other_arm(row, "engine", "cached", arms)
        elif bound == "bandwidth" and cell and (of_passes(cell, "weight_bytes") or 0) > (of_passes(cell, "kv_bytes") or 0):
            yield "a larger --batch"
        if cell and (dtype := faster_dtype(cell)):
            yield f"--dtype {dtype}"
        if bound == "compute" and row["device"] == "cpu" and cores and row["threads"] < cores:
            yield f"--threads {cores}"


def compiled(row: Row, arms: Iterable[str]) -> Iterator[str]:
    """The compile mode that spares dispatches: with captured graphs on CUDA, where this version has it."""
    modes = ("reduce-overhead", "default") if row["device"].startswith("cuda") else ("default",)
    if row["compile_mode"] == "off":
        yield other_arm(row, "compile_mode", next(mode for mode in modes if mode in COMPILE_MODES), arms)


def other_arm(row: Row, field: str, value: str, arms: Iterable[str]) -> str:
    """The option that gives an arm another value of one field, or the arm's name where the run has it."""
    label = Arm(**{**{name: row[name] for name in ARM_FIELDS}, field: value}).label
    return f"{label} (in this run)" if label in arms else f"--{field.replace('_', '-')} {value}"


def faster_dtype(cell: Cell) -> str | None:
    """A narrower dtype that multiplies faster here, as calibrated or by the datasheet; None where neither says so."""
    width, sheet, now = DTYPE_BYTES[cell.point.dtype], cell.machine.sheet, limits_of(cell)
    for dtype in (dtype for dtype in DTYPES if DTYPE_BYTES[dtype] < width):
        other = limits_of(cell, dtype)
        if now and other:
            if other.best("matmul") > now.best("matmul"):
                return dtype
        elif sheet and sheet.flops.get(dtype, 0) > sheet.flops.get(cell.point.dtype, math.inf):
            return dtype
    return None


# Crossover


@dataclass(frozen=True)
class Pays:
    """From which batch size on an arm is faster than the reference."""

    start: int | None
    """None where it never is"""
    least: int
    """the smallest batch size that was asked"""
    most: int


@dataclass(frozen=True)
class Crossover:
    """Where one arm begins to pay, as predicted and as measured; None for what is not known."""

    where: Row
    reference: str
    arm: str
    predicted: Pays | None
    earliest: Pays | None
    """where predictions err in the arm's disfavour"""
    latest: Pays | None
    measured: Pays | None


Forecast = Callable[[int], float]
"""Batch size -> predicted seconds of a call."""


def crossovers(rows: list[Row], made: list[Cell]) -> list[Crossover]:
    """One per setting and arm other than the reference: where the arm begins to pay."""
    forecasts, settings = forecasts_of(made), defaultdict(list)
    for row in rows:
        settings[row["run"], of_setting(row)].append(row)
    groups = [group for group in settings.values() if any(row["arm_index"] == 0 for row in group)]
    indices = [(group, index) for group in groups for index in sorted({row["arm_index"] for row in group}) if index]
    return [crossover(group, index, forecasts) for group, index in indices]


def of_setting(row: Row) -> tuple[Any, ...]:
    """The setting of a cell or a point."""
    return tuple(row[name] for name in SETTING)


def crossover(group: list[Row], index: int, forecasts: dict[Any, Forecast]) -> Crossover:
    """Where one arm of a setting begins to pay."""
    reference, mine = ([row for row in group if row["arm_index"] == each] for each in (0, index))
    believed = (*JUDGED, PUBLISHED)
    sound = {row["batch_size"] for row in reference if row["status"] in believed}
    judged = [row for row in mine if row["status"] in believed and row["batch_size"] in sound]
    forecast_of = {each: forecasts.get((of_setting(group[0]), each)) for each in (0, index)}
    where = {name: group[0][name] for name in ("run", *SETTING)}
    found = predicted(forecast_of[0], forecast_of[index], judged)
    return Crossover(where, reference[0]["arm"], mine[0]["arm"], *found, measured(judged))


def forecasts_of(made: list[Cell]) -> dict[Any, Forecast]:
    """Setting and arm -> its forecast, where some cell of it has a prediction."""
    cells: dict[Any, list[Cell]] = defaultdict(list)
    for cell in made:
        if cell.prediction:
            cells[of_setting(vars(cell.point)), cell.rows[0]["arm_index"]].append(cell)
    return {key: forecast(each) for key, each in cells.items()}


def forecast(cells: list[Cell]) -> Forecast:
    """The forecast for an arm by its own cells' median counts of operations, which hardly depend on the batch size."""
    shape, path, limits = cells[0].shape, cells[0].path, limits_of(cells[0])
    assert shape is not None
    assert path is not None
    assert limits is not None
    counts = [(cell.first("operations_prefill"), cell.first("operations_per_step") or 0.0) for cell in cells]
    operations = Operations(*np.median(counts, axis=0).tolist())

    @cache
    def seconds(batch_size: int) -> float:
        return predict(shape, replace(cells[0].point, batch_size=batch_size), path, limits, operations).call.total_s

    return seconds


def predicted(
    reference: Forecast | None, arm: Forecast | None, judged: list[Row]
) -> tuple[Pays | None, Pays | None, Pays | None]:
    """Where the predicted speedup crosses 1, and the earliest and latest place where it might.

    The error of a predicted speedup is the log of measured over predicted, one per judged batch size of these two arms.
    Predictions are not fitted, so errors scatter about 0: with the root of their mean square s over n batch sizes, another one
    lies within t * s, where t is Student's 97.5 % quantile at n degrees of freedom. The bounds are the crossings of the
    predicted speedup times and over exp(t * s); None below two batch sizes. Errors at neighbouring batch sizes are alike, so
    the interval is rather too narrow than too wide.
    """
    if reference is None or arm is None:
        return None, None, None
    errors = [math.log(share) for row in judged if (share := over(row["speedup"], row["predicted_speedup"]))]
    found = crossing(reference, arm, 1.0)
    if len(errors) < 2:
        return found, None, None
    reach = math.exp(stats.t.ppf(0.975, len(errors)) * math.sqrt(float(np.mean(np.square(errors)))))
    return found, crossing(reference, arm, reach), crossing(reference, arm, 1 / reach)


def crossing(reference: Forecast, arm: Forecast, factor: float) -> Pays:
    """The smallest whole batch size up to MOST_BATCH from which on the predicted speedup, times a factor, stays at 1 or above.

    It is asked at powers of two, then by halves between the last one that loses and the next: a dip between two is not seen.
    """

    def loses(batch_size: int) -> bool:
        return reference(batch_size) * factor < arm(batch_size)

    losing = [size for size in (2**power for power in range(MOST_BATCH.bit_length())) if loses(size)]
    if not losing or losing[-1] == MOST_BATCH:
        return Pays(None if losing else 1, 1, MOST_BATCH)
    low, high = losing[-1], 2 * losing[-1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if loses(middle) else (low, middle)
    return Pays(high, 1, MOST_BATCH)


def measured(judged: list[Row]) -> Pays | None:
    """The first tested batch size from which on every judged ratio's whole interval lies above 1; None without a judged ratio.

    A published ratio has no interval and counts by its value.
    """
    bounds = [(row["batch_size"], row["speedup"] if row["status"] == PUBLISHED else row["speedup_lo"]) for row in judged]
    known = sorted((batch_size, bound) for batch_size, bound in bounds if bound is not None)
    if not known:
        return None
    after = max((n + 1 for n, (_, bound) in enumerate(known) if bound <= 1), default=0)
    return Pays(known[after][0] if after < len(known) else None, known[0][0], known[-1][0])


# What somebody else published


def published(table: list[dict[str, str]], sheet: Sheet) -> list[Row]:
    """Published throughputs of generation on one device, each with the floors of its datasheet and what binds it.

    A step is batch_size / output_tok_s: a mean over all tokens, the prefill included. Rows of other devices, of other work, of
    models that are not built in and without sizes are left out. Raises UserError where no row is left.
    """
    missing = [name for name in OF_PUBLISHED if table and name not in table[0]]
    if missing:
        raise UserError(
            f"no table of published figures: it lacks {', '.join(missing)}; its columns are {', '.join(OF_PUBLISHED)}"
        )
    if sheet.bytes_per_s is None:
        raise UserError(f"the datasheet of {sheet.name} tells no bandwidth; there is no floor to compare with")
    used = [row for row in table if is_usable(row, sheet)]
    if not used:
        hardware = ", ".join(dict.fromkeys(row["hardware"] for row in table)) or "none"
        raise UserError(
            f"no generation throughput on {sheet.name} with known sizes (hardware there: {hardware}); give another --gpu"
        )
    names = list(dict.fromkeys(row["arm"] for row in used))
    rows = [published_row(row, names.index(row["arm"]), sheet) for row in used]
    base = {(row["run"], of_setting(row), row["batch_size"]): row["output_tok_s"] for row in rows if row["arm_index"] == 0}
    rows = [{**row, **flat} for row, flat in zip(rows, flatness(rows, "step_s"), strict=True)]
    for row in rows:
        slow = base.get((row["run"], of_setting(row), row["batch_size"]))
        row["speedup"] = over(row["output_tok_s"], slow) if row["arm_index"] else None
        row["bound_by"] = published_bound(row)
        row["tries"] = list(mends(row, None, None, names))
    return sorted(rows, key=lambda row: (row["run"], row["batch_size"], row["arm_index"]))


def is_usable(row: dict[str, str], sheet: Sheet) -> bool:
    """Whether a published row is a throughput of generation on that device, with all sizes."""
    sizes = all(row[name] for name in ("batch_size", "prompt_len", "new_tokens", "value"))
    known = row["arm"] in PATHS and preset(row["model"]) in lookup.presets()
    return (
        sizes
        and known
        and (row["what"], row["unit"]) == ("generate", "output_tok_s")
        and datasheet.find(row["hardware"]) == sheet
    )


def preset(model: str) -> str:
    """The built-in model that a published name means: nanochat d12 is nanochat-d12."""
    return model.strip().lower().replace(" ", "-")


def number(row: dict[str, str], name: str) -> float:
    """A number of a published row. Raises UserError where it is none above 0."""
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{name} {row[name]!r} in a table of published figures is no number above 0; mend the table")
    return value


def published_row(row: dict[str, str], index: int, sheet: Sheet) -> Row:
    """A published figure with its step, and the least time that its bytes and its operations take."""
    name, dtype = preset(row["model"]), PUBLISHED_DTYPE
    sizes = {"n_kv_head": lookup.presets()[name]["n_head"], **lookup.presets()[name]}
    shape = GPTShape(**sizes, n_params=round(number(row, "n_params")))
    lengths = {each: round(number(row, each)) for each in ("batch_size", "prompt_len", "new_tokens")}
    passes = costs.PATHS[PATHS[row["arm"]]](Point(model=name, dtype=dtype, device="cuda", threads=1, **lengths))
    weights, moved, flops = (mean_cost(shape, dtype, passes, part) for part in ("weight_bytes", "bytes", "flops"))
    rate_tok_s = number(row, "value")
    step_s = lengths["batch_size"] / rate_tok_s
    peak, rate = sheet.flops.get(dtype), sheet.bytes_per_s or math.inf
    floors_s = {"bandwidth_floor_s": moved / rate, "compute_floor_s": flops / peak if peak else None}
    return {
        **dict.fromkeys(COLUMNS),
        **{"run": row["source"], "model": name, "dtype": dtype, "device": "cuda", "threads": None, **lengths},
        **{"engine": row["arm"], "compile_mode": "off", "sampler": "greedy", "arm": row["arm"], "arm_index": index},
        **{"status": PUBLISHED, "reason": None, "output_tok_s": rate_tok_s, "step_s": step_s},
        **{"weight_floor_s": weights / rate, "floor_basis": "datasheet", "floor_ratio": step_s * rate / weights, **floors_s},
        "over_floors": step_s / max(floor_s for floor_s in floors_s.values() if floor_s),
    }


def published_bound(row: Row) -> str:
    """host where the step is flat and far above both floors; the higher floor where it is near; else unexplained."""
    if row["is_flat"] and row["over_floors"] > FAR:
        return "host"
    if row["over_floors"] > NEAR:
        return "unexplained"
    return "compute" if (row["compute_floor_s"] or 0.0) > row["bandwidth_floor_s"] else "bandwidth"

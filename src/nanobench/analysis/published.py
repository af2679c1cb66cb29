"""Published results of other people, explained with a datasheet alone. docs/explain.md has the rules."""

import math
from dataclasses import fields, replace

from nanobench import registry
from nanobench.analysis.explain import COLUMNS, PUBLISHED, UNCACHED, flatness, mean_cost, of_setting, over, suggestions
from nanobench.errors import UserError
from nanobench.results.derive import CellRow
from nanobench.roofline import datasheet
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.flops import KV_ACCESS
from nanobench.schema import Arm, GPTShape, Point

FAR = 10.0
"""A published step that is flat and more than this many times above both of its floors is host-bound."""
NEAR = 2.0
"""A published step that is at most this many times above its higher floor is bound by that floor."""
PUBLISHED_DTYPE = "bfloat16"
LARGEST_COUNT = 1_000_000
"""of rows or tokens"""
ARM_PATHS = {**dict.fromkeys(UNCACHED, "uncached-full-logits"), "cached": "static", "cached-cat": "cat"}
"""Published arm -> one of flops.KV_ACCESS. Copied scripts without a cache compute logits at every position."""
FLOORS = ("weight_floor_s", "floor_basis", "floor_ratio", "bandwidth_floor_s", "compute_floor_s", "over_floors")
UNKNOWN = "the preset of {} has sizes for which there is no closed form: {}"
OF_PUBLISHED = (
    *("source", "hardware", "model", "n_params", "what", "arm", "batch_size", "prompt_len", "new_tokens"),
    *("value", "unit"),
)
"""Columns that a table of published figures must have."""


def published(table: list[dict[str, str]], sheet: Datasheet) -> list[CellRow]:
    """Published throughputs of generation on one device, each with the floors of its datasheet and what binds it.

    A step is batch_size / output_tok_s: a mean over all tokens, the prefill included. Rows of other devices or
    other work, of models that are not built in, and without sizes are left out. Raises UserError where no row is left.
    """
    missing = [name for name in OF_PUBLISHED if table and name not in table[0]]
    if missing:
        raise UserError(
            f"no table of published figures: it lacks {', '.join(missing)}; its columns are {', '.join(OF_PUBLISHED)}"
        )
    if sheet.bytes_per_s is None:
        raise UserError(f"the datasheet of {sheet.name} has no bandwidth, so there is no floor to compare with")
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
        row["suggestions"] = list(suggestions(row, None, None, dict.fromkeys(names, True)))
    return sorted(rows, key=lambda row: (row["run"], row["batch_size"], row["arm_index"]))


def is_usable(row: dict[str, str], sheet: Datasheet) -> bool:
    """Whether a published row is a throughput of generation on that device, with all sizes."""
    sizes = all(row[name] for name in ("batch_size", "prompt_len", "new_tokens", "value"))
    known = row["arm"] in ARM_PATHS and preset(row["model"]) in registry.presets()
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
    """A number of a published row. Raises UserError if it is not above 0."""
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{name} {row[name]!r} in a table of published figures is not a number above 0; fix the table")
    return value


def count(row: dict[str, str], name: str) -> int:
    """A whole number of a published row. Raises UserError if it is not from 1 to LARGEST_COUNT."""
    value = number(row, name)
    if not value.is_integer() or value > LARGEST_COUNT:
        raise UserError(f"{name} {row[name]!r} in a table of published figures is not a whole number up to {LARGEST_COUNT:,}")
    return int(value)


def published_row(row: dict[str, str], index: int, sheet: Datasheet) -> CellRow:
    """A published result with its step time, and the minimum time for its bytes and its FLOPs.

    The minimum times are None, with the reason, for a model whose sizes the closed forms do not know.
    """
    name, rate_tok_s = preset(row["model"]), number(row, "value")
    lengths = {each: count(row, each) for each in ("batch_size", "prompt_len", "new_tokens")}
    point = replace(Point(model=name, dtype=PUBLISHED_DTYPE, device="cuda", threads=1, batch_size=0), **lengths)  # type: ignore[arg-type]
    unknown = sorted({*registry.presets()[name]} - {each.name for each in fields(GPTShape)})
    step_s = lengths["batch_size"] / rate_tok_s
    return {
        **dict.fromkeys(COLUMNS),
        **{"run": row["source"], "model": name, "dtype": PUBLISHED_DTYPE, "device": "cuda", "threads": None, **lengths},
        **vars(Arm(engine=row["arm"])),
        **{"arm": row["arm"], "arm_index": index},
        **{"status": PUBLISHED, "reason": UNKNOWN.format(name, ", ".join(unknown)) if unknown else None},
        **{"output_tok_s": rate_tok_s, "step_s": step_s},
        **(dict.fromkeys(FLOORS) if unknown else floors(row, point, step_s, sheet)),
    }


def floors(row: dict[str, str], point: Point, step_s: float, sheet: Datasheet) -> CellRow:
    """The minimum times of a published step, from a datasheet."""
    sizes = registry.presets()[point.model]
    shape = GPTShape(**{"n_kv_head": sizes["n_head"], **sizes}, n_params=round(number(row, "n_params")))
    passes = KV_ACCESS[ARM_PATHS[row["arm"]]](point)
    weights = mean_cost(shape, point.dtype, passes, lambda cost: cost.weight_bytes)
    moved = mean_cost(shape, point.dtype, passes, lambda cost: cost.bytes)
    flops = mean_cost(shape, point.dtype, passes, lambda cost: cost.flops)
    peak, rate = sheet.flops.get(point.dtype), sheet.bytes_per_s or math.inf
    floors_s = {"bandwidth_floor_s": moved / rate, "compute_floor_s": flops / peak if peak else None}
    return {
        **{"weight_floor_s": weights / rate, "floor_basis": "datasheet", "floor_ratio": step_s * rate / weights, **floors_s},
        "over_floors": step_s / max(floor_s for floor_s in floors_s.values() if floor_s),
    }


def published_bound(row: CellRow) -> str | None:
    """host if the step is flat and far above both floors; the higher floor if the step is near it; else unexplained.

    None where the floors are not known.
    """
    if row["over_floors"] is None:
        return None
    if row["is_flat"] and row["over_floors"] > FAR:
        return "host"
    if row["over_floors"] > NEAR:
        return "unexplained"
    return "compute" if (row["compute_floor_s"] or 0.0) > row["bandwidth_floor_s"] else "bandwidth"

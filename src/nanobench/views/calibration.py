"""A calibration on the terminal: what the machine reached, in units that people use."""

import math
import statistics
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from nanobench.roofline.limits import KINDS, Limit, Limits
from nanobench.views import format

WORDS = {
    "read": "memory, read",
    "copy": "memory, copied (read and written)",
    "host_to_device": "host to device",
    "sync": "waiting for the device",
    "operation": "dispatching one operation",
    "elementwise": "norms, additions, activation",
    "argmax": "argmax over the logits",
    "attention": "attention",
}
MULTIPLYING = {"matmul": "products with weights of {}", "lm_head": "products with a head of {}"}
"""Limits that are figures over rows."""


def rate(value: float, unit: str) -> str:
    """41.5 GB/s, 181 GFLOP/s, 5.1 µs."""
    if unit == "s":
        return format.seconds(value)
    factor, name = next((f, n) for f, n in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (0.0, "")) if value >= f)
    return f"{value / (factor or 1):.3g} {name}{unit}"


def figures(limits: Limits) -> Table:
    """What is not about products: a line per kind, of attention per number of queries; a range where it depends on more."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("limit")
    for name in ("reached", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    lines: dict[str, list[Limit]] = defaultdict(list)
    for limit in limits.found:
        if limit.kind in WORDS:
            queries = f", {limit.rows} quer{'y' if limit.rows == 1 else 'ies'} a row" if limit.kind == "attention" else ""
            lines[WORDS[limit.kind] + queries].append(limit)
    for words, found in lines.items():
        ordered = sorted(found, key=lambda limit: limit.value)
        shown = " to ".join(dict.fromkeys(rate(limit.value, KINDS[limit.kind]) for limit in (ordered[0], ordered[-1])))
        table.add_row(words, shown, f"{statistics.median(limit.spread for limit in found):.0%}")
    return table


def over_rows(limits: Limits) -> Table:
    """Rates of products, a column per number of rows."""
    rows = sorted({limit.rows for limit in limits.found if limit.kind in MULTIPLYING})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, title="GFLOP/s of products by rows")
    table.title_justify = "left"
    table.add_column("")
    for count in rows:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for kind, words in MULTIPLYING.items():
        for set_bytes in sorted({limit.set_bytes for limit in limits.found if limit.kind == kind}):
            known = {count: dict(places).get(set_bytes) for count, places in limits.by_kind[kind].items()}
            values = [f"{value / 1e9:,.3g}" if (value := known.get(count)) else "" for count in rows]
            table.add_row(words.format(format.size(set_bytes)), *values)
    return table


def moved(before: Limits, now: Limits) -> str:
    """By how much passes take longer or shorter than in an earlier calibration, the largest change first."""
    (rows, set_bytes), ratio = max(before.pass_changes([now]).ratios.items(), key=lambda change: abs(math.log(change[1])))
    words = f"{rows} row{'s' if rows > 1 else ''}"
    return f"largest change since then: a pass of {words} over {format.size(set_bytes)} takes {ratio - 1:+.0%}"


def as_document(calibration: dict[str, Any], name: str) -> dict[str, Any]:
    """A calibration with the units of its values."""
    limits = [{**asdict(limit), "unit": KINDS[limit.kind]} for limit in Limits.from_json(calibration["limits"]).found]
    return {"setting": name, "measured_at": calibration["measured_at"], "limits": limits}

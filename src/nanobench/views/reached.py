"""A calibration on the terminal: what the machine reached, in units that people use."""

from typing import Any

from rich import box
from rich.table import Table

from nanobench.limits import KINDS, Limits
from nanobench.views import units

WORDS = {
    "read": "memory, read",
    "copy": "memory, copied (read and written)",
    "elementwise": "norms, additions, activation",
    "pick": "choosing the largest logit",
    "operation": "dispatching one operation",
    "sync": "waiting for the device",
    "host_to_device": "host to device",
}
"""Limits that are a single figure."""
MULTIPLYING = {"matmul": "products with weights of {}", "head": "products with a head of {}", "attention": "attention over {}"}
"""Limits that are figures over rows."""


def rate(value: float, unit: str) -> str:
    """41.5 GB/s, 181 GFLOP/s, 5.1 µs."""
    if unit == "s":
        return units.seconds(value)
    factor, name = next((f, n) for f, n in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (0.0, "")) if value >= f)
    return f"{value / (factor or 1):.3g} {name}{unit}"


def figures(limits: Limits) -> Table:
    """The single figures with their spread."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("limit")
    for name in ("reached", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for limit in limits.found:
        if limit.kind in WORDS:
            table.add_row(WORDS[limit.kind], rate(limit.value, KINDS[limit.kind]), f"{limit.spread:.0%}")
    return table


def over_rows(limits: Limits) -> Table:
    """Rates of products and of attention, a column per number of rows or queries."""
    rows = sorted({limit.rows for limit in limits.found if limit.kind in MULTIPLYING})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, title="GFLOP/s by rows (attention: by queries)")
    table.title_justify = "left"
    table.add_column("")
    for count in rows:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for kind, words in MULTIPLYING.items():
        for set_bytes in sorted({limit.set_bytes for limit in limits.found if limit.kind == kind}):
            seen = {limit.rows: limit for limit in limits.found if (limit.kind, limit.set_bytes) == (kind, set_bytes)}
            values = [f"{seen[count].value / 1e9:,.3g}" if count in seen else "" for count in rows]
            table.add_row(words.format(units.size(set_bytes)), *values)
    return table


def moved(before: Limits, now: Limits) -> str:
    """By how much a few limits differ from an earlier calibration, the largest change first."""
    changes: list[tuple[str, float]] = [(limit.kind, limit.value - 1) for limit in before.drift([now]).found]
    kind, change = max(changes, key=lambda each: abs(each[1]))
    return f"largest change since then: {kind} {change:+.0%}"


def as_document(calibration: dict[str, Any], name: str) -> dict[str, Any]:
    """A calibration with the units of its values."""
    limits = [{**limit, "unit": KINDS[limit["kind"]]} for limit in calibration["limits"]]
    return {"setting": name, "measured_at": calibration["measured_at"], "limits": limits}

"""A calibration on the terminal: the attainable limits of the machine, in readable units."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator

from rich.table import Table

from nanobench.records import JsonObject
from nanobench.results.run_context import Calibration
from nanobench.roofline.limits import KINDS, Limit, Limits
from nanobench.views import format
from nanobench.views.console import simple_table

WORDS = {
    "read": "memory, read",
    "copy": "memory, copied (read and written)",
    "host_to_device": "host to device",
    "sync": "waiting for the device",
    "operation": "dispatch of one operation",
    "elementwise": "norms, additions, activation",
    "argmax": "argmax over the logits",
    "attention": "attention",
}
MULTIPLYING = {"matmul": "matmul, weights of {}", "lm_head": "lm_head matmul, weights of {}"}
"""Limits with one rate per number of rows."""


def amount(value: float, unit: str) -> str:
    """41.5 GB/s, 181 GFLOP/s, 5.1 µs."""
    return format.seconds(value) if unit == "s" else format.rate(value, unit)


def figures(limits: Limits) -> Table:
    """All limits but matmuls: a line per kind, for attention per number of queries; a range where it depends on more."""
    table = simple_table(["limit", "reached", "spread"], right=["reached", "spread"])
    lines: dict[str, list[Limit]] = defaultdict(list)
    for limit in limits.found:
        if limit.kind in WORDS:
            queries = f", {format.count(limit.rows, 'query', 'queries')} a row" if limit.kind == "attention" else ""
            lines[WORDS[limit.kind] + queries].append(limit)
    for words, found in lines.items():
        ordered = sorted(found, key=lambda limit: limit.value)
        shown = " to ".join(dict.fromkeys(amount(limit.value, KINDS[limit.kind]) for limit in (ordered[0], ordered[-1])))
        table.add_row(words, shown, format.percent(statistics.median(limit.spread for limit in found)))
    return table


def over_rows(limits: Limits) -> Table:
    """Rates of matmuls, a column per number of rows."""
    rows = sorted({limit.rows for limit in limits.found if limit.kind in MULTIPLYING})
    heads = [f"{count:,}" for count in rows]
    table = simple_table(["", *heads], title="GFLOP/s of matmuls by rows", right=heads)
    table.collapse_padding = True
    for kind, words in MULTIPLYING.items():
        for set_bytes in sorted({limit.set_bytes for limit in limits.found if limit.kind == kind}):
            known = {count: dict(places).get(set_bytes) for count, places in limits.by_kind[kind].items()}
            values = [f"{value / 1e9:,.3g}" if (value := known.get(count)) else "" for count in rows]
            table.add_row(words.format(format.size(set_bytes)), *values)
    return table


def unresolved(limits: Limits) -> Iterator[str]:
    """Which limits have no value: a line per kind, with the reason of the first."""
    lost: dict[str, list[str]] = defaultdict(list)
    for each in limits.unresolved:
        lost[each.kind].append(each.reason)
    for kind, reasons in lost.items():
        of = len(reasons) + sum(limit.kind == kind for limit in limits.found)
        yield f"not resolved: {kind} in {len(reasons)} of {format.count(of, 'measurement')}: {reasons[0]}"
    if reason := limits.missing():
        yield f"nothing can be predicted: {reason}"


def moved(before: Limits, now: Limits) -> str:
    """By how much passes take longer or shorter than in an earlier calibration: the largest change."""
    changes = before.pass_changes([now]).ratios
    if not changes:
        return "change since then: not known, because no pass was resolved"
    (rows, set_bytes), ratio = max(changes.items(), key=lambda change: abs(math.log(change[1])))
    change = format.signed_percent(ratio - 1)
    return f"largest change since then: a pass of {format.count(rows, 'row')} over {format.size(set_bytes)} takes {change}"


def as_document(calibration: Calibration, name: str) -> JsonObject:
    """A calibration with the units of its values; one that was not resolved is null, with its reason."""
    limits = [{**limit, "unit": KINDS.get(limit["kind"])} for limit in calibration.limits.to_json()]
    return {"setting": name, "measured_at": calibration.measured_at, "limits": limits}

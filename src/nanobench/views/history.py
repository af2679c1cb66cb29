"""Runs as a table, a line each."""

from collections.abc import Iterable

from rich.table import Table

from nanobench.analysis.history import Line
from nanobench.views import format
from nanobench.views.console import simple_table

HEADS = ("when", "command", "model", "machine", "commit", "headline", "speedup [95 %]", "concluded", "run")


def table(lines: Iterable[Line]) -> Table:
    """The runs for a terminal, in their order."""
    found = simple_table(HEADS)
    for line in lines:
        found.add_row(
            line.started_at[:16].replace("T", " "),
            line.command,
            line.model,
            line.machine,
            (line.commit or "")[:10] or format.MISSING,
            line.headline or format.MISSING,
            format.times(line.speedup, line.speedup_lo, line.speedup_hi),
            f"{line.concluded} of {line.cells}",
            line.run,
        )
    return found

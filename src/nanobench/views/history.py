"""Runs as a table, a line each."""

from collections.abc import Iterable

from nanobench.analysis.history import Line
from nanobench.results.derive import CellRow
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column
from nanobench.views.console import Fitted

COLUMNS = (
    Column("when", lambda row: row["started_at"][:16].replace("T", " "), align="left"),
    Column("command", lambda row: row["command"], align="left", drop=2),
    Column("model", lambda row: row["model"], align="left", wrap=9),
    Column("machine", lambda row: row["machine"], align="left", drop=1),
    Column("commit", lambda row: (row["commit"] or "")[:7] or None, align="left"),
    Column("headline", lambda row: row["headline"], align="left", wrap=9),
    Column("speedup [95 %]", lambda row: format.times(row["speedup"], row["speedup_lo"], row["speedup_hi"])),
    Column("concluded", lambda row: f"{row['concluded']} of {row['cells']}", drop=3),
    Column("run", lambda row: row["run"], align="left", wrap=12),
)


def rows_of(lines: Iterable[Line]) -> list[CellRow]:
    """The lines as plain values."""
    return [line._asdict() for line in lines]


def table(lines: Iterable[Line]) -> Fitted:
    """The runs for a terminal, in their order."""
    return Fitted(CellTable(COLUMNS, rows_of(lines)))

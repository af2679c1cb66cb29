"""The curves of an adaptive sweep as a table, which says of every batch size whether it was measured."""

from nanobench.results.derive import CellRow
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column, make, status_style
from nanobench.views.console import Fitted

STYLES = {"measured": "", "interpolated": "dim"}
UNITS = {"output_tok_s": "tok/s", "train_tok_s": "tok/s"}


def source(row: CellRow) -> str | None:
    """measured, interpolated, or the status of a cell that failed; None where nothing is known."""
    if row["measured"]:
        return "measured"
    if row["status"] is not None:
        return str(row["status"])
    return "interpolated" if any(row[name] is not None for name in ("speedup", *UNITS)) else None


def speedup_text(row: CellRow) -> str | None:
    """5.31x [4.92, 5.70]; the reference arm reads '(reference)'."""
    if row["arm_index"] == 0:
        return "(reference)" if source(row) in STYLES else None
    return format.times(row["speedup"], row["speedup_lo"], row["speedup_hi"])


def rate(head: str, name: str) -> Column:
    """A throughput with its interval."""

    def text(row: CellRow) -> str:
        value, low, high = (format.text(row[name + tail], UNITS[name]) for tail in ("", "_lo", "_hi"))
        return value if format.MISSING in (low, high) else f"{value} [{low}, {high}]"

    return Column(head, text, needs=name, drop=2, style=row_style)


def row_style(row: CellRow) -> str:
    """Interpolated values are pale on a terminal."""
    return STYLES.get(source(row) or "", "")


COLUMNS = (
    Column("source", source, align="left", style=lambda row: row_style(row) or status_style("status")(row)),
    rate("output tok/s\n[95 %]", "output_tok_s"),
    rate("tok/s\n[95 %]", "train_tok_s"),
    Column("speedup\n[95 %]", speedup_text, sorts_by="speedup", style=row_style),
    Column(
        "speedup\nstatus",
        lambda row: row["speedup_status"],
        needs="speedup_status",
        applies=lambda row: row["measured"],
        align="left",
        drop=1,
        style=status_style("speedup_status"),
    ),
)


def curve(rows: list[CellRow]) -> CellTable:
    """One row per candidate batch size and arm, from `analysis.interpolated.curve`: what is known there, and from where.

    Without those of which nothing is known.
    """
    return make([row for row in rows if source(row)], COLUMNS)


def curve_table(rows: list[CellRow]) -> Fitted:
    """The curves for a terminal."""
    return Fitted(curve(rows))


def sentence(rows: list[CellRow]) -> str:
    """How many batch sizes were measured; empty if all were."""
    every = {row["batch_size"] for row in rows}
    measured = {row["batch_size"] for row in rows if row["measured"]}
    if measured == every:
        return ""
    of = format.count(len(every), "batch size")
    return f"{len(measured)} of {of} measured; values at the others are interpolated if both neighbours are reliable"

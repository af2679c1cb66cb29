"""A terminal table with a row per cell, which leaves out columns until it fits. What the columns hold is the caller's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanobench.analysis.verdict import SETTING
from nanobench.records import MEASURED
from nanobench.views.markdown import Row
from nanobench.views.sweep import STATUS_STYLE

BOUNDLESS = 10_000
"""A width that no table reaches."""


@dataclass(frozen=True)
class CellTable:
    """Columns between a cell's name and its status."""

    columns: Mapping[str, tuple[str, Callable[[Row], str]]]
    """head -> the column of the cells that it needs, and the text"""
    droppable: Sequence[str]
    """heads that a narrow terminal does without, the first of them first"""
    left: Sequence[str] = ()
    """heads of words, which begin at the left"""
    wrapped: Mapping[str, int] = field(default_factory=dict)
    """heads whose texts may take several lines, and their least width"""

    def known(self, rows: list[Row]) -> list[str]:
        """The heads of what some cell knows."""
        return [head for head, (name, _) in self.columns.items() if any(row.get(name) not in (None, []) for row in rows)]

    def fitting(self, rows: list[Row], heads: list[str], console: Console) -> Iterator[Table | str]:
        """The table as wide as the console allows, and which of these heads that leaves out."""
        kept, left_out = list(heads), []
        while self.is_too_wide(rows, kept, console) and (droppable := [head for head in self.droppable if head in kept]):
            kept.remove(droppable[0])
            left_out.append(" ".join(droppable[0].split()))
        yield self.table(rows, kept)
        if left_out:
            yield f"left out at this width: {', '.join(left_out)}; a wider terminal shows them, --json has them"

    def is_too_wide(self, rows: list[Row], heads: list[str], console: Console) -> bool:
        """Whether something would be cut, though wrapped texts, and reasons beside a status, may take many lines."""
        bare = self.table([{**row, "reason": None} for row in rows], heads, bare=True)
        return console.measure(bare, options=console.options.update(width=BOUNDLESS)).maximum > console.width

    def table(self, rows: list[Row], heads: list[str], bare: bool = False) -> Table:
        """One row per cell; `bare` gives wrapped texts no more than their least width."""
        names = varying(rows)
        found = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
        for name in (*(name.replace("_", " ") for name in names), "batch"):
            found.add_column(name, justify="right", no_wrap=True)
        found.add_column("arm", no_wrap=True)
        for head in heads:
            least = self.wrapped.get(head)
            found.add_column(head, justify="left" if head in self.left else "right", no_wrap=least is None, min_width=least)
        found.add_column("status", min_width=9)
        last = None
        for row in rows:
            point = [str(row[name]) for name in (*names, "batch_size")]
            texts = ["" if bare and head in self.wrapped else self.columns[head][1](row) for head in heads]
            found.add_row(*(point if point != last else [""] * len(point)), row["arm"], *texts, status(row))
            last = point
        return found


def varying(rows: list[Row]) -> list[str]:
    """The parts of a point, beside its batch size, that differ between the cells."""
    return [name for name in ("run", *SETTING) if len({row[name] for row in rows}) > 1]


def named(rows: list[Row], row: Row) -> str:
    """A cell's name: cached at batch 93 (prompt_len 50)."""
    where = ", ".join(f"{name} {row[name]}" for name in varying(rows))
    return f"{row['arm']} at batch {row['batch_size']}" + (f" ({where})" if where else "")


def status(row: Row) -> Text:
    """A cell's status; the reason of a failure stands beside it."""
    text = Text(row["status"], style=STATUS_STYLE.get(row["status"], ""))
    if row["reason"] and row["status"] not in MEASURED:
        text.append(f": {row['reason']}", style="dim")
    return text

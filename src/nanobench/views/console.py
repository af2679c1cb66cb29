"""Tables on a terminal."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from nanobench.results.derive import CellRow
from nanobench.views.cell_table import CellTable, Column

BOUNDLESS = 10_000
"""A width that no table reaches."""
TITLE_STYLE = "bold"


def beside_output() -> Console:
    """Standard error, where a function shows its progress; in a notebook the output of the cell. 120 columns for a file."""
    console = partial(Console, stderr=True, highlight=False, markup=False, emoji=False)
    return console() if console().is_terminal else console(width=120)


def simple_table(heads: Iterable[str] = (), title: str = "", right: Iterable[str] = ()) -> Table:
    """An empty table in the style of all tables; heads in `right` have numbers below."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=title or None, title_justify="left", title_style=TITLE_STYLE)
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", no_wrap=head in right)
    return table


@dataclass(frozen=True)
class Fitted:
    """A table that leaves out columns where the terminal is narrow."""

    table: CellTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        yield from fitting(self.table, console)


def fitting(table: CellTable, console: Console) -> Iterator[Table | str]:
    """The table as wide as the console allows, and which of its columns that leaves out."""
    kept, left_out = list(table.columns), []
    droppable = sorted((column for column in kept if column.drop is not None), key=lambda column: column.drop or 0)
    while droppable and is_too_wide(table, kept, console):
        kept.remove(droppable[0])
        left_out.append(droppable.pop(0).name)
    yield render(table, kept)
    if left_out:
        yield f"left out at this width: {', '.join(left_out)}; a wider terminal shows them, --json has them"


def is_too_wide(table: CellTable, columns: list[Column], console: Console) -> bool:
    """Whether something would be cut. A text that may wrap counts with its longest word."""
    bare = render(table, columns, bare=True)
    return console.measure(bare, options=console.options.update(width=BOUNDLESS)).maximum > console.width


def render(table: CellTable, columns: Iterable[Column], bare: bool = False) -> Table:
    """These columns as a table for a terminal; `bare` reduces texts that may wrap to one word."""
    columns = list(columns)
    found = simple_table(title=table.title)
    found.collapse_padding = True
    for column in columns:
        found.add_column(
            column.head,
            justify="left" if column.align == "left" else "right",
            no_wrap=column.wrap is None,
            min_width=column.wrap,
            overflow="fold",
        )
    last: list[str] = []
    for row in table.rows:
        key = [column.cell(row) for column in columns if column.is_key]
        found.add_row(*(text_of(column, row, key == last, bare) for column in columns))
        last = key
    return found


def text_of(column: Column, row: CellRow, repeats: bool, bare: bool) -> Text | str:
    """A cell's text with its style and note; empty for a name that the row above has too."""
    if column.is_key and repeats:
        return ""
    text = column.cell(row)
    if bare and column.wrap is not None:
        return max(text.split(), key=len, default="")
    note = column.note(row)
    return Text(text, style=column.style(row)).append(f": {note}" if note else "", style="dim")

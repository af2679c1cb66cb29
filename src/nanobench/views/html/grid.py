"""A table of cells for a browser: the texts of the other renderers, with what orders and selects the rows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nanobench.results.derive import CellRow
from nanobench.views.cell_table import STATUS_STYLES, CellTable, Column

MOST_CHOICES = 12
"""A column with more different texts than this is searched, not chosen from a list."""
LONGEST_CHOICE = 40
"""Letters of a text that a list can hold."""


@dataclass(frozen=True)
class Entry:
    """One text of a table."""

    text: str
    order: str = ""
    """the number that orders rows by it, as text; empty where the text does"""
    style: str = ""
    """class of a status"""


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    text: str
    align: str
    is_choice: bool
    """whether a reader can choose among the texts of the column"""


@dataclass(frozen=True)
class Grid:
    """A table as the template writes it."""

    heads: list[Head]
    rows: list[list[Entry]]


def of_table(table: CellTable) -> Grid:
    """The table with all of its columns."""
    rows = [[entry(column, row) for column in table.columns] for row in table.rows]
    columns = [[row[number] for row in rows] for number in range(len(table.columns))]
    heads = [
        Head(column.name, column.align, is_choice(column, texts)) for column, texts in zip(table.columns, columns, strict=True)
    ]
    return Grid(heads, rows)


def entry(column: Column, row: CellRow) -> Entry:
    """The text of a cell, with the number behind it where there is one."""
    text, note = column.cell(row), column.note(row)
    value = row.get(column.sorts_by or column.needs) if column.applies(row) else None
    style = f"is-{text}" if text in STATUS_STYLES else ""
    return Entry(f"{text}: {note}" if note else text, number_text(value), style)


def number_text(value: object) -> str:
    """A finite number as text; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{float(value):.9g}"


def is_choice(column: Column, entries: Iterable[Entry]) -> bool:
    """Whether a column names a few groups of rows, like arms or statuses."""
    texts = {entry.text for entry in entries}
    few = 1 < len(texts) <= MOST_CHOICES and max(map(len, texts)) <= LONGEST_CHOICE
    return few and (column.is_key or column.align == "left")

"""Tables in Markdown."""

from collections.abc import Iterable
from typing import Any

from nanobench.views.cell_table import CellTable


def render(table: CellTable) -> list[str]:
    """The lines of a table of cells: all of its columns, without colours and notes."""
    columns = table.columns
    rows = [[column.cell(row) for column in columns] for row in table.rows]
    return grid([column.name for column in columns], rows, right=[column.name for column in columns if column.align == "right"])


def pairs(values: dict[str, str]) -> list[str]:
    """A table of names and values."""
    return grid(["", ""], values.items())


def grid(heads: list[str], rows: Iterable[Iterable[Any]], right: Iterable[str] = ()) -> list[str]:
    """The lines of a table; columns whose head is in `right` are aligned to the right."""
    rule = ["---:" if head in right else "---" for head in heads]
    return ["| " + " | ".join(escaped(value) for value in row) + " |" for row in (heads, rule, *rows)]


def escaped(value: Any) -> str:
    """A value that cannot end its table cell or its line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def words(value: Any) -> str:
    """A value of run.json in words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

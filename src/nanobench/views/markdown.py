"""Cells as rows of plain values, and tables in Markdown."""

from typing import Any

Row = dict[str, Any]
NUMBERS = (
    "batch",
    "output tok/s",
    "TTFT",
    "TPOT",
    "speedup [95 %]",
    "peak memory",
    "launches",
    "pairs",
    "invalid repetitions",
    "sd within launches",
    "sd between launches",
    "null [95 %]",
)
"""Heads of columns that stand to the right."""


def grid(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """The lines of a Markdown table; numbers to the right."""
    marks = ["---:" if head in NUMBERS else "---" for head in heads]
    return ["| " + " | ".join(escaped(value) for value in row) + " |" for row in (heads, marks, *rows)]


def pairs(values: dict[str, str]) -> list[str]:
    """A Markdown table of names and values."""
    return grid(["", ""], [[name, value] for name, value in values.items()])


def escaped(value: Any) -> str:
    """A value that can't end its table cell or its line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def words(value: Any) -> str:
    """A value of run.json in words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

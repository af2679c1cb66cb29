"""The machine's identity, state and problems as tables."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from nanobench.views import format
from nanobench.views.sweep import Row


def facts(title: str, values: Row) -> Table:
    """Names and values of an identity or a state."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold")
    for name, value in values.items():
        known = value not in (None, [], {})
        table.add_row(name, Text(plain(value) if known else format.MISSING, style="" if known else "dim"))
    return table


def plain(value: Any) -> str:
    """A value of a JSON document in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return "; ".join(map(plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def problems(found: list[Any]) -> Table | Text:
    """What is wrong, what it does, what to do; analysis.advice found it."""
    if not found:
        return Text("no problem found", style="green")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title="problems", title_justify="left", title_style="bold")
    for name in ("found", "what it does to the numbers", "mend"):
        table.add_column(name, ratio=1)
    for problem in found:
        table.add_row(problem.what, problem.effect, problem.mend)
    return table

"""The machine's identity, state and problems as tables."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from nanobench.analysis.diagnostics import Problem
from nanobench.views import format
from nanobench.views.console import TITLE_STYLE, simple_table


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values of an identity or a state."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style=TITLE_STYLE)
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


def problems(found: list[Problem]) -> Table | Text:
    """Each problem, its effect on results, and the fix."""
    if not found:
        return Text("no problem found", style="green")
    table = simple_table(["problem", "effect on results", "fix"], title="problems")
    for column in table.columns:
        column.ratio = 1
    for problem in found:
        table.add_row(problem.what, problem.effect, problem.fix)
    return table

"""The contract checks of members as a table."""

from itertools import groupby

from rich.table import Table
from rich.text import Text

from nanobench.sweep.contracts import MemberCheck
from nanobench.views.console import simple_table

HEADS = ("member", "contract", "result", "note")
RESULTS = {True: ("kept", "green"), False: ("broken", "bold red")}
"""Whether a check passed -> the word and its colour."""


def contract_table(checks: list[MemberCheck]) -> Table:
    """One row per check, the name of a member only in its first."""
    table = simple_table(HEADS)
    for column in table.columns[1:3]:
        column.no_wrap = True
    for (family, member), found in groupby(checks, key=lambda each: (each.family, each.member)):
        for number, each in enumerate(found):
            word, style = RESULTS[each.passed]
            name = "" if number else f"{family.removesuffix('s')} {member}"
            table.add_row(Text(name), Text(each.name), Text(word, style=style), Text(each.note))
    return table

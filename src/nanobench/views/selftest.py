"""The self-test's checks and what they mean, for the terminal."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def verdict(checks: list[Any]) -> Table:
    """The self-test, line by line."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("check", "seen", "wanted", "verdict"):
        table.add_column(name)
    words = {True: Text("passed", style="green"), False: Text("FAILED", style="bold red"), None: Text("not asked", style="dim")}
    for check in checks:
        table.add_row(check.name, check.seen, check.wanted, words[check.passed])
    return table


def trust(
    spread: tuple[float, float, float], launches: int, resolution: float | None, causes: list[tuple[str, int]]
) -> list[str]:
    """What the spread of A/A means for a user's own sweep."""
    within, between, pairs = spread
    lines = [
        f"A/A: a pair's ratio scatters by {within:.1%} within a launch and by {between:.1%} between launches "
        f"({pairs:.0f} pairs each); a delay of 2 % asked for {launches} launches",
        "with five launches of half a second this machine cannot find a difference of 20 % nine times in ten"
        if resolution is None
        else f"with five launches of half a second this machine finds differences from {resolution:.1%} on, nine times in ten",
    ]
    return lines + [f"unstable in {number} cell{'' if number == 1 else 's'}: {cause}" for cause, number in causes]

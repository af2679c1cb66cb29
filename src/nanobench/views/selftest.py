"""The checks of the self-test and what they mean for the user's own sweeps, for the terminal."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from nanobench.sweep.selftest import Check, Spread


def verdict(checks: Iterable[Check]) -> Table:
    """The self-test, line by line."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("check", "seen", "wanted", "verdict"):
        table.add_column(name)
    words = {
        True: Text("passed", style="green"),
        False: Text("FAILED", style="bold red"),
        None: Text("not checked", style="dim"),
    }
    for check in checks:
        table.add_row(check.name, check.seen, check.wanted, words[check.passed])
    return table


def trust(spread: Spread, launches: int, resolution: float | None, causes: Iterable[tuple[str, int]]) -> list[str]:
    """What the spread of A/A means for a user's own sweep."""
    within, between, pairs = spread
    lines = [
        f"A/A: the ratio of a pair varies by {within:.1%} within a launch and by {between:.1%} between launches "
        f"({pairs:.0f} pairs per launch); finding a delay of 2 % takes {launches} launches",
        "with five launches of half a second, even differences of 20 % are found in less than 90 % of cases on this machine"
        if resolution is None
        else f"with five launches of half a second, differences from {resolution:.1%} up are found in 90 % of cases here",
    ]
    return lines + [f"unstable in {number} cell{'' if number == 1 else 's'}: {cause}" for cause, number in causes]

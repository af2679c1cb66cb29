"""How commands that launch until something is decided are shown: ab and tune."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import printer
from nanobench.cli.interrupt import watched

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.records import Description
    from nanobench.results.store import Run
    from nanobench.schema import Plan
    from nanobench.sweep.job import Audience
    from nanobench.sweep.progress import Watch


def audience_of(console: "Console", limit_s: float, quiet: bool = False) -> "Audience":
    """Shows a comparison that ends after `limit_s` seconds on the terminal: the card of its plan, and the live table."""
    from nanobench.sweep.job import Audience
    from nanobench.views import progress

    def planned(plan: "Plan", description: "Description") -> None:
        if not quiet:
            console.print(progress.card(plan, description, limit_s))

    @contextmanager
    def measuring(run: "Run", plan: "Plan") -> Iterator["Watch"]:
        def report() -> None:
            kept = len(list(run.raw.glob("*.parquet")))
            typer.echo(f"interrupted: nothing is decided; {kept} finished launches are kept in {run.place}")

        with watched(console, report, quiet) as watch:
            yield watch

    return Audience(waiting=printer(console), planned=planned, measuring=measuring)

"""The command that compares two revisions, models, engines or environments: ab."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.cli.interrupt import watched
from nanobench.sweep.ab_options import AbOptions

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.records import Description
    from nanobench.results.store import Run
    from nanobench.schema import Plan
    from nanobench.sweep.ab import Result
    from nanobench.sweep.job import Audience
    from nanobench.sweep.runner import Watch

CODES = {"faster": 0, "same": 0, "slower": 1, "different outputs": 1, "failed": 1, "undecided": 3}
"""Answer -> exit code."""


@command(AbOptions, "ab")
def ab(options: AbOptions) -> None:
    """Is NEW faster than BASE, and still right? Two revisions, models, engines or environments take turns until it is decided.

    Exit code 0: the same or faster; 1: slower, or other outputs; 3: undecided.
    """
    options.refuse()
    from nanobench.sweep import ab as comparison

    console = make_console()
    announce_worker(console)
    found = comparison.run(options, audience_of(console, options.limit_s()))
    show(found, options, console)
    raise typer.Exit(CODES[found.over_all.answer])


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
            typer.echo(f"interrupted: nothing is decided; {kept} finished launches are kept in {run.folder}")

        with watched(console, report, quiet) as watch:
            yield watch

    return Audience(waiting=printer(console), planned=planned, measuring=measuring)


def show(found: "Result", options: AbOptions, console: "Console") -> None:
    """Prints the table, what the gates found, the answer at each point and over all, and where the files are."""
    from nanobench.results import store
    from nanobench.views import ab as views
    from nanobench.views import sweep as tables

    say, run, threshold = printer(console), found.run, options.threshold_log()
    launches, info = run.read_raw(), run.info()
    console.print(tables.result_table(store.records(store.load(run.folder))))
    for line in [*views.gates(launches), *views.lines(found.names, found.answers, found.over_all, threshold), *info.notes]:
        say(line)
    say(str(run.cells))
    if options.json:
        document = views.document(found.names, found.answers, found.over_all, launches, info.wall_s)
        typer.echo(json.dumps(document, allow_nan=False))

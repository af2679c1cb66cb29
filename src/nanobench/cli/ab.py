"""The command that compares two revisions, models, engines or environments: ab."""

import json
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.cli.audience import audience_of
from nanobench.sweep.ab_options import AbOptions

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.sweep.ab import Result

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


def show(found: "Result", options: AbOptions, console: "Console") -> None:
    """Prints the table, what the gates found, the answer at each point and over all, and where the files are."""
    from nanobench.results import store
    from nanobench.views import ab as views
    from nanobench.views import sweep as tables

    say, run, threshold = printer(console), found.run, options.threshold_log()
    launches, info = run.read_raw(), run.info()
    console.print(tables.result_table(store.records(store.load_runs([run]))))
    for line in [*views.gates(launches), *views.lines(found.names, found.answers, found.over_all, threshold), *info.notes]:
        say(line)
    say(run.where(run.cells))
    if options.json:
        document = views.document(found.names, found.answers, found.over_all, launches, info.wall_s)
        typer.echo(json.dumps(document, allow_nan=False))

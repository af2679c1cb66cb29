"""The command that finds the fastest setting of a model: tune."""

import json

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.cli.audience import audience_of
from nanobench.sweep.tune_options import TuneOptions


@command(TuneOptions, "tune")
def tune(options: TuneOptions) -> None:
    """The fastest setting of a model on this machine: engine, compile mode, attention, threads, dtype, weights and batch size.

    Every uncompiled setting passes the gate and is launched once. Compiled ones follow where they can win. Then the slower
    ones leave. Exit code 0: a setting was found; 1: none can win.
    """
    options.refuse()
    from nanobench.sweep import tune as search
    from nanobench.views import tune as views
    from nanobench.views.console import Fitted

    console = make_console()
    if not options.quiet:
        announce_worker(console)
    found = search.run(options, audience_of(console, options.limit_s(), options.quiet))
    say = printer(console)
    console.print(Fitted(views.table(found.ranking)))
    for line in [*views.lines(found), *found.run.info().notes, found.run.where(found.run.cells)]:
        say(line)
    if options.json:
        typer.echo(json.dumps(views.document(found), allow_nan=False))
    if found.ranking.winner is None:
        raise typer.Exit(1)

"""The command that tries the faulty methods of published scripts beside our own: audit."""

import json

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.errors import UserError, writing
from nanobench.sweep.audit import AuditOptions


@command(AuditOptions, "audit")
def audit(options: AuditOptions) -> None:
    """What would a faulty script publish here? Methods of published benchmarks, beside our figures."""
    from nanobench.analysis import audit as analysis

    names = options.chosen(analysis.SPECIMENS)
    options.as_sweep(analysis.ENGINES).validate()
    from nanobench.results import out_folder
    from nanobench.sweep import audit as measuring
    from nanobench.sweep import device_lock
    from nanobench.views import audit as views
    from nanobench.views import progress
    from nanobench.views.console import Fitted
    from nanobench.views.figures import audit as figures

    console = make_console()
    say, folder, methods = printer(console), out_folder.choose(options.out, "audit"), analysis.measured(names)
    announce_worker(console)
    with device_lock.hold(device_lock.guess(options.device), options.wait, say), progress.Screen(console) as screen:
        found = measuring.measure(options, analysis.ENGINES, methods, folder, screen.show)
    rows = analysis.rows(names, found.cells, found.answers, options.seed)
    console.print(Fitted(views.table(rows)))
    for line in views.sentences(rows):
        say(line)
    try:
        with writing(found.run.plots):
            for path in figures.draw(rows, views.where(found.run.info(), found.cells), found.run.plots):
                say(str(path))
    except UserError as refusal:
        say(str(refusal))
    if options.json:
        typer.echo(json.dumps(views.document(rows, str(found.run.folder)), allow_nan=False))

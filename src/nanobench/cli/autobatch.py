"""The command that searches for a batch size: autobatch."""

import json
from dataclasses import replace
from pathlib import Path

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.errors import writing
from nanobench.sweep import autobatch as searches
from nanobench.sweep.autobatch_options import AutobatchOptions
from nanobench.views.terminal import say


@command(AutobatchOptions, "autobatch")
def autobatch(options: AutobatchOptions) -> None:
    """Find the largest batch that fits, and the smallest that saturates throughput; each is tried in its own process."""
    from nanobench.views import autobatch as views

    options.validate()
    if options.out:
        from nanobench.results.out_folder import check_writable

        check_writable(options.out)
    console = make_console()
    listener = replace(views.listener(printer(console)), starting=lambda: announce_worker(console))
    found = searches.find(options, listener)
    answer = found.answer
    console.print(views.table(answer))
    for line in views.sentences(answer, found.arm.label):
        say(console, line)
    if options.out:
        with writing(Path(options.out), "give another --out; the answer is cached"):
            paths = views.write(answer, f"{found.point.model}, {found.arm.label}", Path(options.out))
        for written in paths:
            say(console, str(written))
    if options.json:
        typer.echo(json.dumps(answer.to_json()))

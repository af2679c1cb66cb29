"""The command that continues a prompt with several engines: sample."""

import json

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.sweep.sample import SampleOptions


@command(SampleOptions, "sample")
def sample(options: SampleOptions) -> None:
    """Continue a prompt with several engines, mark where they differ from the reference, and say if rounding explains it."""
    from nanobench.sweep.plan import describe_request

    options.validate()
    describe_request(options.as_gates())
    from nanobench.sweep.sample import take
    from nanobench.sweep.session import held_worker
    from nanobench.views import sample as views

    console = make_console()
    announce_worker(console)
    with held_worker(options.as_gates(), options.wait, printer(console)) as (worker, folder):
        found = take(options, worker, folder)
    console.print(views.page(found))
    if options.json:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
    if found.has_failed:
        raise typer.Exit(1)

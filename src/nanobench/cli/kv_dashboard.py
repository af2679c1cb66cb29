"""The command that shows a KV cache while tokens are generated: kv-dashboard."""

import json

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.errors import writing
from nanobench.sweep.kv_dashboard import DashboardOptions


@command(DashboardOptions, "kv-dashboard")
def kv_dashboard(options: DashboardOptions) -> None:
    """Show what attention reads while tokens are generated, as a GIF or a page with a slider: real numbers of a real run."""
    from nanobench.sweep.plan import describe_request

    options.validate()
    describe_request(options.as_gates())
    from nanobench.results import store
    from nanobench.sweep.kv_dashboard import take
    from nanobench.sweep.session import held_worker

    console = make_console()
    announce_worker(console)
    with held_worker(options.as_gates(), options.wait, printer(console)) as (worker, folder):
        found = take(options, worker, folder)
    from nanobench.views import kv_dashboard as views

    frames: list[int] = []
    with writing(options.path):
        store.write_atomically(options.path, lambda part: frames.append(views.write(found, options, part)))
    printer(console)(views.sentence(found, options, frames[0], options.path))
    if options.json:
        typer.echo(json.dumps({"path": str(options.path), "what": options.what, **found.facts}, allow_nan=False))

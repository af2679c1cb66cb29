"""The command that shows a KV cache while tokens are generated: kv-dashboard."""

import json
import tempfile
from pathlib import Path

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
    from nanobench.sweep import device_lock
    from nanobench.sweep.kv_dashboard import take
    from nanobench.sweep.session import first_workers

    console = make_console()
    announce_worker(console)
    with (
        device_lock.hold(device_lock.guess(options.device), options.wait, printer(console)),
        tempfile.TemporaryDirectory(prefix="nanobench-") as folder,
        first_workers(options.as_gates(), Path(folder)) as workers,
    ):
        found = take(options, workers, Path(folder))
    from nanobench.views import kv_dashboard as views

    frames: list[int] = []
    with writing(options.path):
        store.write_atomically(options.path, lambda part: frames.append(views.write(found, options, part)))
    printer(console)(views.sentence(found, options, frames[0], options.path))
    if options.json:
        typer.echo(json.dumps({"path": str(options.path), "what": options.what, **found.facts}, allow_nan=False))

"""The command that continues a prompt with several engines: sample."""

import json
import tempfile
from pathlib import Path

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.sweep.sample import SampleOptions


@command(SampleOptions, "sample")
def sample(options: SampleOptions) -> None:
    """Continue a prompt with several engines, mark where they differ from the reference, and say if rounding explains it."""
    from nanobench.sweep.plan import describe_request

    options.validate()
    describe_request(options.as_gates())
    from nanobench.sweep import device_lock
    from nanobench.sweep.sample import take
    from nanobench.sweep.session import first_workers
    from nanobench.views import sample as views

    console = make_console()
    announce_worker(console)
    with (
        device_lock.hold(device_lock.guess(options.device), options.wait, printer(console)),
        tempfile.TemporaryDirectory(prefix="nanobench-") as folder,
        first_workers(options.as_gates(), Path(folder)) as workers,
    ):
        found = take(options, workers, Path(folder))
    console.print(views.page(found))
    if options.json:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
    if found.has_failed:
        raise typer.Exit(1)

"""The command that measures limits: calibrate."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nanobench.cli.app import app, make_console, printer
from nanobench.sweep.session import make


@app.command("calibrate")
def calibrate(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:INDEX")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="LIST", help="dtypes; auto is the one that a sweep would use")] = "auto",
    threads: Annotated[str, typer.Option(metavar="LIST", help="CPU thread counts; auto is every core")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="measure again what was measured on this machine before")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait while another sweep holds the device")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document as the last line")] = False,
) -> None:
    """Measure what this machine reaches: memory, products over rows, attention, dispatch. Predictions rest on it."""
    from nanobench.sweep import calibration, device_lock
    from nanobench.sweep import plan as planning
    from nanobench.sweep.executors import local
    from nanobench.sweep.options import SweepOptions
    from nanobench.views import calibration as views

    console = make_console()
    options = SweepOptions(device=device, dtype=dtype, threads=threads, batch="1")
    planning.describe_request(options)
    documents = []
    with (
        device_lock.hold(device_lock.guess(device), wait, printer(console)),
        tempfile.TemporaryDirectory(prefix="nanobench-") as folder,
    ):
        plan, description = make(options)
        identity = description.identity["hash"]
        for asked in calibration.settings(plan.points):
            before = None if fresh else calibration.kept(identity, asked)
            executor = local.build("spawn", options.seed, Path(folder))
            found = calibration.full(executor, identity, asked, Path(folder), fresh)
            limits = found.limits
            console.print(f"[bold]{asked.name} threads[/bold], measured {found.measured_at}", highlight=False)
            console.print(views.figures(limits), views.over_rows(limits))
            if before is not None:
                now = calibration.measured(executor, asked, Path(folder), brief=True).limits
                console.print(views.moved(limits, now) + "; measure again with --fresh", highlight=False)
            if calibration.disturbed(found):
                waited = f"tasks waited for a core in {found.pressure_fraction:.0%} of the time"
                console.print(f"not kept: {waited}; see nanobench env, and measure again on an idle machine", highlight=False)
            else:
                console.print(f"kept in {calibration.file_of(identity, asked)}", highlight=False, soft_wrap=True)
            documents.append(views.as_document(found.to_json(), asked.name))
    if as_json:
        typer.echo(json.dumps({"identity": identity, "calibrations": documents}))

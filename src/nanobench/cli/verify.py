"""The command that runs only the correctness gates: verify."""

import json
import tempfile
from pathlib import Path

import typer

from nanobench.cli.app import command, exit_if_wrong, make_console
from nanobench.sweep.options import GateOptions


@command(GateOptions, "verify")
def verify(options: GateOptions) -> None:
    """Check the correctness of every arm of a model, without timing; exit 1 if an arm computes something else."""
    from nanobench.sweep.session import first_workers, make, measure, new_run
    from nanobench.views import progress
    from nanobench.views import sweep as views

    console = make_console()
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder, first_workers(options, Path(folder)) as first:
        plan, description = make(options, first)
        run = new_run(Path(folder), "verify", options, plan, description)
        with progress.Screen(console) as screen:
            cells = measure(run, plan, description, screen.show, first)
    console.print(views.gate_table(cells))
    if options.json:
        typer.echo(json.dumps({"cells": cells}))
    exit_if_wrong(cells)

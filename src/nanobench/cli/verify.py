"""The command that passes the correctness gates alone: verify."""

import json
import tempfile
from pathlib import Path

import typer

from nanobench.cli.app import command, leave, make_console
from nanobench.sweep.options import GateOptions
from nanobench.sweep.session import first_workers, make, measure, new_run


@command(GateOptions, "verify")
def verify(options: GateOptions) -> None:
    """Pass the correctness gates alone, for a model and its arms; exit 1 if one computes something else."""
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
    leave(cells)

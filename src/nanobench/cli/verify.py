"""The command that runs only the correctness gates and the contract checks: verify."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.records import MEASURED, Status
from nanobench.sweep.options import GateOptions, TimedOptions, same

CHECKED = (*MEASURED, Status.SKIPPED)
"""Statuses of arms whose gate was passed or does not apply."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(GateOptions):
    """What verify accepts."""

    wait: bool = same(TimedOptions, "wait")


@command(VerifyOptions, "verify")
def verify(options: VerifyOptions) -> None:
    """Check that every arm is correct, and that its model, engine and sampler keep their contracts; exit 1 if not."""
    from nanobench.sweep.plan import describe_request

    describe_request(options)
    from nanobench.sweep import contracts, device_lock
    from nanobench.sweep.session import first_workers, make, measure, new_run
    from nanobench.views import progress
    from nanobench.views import sweep as views
    from nanobench.views.verify import contract_table

    console = make_console()
    announce_worker(console)
    with (
        device_lock.hold(device_lock.guess(options.device), options.wait, printer(console)),
        tempfile.TemporaryDirectory(prefix="nanobench-") as folder,
        first_workers(options, Path(folder)) as first,
    ):
        plan, description = make(options, first)
        run = new_run(Path(folder), "verify", options, plan, description)
        with progress.Screen(console) as screen:
            cells = measure(run, plan, description, screen.show, first)
        checks = contracts.check(plan, first, Path(folder))
    console.print(views.gate_table(cells))
    console.print(contract_table(checks))
    if options.json:
        typer.echo(json.dumps({"cells": cells, "contracts": contracts.to_json(checks)}))
    if not all(each["status"] in CHECKED for each in cells) or not all(each.passed for each in checks):
        raise typer.Exit(1)

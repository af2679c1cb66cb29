"""The command that measures arms whose true result is known: selftest."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.errors import UserError
from nanobench.schema import option
from nanobench.sweep.options import MEASURING, OUTPUT, WHAT, Options, SweepOptions, TimedOptions, same
from nanobench.views.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.sweep.selftest import CellSummary


@dataclass(frozen=True, kw_only=True)
class SelftestOptions:
    """What selftest accepts."""

    device: str = option("cpu", "cpu, cuda or cuda:INDEX; the checks of known delays need a CPU", WHAT)
    quick: bool = option(False, "a quarter of the comparisons; takes some minutes", MEASURING)
    wait: bool = same(TimedOptions, "wait")
    out: str = option("", "keep both sweeps in this folder; default: they are deleted", OUTPUT, "DIR")
    json: bool = same(Options, "json")


@command(SelftestOptions, "selftest", config=False)
def selftest(options: SelftestOptions) -> None:
    """Check whether this machine is reliable today: measure arms whose true result is known; exit 1 if it is not."""
    SweepOptions(device=options.device).validate()
    from nanobench.results import out_folder, status
    from nanobench.sweep import device_lock
    from nanobench.sweep import selftest as checks
    from nanobench.sweep.plan import usable_cores
    from nanobench.views import selftest as views

    console, quick = make_console(), options.quick
    announce_worker(console)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as scratch:
        folder = out_folder.choose(options.out, "selftest") if options.out else Path(scratch)
        with device_lock.hold(device_lock.guess(options.device), options.wait, printer(console)):
            cores = usable_cores()
            same_cells = sweep(options, checks.same(options.device, cores, quick), folder / "same", console)
            launches = checks.launches_for(same_cells, min(checks.FOUND)) or checks.MOST_LAUNCHES
            delayed = sweep(options, checks.delayed(options.device, cores, quick, launches), folder / "delayed", console)
    verdict, spread, resolution = checks.check(same_cells, delayed), checks.spread(same_cells), checks.resolution(same_cells)
    causes = status.count_causes(cell.disturbed_by for cell in [*same_cells, *delayed])
    console.print(views.verdict(verdict))
    for line in views.trust(spread, launches, resolution, causes):
        say(console, line)
    if options.json:
        document = {"checks": [asdict(check) for check in verdict], **spread._asdict()}
        typer.echo(json.dumps({**document, "launches": launches, "resolution": resolution, "causes": causes}))
    if any(check.passed is False for check in verdict):
        raise typer.Exit(1)


def sweep(requested: SelftestOptions, options: SweepOptions, folder: Path, console: "Console") -> list["CellSummary"]:
    """The cells of one sweep of the self-test that was requested. Raises UserError where nothing could be measured."""
    from nanobench.sweep.selftest import CellSummary
    from nanobench.sweep.session import first_workers, make, measure, new_run
    from nanobench.views import progress

    with first_workers(options, folder) as first:
        plan, description = make(options, first)
        run = new_run(folder, "selftest", requested, plan, description)
        with progress.Screen(console) as screen:
            cells = [CellSummary.of(cell) for cell in measure(run, plan, description, screen.show, first)]
    if all(cell.output_tok_s is None for cell in cells):
        raise UserError(f"nothing could be measured: {cells[0].status}, {cells[0].reason}; see nanobench env")
    return cells

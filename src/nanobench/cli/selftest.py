"""The command that measures arms whose true speed is known: selftest."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench.cli.app import app, make_console, printer
from nanobench.errors import UserError
from nanobench.sweep.session import describe_machine, first_workers, make, measure, new_run

if TYPE_CHECKING:
    from nanobench.sweep.options import SweepOptions

Row = dict[str, Any]


@app.command("selftest")
def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the contrasts, in a few minutes")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:INDEX; known delays are made on a CPU only")] = "cpu",
    wait: Annotated[bool, typer.Option("--wait", help="wait while another sweep holds the device")] = False,
    out: Annotated[str, typer.Option(metavar="DIR", help="keep both sweeps in DIR; default is to drop them")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document as the last line")] = False,
) -> None:
    """Measure arms whose truth is known, through the whole pipeline: can this machine be trusted today? Exit 1 if not."""
    from nanobench.results import status, store
    from nanobench.sweep import device_lock
    from nanobench.sweep import selftest as asks
    from nanobench.views import selftest as views

    console = make_console()
    with tempfile.TemporaryDirectory(prefix="nanobench-") as spare:
        folder = store.choose(out, "selftest") if out else Path(spare)
        with device_lock.hold(device_lock.guess(device), wait, printer(console)):
            cores = describe_machine(device).identity["cores"]
            same = sweep(asks.same(device, cores, quick), folder / "same", console)
            launches = asks.launches_for(same, min(asks.FOUND)) or asks.MOST_LAUNCHES
            delayed = sweep(asks.delayed(device, cores, quick, launches), folder / "delayed", console)
    checks, spread, resolution = asks.check(same, delayed), asks.spread(same), asks.resolution(same)
    causes = status.count_causes(cell["disturbed_by"] for cell in same + delayed)
    console.print(views.verdict(checks))
    for line in views.trust(spread, launches, resolution, causes):
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        told = dict(zip(("sd_within", "sd_between", "pairs"), spread, strict=True))
        document = {"checks": [asdict(check) for check in checks], **told, "launches": launches, "resolution": resolution}
        typer.echo(json.dumps({**document, "causes": causes}))
    if not all(check.passed for check in checks if check.passed is not None):
        raise typer.Exit(1)


def sweep(options: "SweepOptions", folder: Path, console: Any) -> list[Row]:
    """The cells of one sweep of the self-test. Raises UserError where nothing could be measured."""
    from nanobench.views import progress

    with first_workers(options, folder) as first:
        plan, description = make(options, first)
        run = new_run(folder, "selftest", options, plan, description)
        with progress.Screen(console) as screen:
            cells = measure(run, plan, description, screen.show, first)
    if all(cell["output_tok_s"] is None for cell in cells):
        raise UserError(f"nothing could be measured: {cells[0]['status']}, {cells[0]['reason']}; see nanobench env")
    return cells

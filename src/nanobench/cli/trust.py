"""Commands that ask whether this machine can be trusted: env, selftest."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench.cli.base import app
from nanobench.cli.measure import measure
from nanobench.cli.prepare import first_workers, held, make
from nanobench.errors import UserError

if TYPE_CHECKING:
    from nanobench.options import SweepOptions

Row = dict[str, Any]


@app.command("env")
def env(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """Show the machine's identity and its state, and for each problem what it does to the numbers and how to mend it."""
    from nanobench.analysis import advice
    from nanobench.views import console as views
    from nanobench.views import terminal

    description = describe("auto")
    problems = advice.problems(description["identity"], description["state"])
    if as_json:
        told = {name: description[name] for name in ("identity", "state")}
        typer.echo(json.dumps({**told, "problems": [asdict(problem) for problem in problems]}))
        return
    console = terminal.make_console()
    for table in (views.facts("identity", description["identity"]), views.facts("state", description["state"])):
        console.print(table)
    console.print(views.problems(problems))


@app.command("selftest")
def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the contrasts, in a few minutes")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:INDEX; known delays are made on a CPU only")] = "cpu",
    wait: Annotated[bool, typer.Option("--wait", help="wait while another sweep holds the device")] = False,
    out: Annotated[str, typer.Option(metavar="DIR", help="keep both sweeps in DIR; default is to drop them")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document as the last line")] = False,
) -> None:
    """Measure arms whose truth is known, through the whole pipeline: can this machine be trusted today? Exit 1 if not."""
    from nanobench import lock, stability, store
    from nanobench import selftest as asks
    from nanobench.views import console as views
    from nanobench.views import terminal

    console = terminal.make_console()
    with tempfile.TemporaryDirectory(prefix="nanobench-") as spare:
        folder = store.choose(out, "selftest") if out else Path(spare)
        with held(lock.guess(device), wait, console):
            cores = describe(device)["identity"]["cores"]
            same = sweep(asks.same(device, cores, quick), folder / "same", console)
            launches = asks.launches_for(same, min(asks.FOUND)) or asks.MOST_LAUNCHES
            delayed = sweep(asks.delayed(device, cores, quick, launches), folder / "delayed", console)
    checks, spread, resolution = asks.check(same, delayed), asks.spread(same), asks.resolution(same)
    causes = stability.causes(cell["reason"] for cell in same + delayed if cell["status"] == "unstable")
    console.print(views.verdict(checks))
    for line in views.trust(spread, launches, resolution, causes):
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        told = dict(zip(("sd_within", "sd_between", "pairs"), spread, strict=True))
        document = {"checks": [asdict(check) for check in checks], **told, "launches": launches, "resolution": resolution}
        typer.echo(json.dumps({**document, "causes": causes}))
    if not all(check.passed for check in checks if check.passed is not None):
        raise typer.Exit(1)


def describe(device: str) -> Row:
    """Identity and state of the machine, from a process of its own."""
    from nanobench import runner
    from nanobench.executors import local

    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        question = {"device": device, "models": {"cpu": [], "cuda": []}}
        return runner.describe(local.build("spawn", 0, Path(folder)), question, Path(folder))


def sweep(options: "SweepOptions", folder: Path, console: Any) -> list[Row]:
    """The cells of one sweep of the self-test. Raises UserError where nothing could be measured."""
    from nanobench import store
    from nanobench.options import as_asked

    with first_workers(options, folder) as first:
        plan, description = make(options, first)
        run = store.create(folder, store.about_new("selftest", as_asked(options), plan, description))
        cells = measure(run, plan, description, console, first)
    if all(cell["output_tok_s"] is None for cell in cells):
        raise UserError(f"nothing could be measured: {cells[0]['status']}, {cells[0]['reason']}; see nanobench env")
    return cells

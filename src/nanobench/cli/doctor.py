"""The command that finds and repairs damaged files of runs: doctor."""

import json
from typing import Annotated

import typer

from nanobench.cli.app import AsJson, make_console, printer, simple_command
from nanobench.errors import UserError, writing


@simple_command("doctor")
def doctor(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="a run's folder, or a folder of runs, or their URI")
    ] = "results",
    repair: Annotated[bool, typer.Option("--repair", help="repair what can be repaired; nothing measured is deleted")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the files of runs after a crash or a full disk, and repair them. Exit code 1: something is wrong, or stays so."""
    from nanobench.results import doctor as doctors
    from nanobench.results import finder
    from nanobench.views import doctor as views

    say, runs = printer(make_console()), finder.folders_below(results)
    if not runs:
        raise UserError(f"no run in {results} (no run.json); give a folder that a sweep wrote")
    found = []
    for run in runs:
        with writing(run.place):
            for each in doctors.treat(run, repair):
                found.append(each)
                say(views.line(each))
    say(views.summary(found, len(runs), results))
    if as_json:
        typer.echo(json.dumps({"runs": len(runs), "problems": [views.document(each) for each in found]}))
    if not all(each.repaired for each in found):
        raise typer.Exit(1)

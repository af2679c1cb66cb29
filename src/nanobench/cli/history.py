"""The command that lists the runs of a folder, oldest first: history."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nanobench.cli.app import AsJson, make_console, simple_command
from nanobench.cli.runs import Figures
from nanobench.errors import writing


@simple_command("history")
def history(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="a folder of runs, or its URI")] = "results",
    plot: Figures = "",
    as_json: AsJson = False,
) -> None:
    """List runs, oldest first: when, command, model, machine, commit, and the headline ratio with its interval."""
    from nanobench.analysis import history as analysis
    from nanobench.results import finder
    from nanobench.views import history as views

    lines = analysis.lines_of(finder.find_runs(results))
    if as_json:
        typer.echo(json.dumps([line._asdict() for line in lines], allow_nan=False))
    else:
        make_console().print(views.table(lines))
    if plot:
        from nanobench.views.figures import over_commits

        with writing(Path(plot)):
            paths = over_commits.draw(lines, Path(plot))
        for path in paths:
            typer.echo(path, err=as_json)

"""The command that draws one figure: plot."""

from typing import Annotated

import typer

from nanobench.cli.app import simple_command
from nanobench.cli.runs import Results, beside, cells_of, chosen
from nanobench.errors import UserError, writing


@simple_command("plot")
def plot(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the figure, or module:function; nanobench list plots shows all")],
    results: Results = "",
) -> None:
    """Draw one figure as PNG and SVG into the run's plots/ folder."""
    from nanobench.views import plots

    plots.find(name)
    runs = chosen(results)
    refusals = []
    for run in runs:
        cells = cells_of(run)
        try:
            with writing(run.where(run.plots), beside(run)):
                paths = plots.draw(name, cells, run.read_raw(), run.plots)
                run.publish(*paths)
        except UserError as refusal:
            refusals.append(refusal)
            continue
        for path in paths:
            typer.echo(run.where(path))
    if len(refusals) == len(runs):
        raise refusals[0]

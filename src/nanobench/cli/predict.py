"""The command that predicts a run for other hardware: predict."""

import json
from typing import Annotated

import typer

from nanobench.cli.app import AsJson, make_console, simple_command
from nanobench.views.terminal import say

GPUS = "short names of datasheets, like h200,a100-80gb; a100 and v100 stand for the SXM variant with the most memory"


@simple_command("predict")
def predict(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="a run's folder, or a folder of runs: the newest is used")
    ] = "results",
    gpu: Annotated[str, typer.Option(metavar="LIST", help=GPUS)] = "",
    dtype: Annotated[str, typer.Option(help="the dtype on that hardware; auto: the dtype of each cell")] = "auto",
    measured: Annotated[str, typer.Option(metavar="DIR", help="where to look for runs on that hardware")] = "results",
    as_json: AsJson = False,
) -> None:
    """Predict a run's cells for other hardware, from its datasheet and the efficiency on this machine; measures nothing."""
    import pandas as pd

    from nanobench import errors
    from nanobench.analysis import predict as analysis
    from nanobench.errors import UserError
    from nanobench.results import finder, store
    from nanobench.results.derive import cells_of
    from nanobench.roofline import datasheet
    from nanobench.schema import DTYPES
    from nanobench.views import predict as views

    if not gpu:
        raise UserError(f"--gpu is missing; give one or more of {', '.join(datasheet.names())}")
    if dtype not in (*DTYPES, "auto"):
        raise errors.unknown("dtype", dtype, (*DTYPES, "auto"))
    sheets = {name: datasheet.named(name) for name in map(str.strip, gpu.split(","))}
    run = finder.find_runs(results)[-1]
    info = run.info()
    cells, here = cells_of(run.read_raw(), info.machine), info.hardware
    console, found = make_console(), []
    for name, sheet in sheets.items():
        if name not in datasheet.names():
            say(console, views.taken_as(name, sheet.name, datasheet.variants(name)))
        runs = [each for each in finder.runs_below(measured) if analysis.is_on(each.info(), sheet)]
        seen = pd.concat([store.load_runs([each]) for each in runs]) if runs else None
        rows = analysis.rows(cells, sheet, None if dtype == "auto" else dtype, seen)
        console.print(views.table(rows))
        for line in views.doubts(rows):
            say(console, line)
        found += rows
    known = datasheet.find(here) is not None
    say(console, views.basis(here or "this machine", known))
    if as_json:
        typer.echo(json.dumps({"run": run.place, "predicted": found}))

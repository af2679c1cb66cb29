"""The command that explains why cells are as fast as they are: explain."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench.cli.app import AsJson, make_console, simple_command
from nanobench.cli.runs import Results, beside, cells_of, chosen
from nanobench.errors import UserError, writing
from nanobench.views.terminal import say

if TYPE_CHECKING:
    from nanobench.records import LaunchRecord
    from nanobench.results.store import Run

Document = dict[str, list[Any]]


@simple_command("explain")
def explain(
    results: Results = "",
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="RESULTS is a CSV of published figures, measured on this device")
    ] = "",
    as_json: AsJson = False,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="do not draw the waterfall")] = False,
) -> None:
    """Explain the speed of each cell: predicted and measured time, what limits it, what to try, and where an arm pays off."""
    chosen_runs = [] if gpu else runs(results)
    parts = [of_run(run, len(chosen_runs) > 1, not no_plot) for run in chosen_runs] or [of_published(results, gpu)]
    if as_json:
        names = dict.fromkeys(name for part in parts for name in part)
        document = {name: [each for part in parts for each in part[name]] for name in names}
        typer.echo(json.dumps(document, allow_nan=False))


def runs(results: str) -> list["Run"]:
    """The chosen runs. Raises UserError where there is none, and where RESULTS is a table of published figures."""
    from nanobench.results import finder

    if results and tables(results) and not finder.runs_below(results):
        raise UserError(
            f"{results} has published figures and no run; name the device they were measured on, like --gpu a100-80gb"
        )
    return chosen(results)


def tables(results: str) -> list[Path]:
    """The CSV file that RESULTS names, or those in that folder."""
    path = Path(results)
    return [path] if path.suffix == ".csv" and path.is_file() else sorted(path.glob("*.csv"))


def of_run(run: "Run", named: bool, draws: bool) -> Document:
    """Prints the explanation of one run, draws its waterfall, and returns the JSON document."""
    from nanobench.analysis.cost import in_order
    from nanobench.analysis.crossover import crossovers
    from nanobench.analysis.explain import explained
    from nanobench.analysis.waterfall import waterfalls
    from nanobench.results import derive
    from nanobench.results.store import records
    from nanobench.views import explain

    cells, launches, info = in_order(cells_of(run)), run.read_raw(), run.info()
    made = derive.cells_of(launches, info.machine)
    rows = explained(records(cells), made, info.description.identity.get("cores"))
    pays, factors = crossovers(rows, made), waterfalls(cells, launches)
    document: Document = {
        "cells": rows,
        "crossovers": [asdict(each) for each in pays],
        "waterfalls": [asdict(each) for each in factors],
        "sentences": explain.sentences(rows),
        "unknown": list(explain.unknown(rows, info.command, info.requested)),
        "paths": [],
    }
    console = make_console()
    if named:
        say(console, run.place, style="bold")
    explain.show(console, rows, document["sentences"], pays, factors)
    for line in [*document["unknown"], *(drawn(run, cells, launches, document["paths"]) if draws else [])]:
        say(console, line)
    return document


def drawn(run: "Run", cells: Any, launches: "list[LaunchRecord]", paths: list[str]) -> list[str]:
    """Draws the waterfall where the run allows it. Returns the paths, or why there is none."""
    from nanobench.views import plots

    try:
        with writing(run.where(run.plots), beside(run)):
            drawn_files = plots.draw("waterfall", cells, launches, run.plots)
            run.publish(*drawn_files)
            paths += map(run.where, drawn_files)
    except UserError as refusal:
        return [str(refusal)]
    return paths


def of_published(results: str, gpu: str) -> Document:
    """Prints the explanation of published figures and returns the JSON document."""
    from nanobench.analysis.crossover import crossovers
    from nanobench.analysis.published import published
    from nanobench.roofline import datasheet
    from nanobench.views import explain

    sheet = datasheet.named(gpu)
    found = tables(results) if results else []
    if not found:
        fix = "give a CSV file or a folder with one; a run knows its own device, so drop --gpu"
        raise UserError(f"--gpu {gpu} needs a CSV of published figures, and {results or 'results'} is not one; {fix}")
    figures = [row for path in found for row in read_table(path)]
    rows = published(figures, sheet)
    pays, sentences = crossovers(rows, []), explain.sentences(rows)
    console = make_console()
    say(console, explain.source(found, len(rows), len(figures), sheet.name))
    explain.show(console, rows, sentences, pays, [])
    return {"cells": rows, "crossovers": [asdict(each) for each in pays], "sentences": sentences}


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises UserError where it can't be read."""
    try:
        with path.open(newline="") as file:
            return [{name: value or "" for name, value in row.items() if name} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; give a CSV of published figures") from None

"""The command that turns measured throughput into money and energy: cost."""

import json
from dataclasses import dataclass

import typer

from nanobench.analysis.cost_options import CostOptions
from nanobench.cli.app import command, make_console
from nanobench.cli.runs import RESULTS, all_cells
from nanobench.schema import argument, option
from nanobench.views.terminal import say


@dataclass(frozen=True, kw_only=True)
class Request(CostOptions):
    """What the command accepts: the runs, prices, power and workload."""

    results: str = argument("", RESULTS, "RESULTS")
    json: bool = option(False, "print one JSON document as the last line", "Output")


@command(Request, "cost", config=False)
def cost(request: Request) -> None:
    """Show what each cell costs: dollars and joules per million tokens, per reply and per year; and the cheapest cell."""
    from nanobench.analysis import cost as analysis
    from nanobench.results.store import records
    from nanobench.views import cost as views

    found = analysis.costs(all_cells(request.results), request)
    choice, rows = analysis.choose(found, request), records(found)
    console, sentences = make_console(), list(views.sentences(rows, choice, request))
    table, *notes = views.fitting(rows, request, console)
    console.print(table)
    for line in [*map(str, notes), *sentences]:
        say(console, line)
    if request.json:
        named = {"cheapest": choice.cheapest, "cheapest_within_limits": choice.within, "nearest": choice.nearest}
        document = {name: None if index is None else rows[index] for name, index in named.items()}
        parts = {"requested": request.given, "cells": rows, **document, "sentences": sentences}
        typer.echo(json.dumps(parts, allow_nan=False))

"""The command that turns measured throughput into money and energy: cost."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from nanobench.cli.app import app
from nanobench.cli.report import RESULTS, cells_of, chosen


@app.command("cost")
def cost(
    results: Annotated[str, typer.Argument(metavar="[RESULTS]", help=RESULTS, show_default=False)] = "",
    price_per_hour: Annotated[float | None, typer.Option(metavar="USD", help="price of the machine per hour")] = None,
    power_w: Annotated[
        float | None, typer.Option(metavar="W", help="average power of the machine under load, where it was not measured")
    ] = None,
    idle_power_w: Annotated[float | None, typer.Option(metavar="W", help="its power without work")] = None,
    price_per_kwh: Annotated[float | None, typer.Option(metavar="USD", help="price of electricity")] = None,
    requests_per_day: Annotated[
        float | None, typer.Option(metavar="N", help="replies asked for a day: machines needed, cost of a year")
    ] = None,
    max_ttft: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="name the cheapest cell with a TTFT of at most this")
    ] = None,
    max_tpot: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="name the cheapest cell with a TPOT of at most this")
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs of the machine, for GPU-hours of training")] = 1,
    tokens: Annotated[float | None, typer.Option(metavar="N", help="tokens to train on: GPU-hours and cost")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document as the last line")] = False,
) -> None:
    """What each cell costs: dollars and joules per million tokens, per reply and per year, and which cell is cheapest."""
    import pandas as pd

    from nanobench.analysis import cost as prices
    from nanobench.cli.app import make_console
    from nanobench.results.store import records
    from nanobench.views import cost

    asked = prices.CostOptions(
        price_per_hour=price_per_hour,
        power_w=power_w,
        idle_power_w=idle_power_w,
        price_per_kwh=price_per_kwh,
        requests_per_day=requests_per_day,
        max_ttft=max_ttft,
        max_tpot=max_tpot,
        gpus=gpus,
        tokens=tokens,
    )
    found = prices.costs(pd.concat([cells_of(run) for run in chosen(results)], ignore_index=True), asked)
    choice, rows = prices.choose(found, asked), records(found)
    console, sentences = make_console(), list(cost.sentences(rows, choice, asked))
    table, *notes = cost.fitting(rows, asked, console)
    console.print(table)
    for line in [*notes, *sentences]:
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        named = {"cheapest": choice.cheapest, "cheapest_within_limits": choice.within, "nearest": choice.nearest}
        document = {name: None if index is None else rows[index] for name, index in named.items()}
        typer.echo(json.dumps({"asked": asdict(asked), "cells": rows, **document, "sentences": sentences}, allow_nan=False))

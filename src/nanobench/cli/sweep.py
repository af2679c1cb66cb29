"""The commands that measure a sweep: kv-sweep and train-throughput."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, exit_if_wrong, make_console, printer
from nanobench.cli.interrupt import watched
from nanobench.errors import UserError, writing
from nanobench.sweep.options import SweepOptions, TimedOptions, TrainOptions
from nanobench.views.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.records import Description
    from nanobench.results.derive import CellRow
    from nanobench.results.store import Run
    from nanobench.schema import Plan
    from nanobench.sweep.job import Audience
    from nanobench.sweep.progress import Watch

WIDEST_BARS = 100
"""Characters of a line with a bar, at most."""


@command(SweepOptions, "kv-sweep")
def kv_sweep(options: SweepOptions) -> None:
    """Compare cached with uncached generation over batch sizes, lengths, compile modes, samplers and dtypes."""
    sweep(options, "kv-sweep")


@command(TrainOptions, "train-throughput")
def train_throughput(options: TrainOptions) -> None:
    """Compare eager with compiled training steps, optimizer included, over batch sizes, lengths and phases."""
    sweep(options, "train-throughput")


def sweep(options: TimedOptions, name: str) -> None:
    """Plans, measures and shows a run; or continues one; or shows only the plan."""
    from nanobench.sweep.plan import describe_request

    # Before heavy packages are imported: a mistake is answered at once.
    describe_request(options)
    from nanobench.sweep import job
    from nanobench.sweep.session import make, reopen

    console = make_console()
    if not options.quiet:
        announce_worker(console)
    audience = audience_of(name, console, options.quiet and not options.dry_run)
    if options.dry_run:
        audience.planned(*(reopen(options, name)[1:] if options.resume else make(options)))
        return
    done = job.run_sweep(options, name, audience)
    finish(done.run, done.cells, options, console)


def audience_of(name: str, console: "Console", quiet: bool = False) -> "Audience":
    """Shows a sweep on the terminal: the card of its plan, the searches for batch sizes, the live table; or nothing."""
    from nanobench.results import request
    from nanobench.sweep.autobatch import Listener
    from nanobench.sweep.estimate import expected_total_s
    from nanobench.sweep.job import Audience
    from nanobench.views import autobatch, progress

    tell = printer(console)

    def planned(plan: "Plan", description: "Description") -> None:
        if not quiet:
            console.print(progress.card(plan, description, expected_total_s(plan, description)))

    @contextmanager
    def measuring(run: "Run", plan: "Plan") -> Iterator["Watch"]:
        def report() -> None:
            saved, total = len(list(run.raw.glob("*.parquet"))), plan.launches * len(plan.points)
            with suppress(KeyboardInterrupt):
                show_finished(run, console)
            typer.echo(f"interrupted: {saved} of {total} trials are saved; continue with: {request.resumed(name, run.place)}")

        with watched(console, report, quiet) as watch:
            yield watch

    return Audience(
        waiting=tell, planned=planned, measuring=measuring, search=Listener() if quiet else autobatch.listener(tell)
    )


def show_finished(run: "Run", console: "Console") -> None:
    """Prints the results of the trials that finished; nothing without one."""
    from nanobench.results import derive

    launches = run.read_raw()
    if launches:
        show(run, derive.derive(launches, run.info().machine), console)


def show(run: "Run", cells: "list[CellRow]", console: "Console") -> list[str]:
    """Prints the table, the conclusions and what limits them. Returns the conclusions."""
    from nanobench.analysis import interpolated, verdict
    from nanobench.results import store
    from nanobench.views import interpolated as curves
    from nanobench.views import sweep as views

    info, frame = run.info(), store.frame(run, cells)
    sentences = verdict.sentences(frame)
    console.print(views.result_table(cells))
    for line in views.speedup_bars(cells, min(console.width, WIDEST_BARS)):
        console.print(line, highlight=False, no_wrap=True)
    if rows := interpolated.of_run(frame, info.plan):
        console.print(curves.curve_table(rows))
        sentences += filter(None, [curves.sentence(rows)])
    for line in [*sentences, *info.notes]:
        say(console, line)
    return sentences


def finish(run: "Run", cells: "list[CellRow]", options: TimedOptions, console: "Console") -> None:
    """Prints the result, draws the plots, and exits with 1 where an arm was wrong."""
    from nanobench.analysis import interpolated
    from nanobench.results import derive, store

    launches, info, sentences = run.read_raw(), run.info(), show(run, cells, console)
    share = derive.timed_share(launches, info.wall_s)
    paths, refusal = [run.cells], None
    if not options.no_plot:
        from nanobench.views import plots

        try:
            with writing(run.plots, "draw them elsewhere: copy the run and use nanobench report"):
                paths += plots.draw_all(store.frame(run, cells), launches, run.plots)
                run.publish(*paths[1:])
        except UserError as error:
            refusal = error
    places = list(map(run.where, paths))
    for place in places:
        say(console, place)
    if options.json:
        document = {"run": run.place, "cells": cells, "verdict": sentences, "timed_share": share}
        if rows := interpolated.of_run(store.frame(run, cells), info.plan):
            document["curve"] = rows
        typer.echo(json.dumps({**document, "paths": places}))
    exit_if_wrong(cells)
    if refusal is not None:
        raise refusal

"""Commands that measure: kv-sweep, train-throughput, verify, run."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench import errors
from nanobench.cli.app import INTERRUPTED, app, command, leave, make_console, printer
from nanobench.cli.autobatch import listener
from nanobench.cli.verify import verify
from nanobench.errors import UserError
from nanobench.sweep import autobatch
from nanobench.sweep.options import (
    GateOptions,
    Options,
    SweepOptions,
    TimedOptions,
    TrainOptions,
    from_toml,
    read_toml,
)
from nanobench.sweep.session import device_of, expected_total_s, first_workers, make, measure, new_run, reopen

if TYPE_CHECKING:
    from nanobench.results.store import Run
    from nanobench.sweep.runner import Progress

Row = dict[str, Any]


@command(SweepOptions, "kv-sweep")
def kv_sweep(options: SweepOptions) -> None:
    """Measure cached against uncached generation over batch sizes, lengths, compile modes, samplers and dtypes."""
    sweep(options, "kv-sweep")


@command(TrainOptions, "train-throughput")
def train_throughput(options: TrainOptions) -> None:
    """Measure training steps, optimizer included: eager against compiled, over batch sizes, lengths and phases."""
    sweep(options, "train-throughput")


def sweep(options: TimedOptions, name: str) -> None:
    """Plans, measures and shows a run; or goes on with one; or shows the plan alone."""
    from nanobench.results import store
    from nanobench.sweep import device_lock
    from nanobench.views import progress

    console = make_console()
    say = printer(console)
    if options.dry_run:
        plan, description = reopen(options, name)[1:] if options.resume else make(options)
        console.print(progress.card(asdict(plan), asdict(description), expected_total_s(plan, description)))
        return
    folder = Path(options.resume) if options.resume else store.choose(options.out, name)
    with device_lock.hold(device_of(options), options.wait, say), first_workers(options, folder) as first:
        if options.resume:
            run, plan, description = reopen(options, name)
        else:
            plan, description = make(options, first, autobatch.finder(options, listener(say)))
        console.print(progress.card(asdict(plan), asdict(description), expected_total_s(plan, description)))
        if not options.resume:
            run = new_run(folder, name, options, plan, description)
        total = plan.launches * len(plan.points)
        with interruptible(run, name, total) as go_on, progress.Screen(console) as screen:

            def watch(seen: "Progress") -> None:
                go_on()
                screen.show(seen)

            cells = measure(run, plan, description, watch, None if options.resume else first)
    finish(run, cells, options, console)


@app.command("run")
def run_config(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a TOML file, or the name of one in configs/")],
    out: Annotated[str, typer.Option(help="DIR of this run; default is a new one in results/")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
) -> None:
    """Run the sweep that a TOML file describes."""
    path = Path(config)
    named = Path("configs") / f"{config}.toml"
    if not path.exists() and named.exists():
        path = named
    commands: dict[str, tuple[type[Options], Any]] = {
        "kv-sweep": (SweepOptions, kv_sweep),
        "train-throughput": (TrainOptions, train_throughput),
        "verify": (GateOptions, verify),
    }
    name = read_toml(path).get("command", "kv-sweep")
    if name not in commands:
        raise errors.unknown(f"command in {path}", str(name), commands)
    kind, function = commands[name]
    given = {key: value for key, value in (("out", out), ("dry_run", dry_run)) if value}
    if given and kind is GateOptions:
        raise UserError(f"--{next(iter(given)).replace('_', '-')} is not for {name}, which keeps no results; leave it away")
    function.__wrapped__(kind(**{**from_toml(path, kind, name), **given}))


@contextmanager
def interruptible(run: "Run", name: str, total: int) -> Iterator[Callable[[], None]]:
    """On Ctrl-C or SIGTERM says what is saved and how to go on, and exits with 130.

    The function that it gives raises KeyboardInterrupt if one was swallowed, as happens to one raised in a callback.
    """
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def go_on() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield go_on
    except KeyboardInterrupt:
        saved = len(list(run.raw.glob("*.parquet")))
        typer.echo(f"interrupted: {saved} of {total} trials are saved; continue with: nanobench {name} --resume {run.folder}")
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(run: "Run", cells: list[Row], options: TimedOptions, console: Any) -> None:
    """Prints the result, draws the plots, and exits with 1 where an arm was wrong."""
    from nanobench.analysis import verdict
    from nanobench.results import derive, store
    from nanobench.views import sweep as views

    rows, frame = run.read_raw(), store.frame(run, cells)
    sentences, counts = verdict.sentences(frame), verdict.counts(frame)
    share = derive.timed_share(rows, run.info().wall_s)
    console.print(views.result_table(cells))
    closing = (
        f"{counts}; {share:.0%} of the wall time went into timed repetitions and warm-up; {verdict.timestamp_overhead(frame)}"
    )
    note = run.info().calibration_note
    for line in [*sentences, *verdict.disturbances(frame), *([f"no predictions: {note}"] if note else []), closing]:
        console.print(line, highlight=False, soft_wrap=True)
    paths = [run.cells]
    if not options.no_plot:
        from nanobench.views import plots

        paths += plots.draw_all(frame, rows, run.plots)
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True)
    if options.json:
        document = {"run": str(run.folder), "cells": cells, "verdict": sentences, "timed_share": share}
        typer.echo(json.dumps({**document, "paths": [str(path) for path in paths]}))
    leave(cells)

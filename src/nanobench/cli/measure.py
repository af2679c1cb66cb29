"""Commands that measure: kv-sweep, train-throughput, verify, run."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench import lookup
from nanobench.cli import fit
from nanobench.cli.base import INTERRUPTED, app, command
from nanobench.cli.prepare import first_workers, held, make, workers
from nanobench.errors import UserError
from nanobench.options import GateOptions, Options, SweepOptions, TimedOptions, TrainOptions, as_asked, from_toml, read_toml

if TYPE_CHECKING:
    from nanobench.executors.base import Executor
    from nanobench.plan import Plan
    from nanobench.runner import Progress
    from nanobench.store import Run

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
    from nanobench import store
    from nanobench.views import console as views
    from nanobench.views import terminal

    console = terminal.make_console()
    if options.dry_run:
        plan, description = reopen(options, name)[1:] if options.resume else make(options)
        console.print(views.card(asdict(plan), description, expected_total_s(plan, description)))
        return
    folder = Path(options.resume) if options.resume else store.choose(options.out, name)
    with held(device_of(options), options.wait, console), first_workers(options, folder) as first:
        if options.resume:
            run, plan, description = reopen(options, name)
        else:
            plan, description = make(options, first, fit.finder(options, console))
        console.print(views.card(asdict(plan), description, expected_total_s(plan, description)))
        if not options.resume:
            run = store.create(folder, store.about_new(name, as_asked(options), plan, description))
        with interruptible(run, name, plan.launches * len(plan.points)) as go_on:
            cells = measure(run, plan, description, console, None if options.resume else first, go_on)
    finish(run, cells, options, console)


@command(GateOptions, "verify")
def verify(options: GateOptions) -> None:
    """Pass the correctness gates alone, for a model and its arms; exit 1 if one computes something else."""
    from nanobench import store
    from nanobench.views import console as views
    from nanobench.views import terminal

    console = terminal.make_console()
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder, first_workers(options, Path(folder)) as first:
        plan, description = make(options, first)
        run = store.create(Path(folder), store.about_new("verify", as_asked(options), plan, description))
        cells = measure(run, plan, description, console, first)
    console.print(views.gate_table(cells))
    if options.json:
        typer.echo(json.dumps({"cells": cells}))
    leave(cells)


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
        raise lookup.unknown(f"command in {path}", str(name), commands)
    kind, function = commands[name]
    given = {key: value for key, value in (("out", out), ("dry_run", dry_run)) if value}
    if given and kind is GateOptions:
        raise UserError(f"--{next(iter(given)).replace('_', '-')} is not for {name}, which keeps no results; leave it away")
    function.__wrapped__(kind(**{**from_toml(path, kind, name), **given}))


def device_of(options: TimedOptions) -> str:
    """The device to hold, told without torch. Raises UserError for options that no device could serve."""
    from nanobench import lock
    from nanobench import plan as planning
    from nanobench.store import Run

    planning.question(options)
    return Run(Path(options.resume)).read_about()["device"] if options.resume else lock.guess(options.device)


def reopen(options: TimedOptions, name: str) -> tuple["Run", "Plan", Row]:
    """The run that --resume names, with its own plan. Raises UserError where other options or another machine contradict it."""
    from nanobench import runner
    from nanobench.executors import local
    from nanobench.plan import Plan
    from nanobench.store import Run

    run = Run(Path(options.resume))
    about = run.read_about()
    if about["command"] != name:
        raise UserError(f"{run.folder} is a run of {about['command']}: nanobench {about['command']} --resume {run.folder}")
    free = ("resume", "json", "no_plot", "dry_run", "wait")
    other = [name for name, value in as_asked(options).items() if name not in free and about["asked"].get(name) != value]
    if other:
        flags = ", ".join("--" + name.replace("_", "-") for name in other)
        raise UserError(f"--resume {run.folder} keeps its own plan; drop {flags}, or start a new run with --out")
    plan = Plan.from_json(about["plan"])
    keys = {trial.key for trials in plan.rounds() for trial in trials}
    if any(path.stem.rpartition("-")[2] not in keys for path in run.raw.glob("*.parquet")):
        raise UserError(f"--resume {run.folder} was measured by another version of nanobench; start a new run with --out")
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        question = {"device": about["device"], "models": {about["device"].partition(":")[0]: list(about["models"])}}
        description = runner.describe(local.build("spawn", plan.seed, Path(folder)), question, Path(folder))
    was, now = ({**each["identity"], "models": each["models"]} for each in (about, description))
    changed = [f"{name} was {was.get(name)}, is {now[name]}" for name in now if name != "hash" and was.get(name) != now[name]]
    if changed:
        raise UserError(f"--resume {run.folder} was measured elsewhere: {'; '.join(changed)}; start a new run with --out")
    return run, plan, about


def expected_total_s(plan: "Plan", description: Row) -> float:
    """About how long the whole sweep takes: an import per round, and every launch of every point."""
    from nanobench.plan import expected_s

    launches = range(1, plan.launches + 1)
    return sum(3.0 + sum(expected_s(plan, point, launch, description) for point in plan.points) for launch in launches)


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


def measure(
    run: "Run",
    plan: "Plan",
    description: Row,
    console: Any,
    first: "Executor | None" = None,
    go_on: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Runs what is missing of the plan and keeps run.json up to date; `first` are the workers of the first round, where they
    are there already. `go_on` is asked again and again and may raise.
    """
    from nanobench.runner import Sweep
    from nanobench.views.console import Screen

    start, before_s = time.monotonic(), run.read_about()["wall_s"]

    def make_executor(launch: int) -> "Executor":
        return first if first and launch == 1 else workers(plan.isolation, plan.seed, launch, run.folder)

    def watch(progress: "Progress") -> None:
        go_on()
        screen.show(progress)
        if progress.report is None:
            run.write_about({**run.read_about(), "wall_s": before_s + time.monotonic() - start})

    with Screen(console) as screen:
        cells = Sweep(run, plan, description, make_executor, watch).measure()
    run.clear_scratch()
    run.write_about({**run.read_about(), "finished_at": datetime.now().astimezone().isoformat(timespec="seconds")})
    return cells


def finish(run: "Run", cells: list[Row], options: TimedOptions, console: Any) -> None:
    """Prints the result, draws the plots, and exits with 1 where an arm was wrong."""
    from nanobench import metrics, store
    from nanobench.analysis import verdict
    from nanobench.views import console as views

    rows, frame = run.read_raw(), store.frame(run, cells)
    sentences, counts = verdict.sentences(frame), verdict.counts(frame)
    share = metrics.timed_share(rows, run.read_about()["wall_s"])
    console.print(views.result_table(cells))
    closing = f"{counts}; {share:.0%} of the wall time went into timed repetitions and warm-up; {verdict.mark_tax(frame)}"
    note = run.read_about().get("calibration_note")
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


def leave(cells: list[Row]) -> None:
    """Exits with 1 where the gate said no."""
    if any(cell["status"] == "wrong" for cell in cells):
        raise typer.Exit(1)

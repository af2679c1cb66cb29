"""The command that looks for a batch size, autobatch, and the same search for a sweep's --batch auto."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nanobench import lookup
from nanobench.cli.base import command
from nanobench.cli.prepare import first_workers, held, make
from nanobench.errors import UserError
from nanobench.options import MODES, AutobatchOptions, Options, read_memory_limit

if TYPE_CHECKING:
    from nanobench.autobatch import Wish
    from nanobench.executors.base import Executor
    from nanobench.plan import FindBatch
    from nanobench.schema import Arm, Point

Row = dict[str, Any]


@command(AutobatchOptions, "autobatch")
def autobatch(options: AutobatchOptions) -> None:
    """Find the largest batch that fits, and the one after which throughput stops growing; each is tried in a process."""
    from nanobench import autobatch as fitting
    from nanobench import cache, lock
    from nanobench import plan as planning
    from nanobench.views import fitted
    from nanobench.views.terminal import make_console

    wish, asked, console = wish_of(options), options.as_sweep(), make_console()
    planning.question(asked)
    device = lock.guess(options.device)
    point, arm = the_only(*planning.asked(asked, device))
    path = fitting.file_of(point, (arm,), wish, options.memory_limit)
    found = None if options.fresh else cache.read(path)
    if found is None:
        with held(device, options.wait, console), first_workers(asked) as executor:
            plan, description = make(asked, executor, lambda description: lambda point, arms: 1)
            found = search(plan.points[0], (arm,), wish, asked, executor, description, console)
        cache.write(path, found)
    else:
        found = {**found, "cached": True}
    console.print(fitted.table(found))
    for line in fitted.sentences(found, arm.label):
        console.print(line, highlight=False, soft_wrap=True)
    if options.out:
        for written in fitted.write(found, f"{point.model}, {arm.label}", Path(options.out)):
            console.print(str(written), highlight=False, soft_wrap=True)
    if options.json:
        typer.echo(json.dumps(found))


def wish_of(options: AutobatchOptions) -> "Wish":
    """What is looked for. Raises UserError where a number cannot be meant."""
    from nanobench.autobatch import Wish

    if options.mode not in MODES:
        raise lookup.unknown("mode", options.mode, MODES)
    if not 0 < options.margin <= 1:
        raise UserError(f"--margin {options.margin:g} is not above 0 and at most 1; give a share, like 0.85")
    if options.most < 1:
        raise UserError(f"--most {options.most} is below 1; give the largest batch to try, like 4096")
    if options.total_batch < 0:
        raise UserError(f"--total-batch {options.total_batch} is below 0; give rows of an optimizer step, like 512, or 0")
    if options.max_seconds <= 0:
        raise UserError(f"--max-seconds {options.max_seconds:g} is not above 0; give seconds, like 600")
    return Wish(options.margin, options.total_batch or None, options.most, options.max_seconds)


def the_only(points: list["Point"], arms: tuple["Arm", ...]) -> tuple["Point", "Arm"]:
    """The one point and arm. Raises UserError where a list asks for several."""
    if len(points) > 1 or len(arms) > 1:
        nouns = ([vars(point) for point in points], [vars(arm) for arm in arms])
        several = sorted({name for noun in nouns for name in noun[0] if len({each[name] for each in noun}) > 1})
        raise UserError(f"autobatch looks for one batch size at a time; give one value for {', '.join(several)}")
    return points[0], arms[0]


def search(
    point: "Point", arms: "tuple[Arm, ...]", wish: "Wish", asked: Options, executor: "Executor", description: Row, console: Any
) -> Row:
    """Tries batch sizes of some arms at a point, each in a process."""
    from nanobench import autobatch as fitting
    from nanobench.schema import Trial
    from nanobench.views import fitted

    available = description["available_bytes"] if point.device == "cpu" else None
    limit = read_memory_limit(asked.memory_limit, available)
    trial = Trial(point=point, arms=arms, launch=1, seed=asked.seed, target_ci=1.0, max_seconds=1.0, memory_limit_bytes=limit)
    tell = lambda each: console.print(fitted.line(each), highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        attempt = fitting.attempt_in(executor, trial, Path(folder), asked.timeout)
        found = fitting.Search(attempt, wish, point.world_size, tell).run()
    return {**found, "memory_limit_bytes": limit, "cached": False}


def finder(options: Options, console: Any) -> "Callable[[Row], FindBatch]":
    """Who tells the batch size that all arms of a point have room for together, as they are measured in turns."""
    from nanobench import autobatch as fitting
    from nanobench import cache
    from nanobench.views import fitted

    def of(description: Row) -> "FindBatch":
        def find(point: "Point", arms: "tuple[Arm, ...]") -> int:
            wish = fitting.Wish(max_seconds=fitting.Wish.max_seconds * len(arms))
            path = fitting.file_of(point, arms, wish, options.memory_limit)
            found = cache.read(path)
            if found is None:
                labels = ", ".join(arm.label for arm in arms)
                console.print(f"looking for the batch size of {point.model}, {labels}", highlight=False, soft_wrap=True)
                # Not the sweep's workers: what these compiled must not be found by the sweep's cold start.
                with first_workers(options) as own:
                    found = search(replace(point, batch_size=1), arms, wish, options, own, description, console)
                cache.write(path, found)
                for line in fitted.sentences(found, labels):
                    console.print(line, highlight=False, soft_wrap=True)
            return int(found["batch_size"])

        return find

    return of

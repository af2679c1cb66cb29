"""The command that searches for a batch size, autobatch, and what a sweep's --batch auto prints of the same search."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.errors import UserError, writing
from nanobench.sweep import autobatch as searches
from nanobench.sweep.batch_search import BatchAnswer, SearchConfig
from nanobench.sweep.options import AutobatchOptions

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.schema import Arm, Point
    from nanobench.sweep.axes import Axes


@command(AutobatchOptions, "autobatch")
def autobatch(options: AutobatchOptions) -> None:
    """Find the largest batch that fits, and the smallest that saturates throughput; each is tried in its own process."""
    from nanobench.views import autobatch as views

    options.validate()
    if options.out:
        from nanobench.results.store import check_writable

        check_writable(Path(options.out))
    console = make_console()
    point, arm, answer = answered(options, console)
    console.print(views.table(answer))
    for line in views.sentences(answer, arm.label):
        console.print(line, highlight=False, soft_wrap=True)
    if options.out:
        with writing(Path(options.out), "give another --out; the answer is cached"):
            paths = views.write(answer, f"{point.model}, {arm.label}", Path(options.out))
        for written in paths:
            console.print(str(written), highlight=False, soft_wrap=True)
    if options.json:
        typer.echo(json.dumps(answer.to_json()))


def answered(options: AutobatchOptions, console: "Console") -> tuple["Point", "Arm", BatchAnswer]:
    """The point and arm that the options name, and the answer for them: the cached one, or that of a new search."""
    from nanobench.sweep import device_lock
    from nanobench.sweep.plan import describe_request, requested

    sweep = options.as_sweep()
    refuse_lists(sweep.axes)
    describe_request(sweep)
    device = device_lock.guess(options.device)
    config = SearchConfig(options.margin, options.total_batch or None, options.most, options.max_seconds)
    (point,), (arm,) = requested(sweep, device)
    path = searches.file_of(point, (arm,), config, options.memory_limit)
    answer = None if options.fresh else searches.cached(path)
    if answer is None:
        from nanobench.sweep.session import first_workers, make

        announce_worker(console)
        say = printer(console)
        with device_lock.hold(device, options.wait, say), first_workers(sweep) as executor:
            plan, description = make(sweep, executor, lambda description: lambda point, arms: 1)
            answer = searches.search(plan.points[0], (arm,), config, sweep, executor, description, listener(say))
        searches.keep(path, answer)
    return point, arm, answer


def listener(say: Callable[[str], None]) -> searches.Listener:
    """Prints the progress of a search, line by line."""
    from nanobench.views import autobatch as views

    def found(answer: BatchAnswer, arms: str) -> None:
        for line in views.sentences(answer, arms):
            say(line)

    return searches.Listener(searching=say, tried=lambda trial: say(views.line(trial)), found=found)


def refuse_lists(axes: "Axes") -> None:
    """Raises UserError where a list has several values."""
    several = sorted(field for field, values in axes.items() if len(values) > 1)
    if several:
        raise UserError(f"autobatch searches for one batch size at a time; give one value for {', '.join(several)}")

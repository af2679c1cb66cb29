"""The command that looks for a batch size, autobatch, and the same search for a sweep's --batch auto."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nanobench import errors
from nanobench.cli.app import command, make_console, printer
from nanobench.errors import UserError
from nanobench.sweep.autobatch import Listener, SearchConfig, file_of, search
from nanobench.sweep.options import MODES, AutobatchOptions
from nanobench.sweep.session import first_workers, make

if TYPE_CHECKING:
    from nanobench.schema import Arm, Point

Row = dict[str, Any]


@command(AutobatchOptions, "autobatch")
def autobatch(options: AutobatchOptions) -> None:
    """Find the largest batch that fits, and the one after which throughput stops growing; each is tried in a process."""
    from nanobench.sweep import device_lock, user_cache
    from nanobench.sweep import plan as planning
    from nanobench.views import autobatch as views

    config, asked, console = search_config(options), options.as_sweep(), make_console()
    say = printer(console)
    planning.describe_request(asked)
    device = device_lock.guess(options.device)
    point, arm = the_only(*planning.requested(asked, device))
    path = file_of(point, (arm,), config, options.memory_limit)
    found = None if options.fresh else user_cache.read(path)
    if found is None:
        with device_lock.hold(device, options.wait, say), first_workers(asked) as executor:
            plan, description = make(asked, executor, lambda description: lambda point, arms: 1)
            found = search(plan.points[0], (arm,), config, asked, executor, description, listener(say))
        user_cache.write(path, found)
    else:
        found = {**found, "cached": True}
    console.print(views.table(found))
    for line in views.sentences(found, arm.label):
        console.print(line, highlight=False, soft_wrap=True)
    if options.out:
        for written in views.write(found, f"{point.model}, {arm.label}", Path(options.out)):
            console.print(str(written), highlight=False, soft_wrap=True)
    if options.json:
        typer.echo(json.dumps(found))


def listener(say: Callable[[str], None]) -> Listener:
    """Prints what a search tells, line by line."""
    from nanobench.views import autobatch as views

    def found(answer: Row, arms: str) -> None:
        for line in views.sentences(answer, arms):
            say(line)

    return Listener(searching=say, tried=lambda each: say(views.line(each)), found=found)


def search_config(options: AutobatchOptions) -> "SearchConfig":
    """What is looked for. Raises UserError where a number cannot be meant."""
    if options.mode not in MODES:
        raise errors.unknown("mode", options.mode, MODES)
    if not 0 < options.margin <= 1:
        raise UserError(f"--margin {options.margin:g} is not above 0 and at most 1; give a share, like 0.85")
    if options.most < 1:
        raise UserError(f"--most {options.most} is below 1; give the largest batch to try, like 4096")
    if options.total_batch < 0:
        raise UserError(f"--total-batch {options.total_batch} is below 0; give rows of an optimizer step, like 512, or 0")
    if options.max_seconds <= 0:
        raise UserError(f"--max-seconds {options.max_seconds:g} is not above 0; give seconds, like 600")
    return SearchConfig(options.margin, options.total_batch or None, options.most, options.max_seconds)


def the_only(points: list["Point"], arms: tuple["Arm", ...]) -> tuple["Point", "Arm"]:
    """The one point and arm. Raises UserError where a list asks for several."""
    if len(points) > 1 or len(arms) > 1:
        nouns = ([vars(point) for point in points], [vars(arm) for arm in arms])
        several = sorted(
            {name for config_class in nouns for name in config_class[0] if len({each[name] for each in config_class}) > 1}
        )
        raise UserError(f"autobatch looks for one batch size at a time; give one value for {', '.join(several)}")
    return points[0], arms[0]

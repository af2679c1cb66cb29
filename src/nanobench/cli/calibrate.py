"""The command that measures the limits of this machine: calibrate."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.schema import option
from nanobench.sweep.options import MEASURING, WHAT, Options, SweepOptions, TimedOptions, listed, same
from nanobench.views.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.records import JsonObject
    from nanobench.sweep.calibration import Setting
    from nanobench.sweep.executors.base import Executor


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What calibrate accepts."""

    device: str = same(Options, "device")
    dtype: str = listed("auto", "dtypes; auto: the one that a sweep would use", WHAT)
    threads: str = listed("auto", "CPU thread counts; auto: every core that the process may use", WHAT)
    fresh: bool = option(False, "ignore the stored calibration and measure again", MEASURING)
    wait: bool = same(TimedOptions, "wait")
    json: bool = same(Options, "json")


@command(CalibrateOptions, "calibrate", config=False)
def calibrate(options: CalibrateOptions) -> None:
    """Measure attainable memory bandwidth, matmul and attention throughput and dispatch overhead (predictions use them)."""
    from nanobench.sweep import calibration, device_lock
    from nanobench.sweep.executors import local
    from nanobench.sweep.session import make

    console = make_console()
    device, dtype, threads = options.device, options.dtype, options.threads
    sweep = SweepOptions(device=device, dtype=dtype, threads=threads, batch="1", engine="cached", launches=1)
    sweep.validate()
    announce_worker(console)
    with (
        device_lock.hold(device_lock.guess(options.device), options.wait, printer(console)),
        tempfile.TemporaryDirectory(prefix="nanobench-") as scratch,
    ):
        plan, description = make(sweep)
        identity = description.identity["hash"]
        executor = local.build("spawn", sweep.seed, Path(scratch))
        documents = [
            measured(executor, identity, each, Path(scratch), options.fresh, console)
            for each in calibration.settings(plan.points)
        ]
    if options.json:
        typer.echo(json.dumps({"identity": identity, "calibrations": documents}))


def measured(
    executor: "Executor", identity: str, setting: "Setting", scratch: Path, fresh: bool, console: "Console"
) -> "JsonObject":
    """Measures or reads the calibration of one setting, prints it and returns its JSON document."""
    from nanobench.sweep import calibration
    from nanobench.views import calibration as views

    before = None if fresh else calibration.kept(identity, setting)
    found = calibration.full(executor, identity, setting, scratch, fresh)
    limits = found.limits
    console.print(f"{setting.name} threads, measured {found.measured_at}", style="bold", highlight=False)
    console.print(views.figures(limits), views.over_rows(limits))
    for line in views.unresolved(limits):
        say(console, line)
    if before is not None:
        now = calibration.measured(executor, setting, scratch, brief=True).limits
        say(console, views.moved(limits, now) + "; measure again with --fresh")
    if reason := calibration.why_not_kept(found):
        say(console, f"not stored: {reason}; see nanobench env, and measure again on an idle machine")
    elif calibration.kept(identity, setting) is None:
        file = calibration.file_of(identity, setting)
        say(console, f"not stored: {file} cannot be written; set another folder in NANOBENCH_CACHE")
    else:
        say(console, f"stored in {calibration.file_of(identity, setting)}")
    return views.as_document(found, setting.name)

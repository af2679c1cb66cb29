"""What comes before every measurement: holding the device, asking a worker what is here, and planning."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.options import Options

if TYPE_CHECKING:
    from nanobench.plan import FindBatch, Plan

Row = dict[str, Any]


@contextmanager
def held(device: str, wait: bool, console: Any) -> Iterator[None]:
    """Holds a device before anything is started on it. Ctrl-C ends a wait with 130."""
    from nanobench import lock

    with lock.hold(device, wait, lambda text: console.print(text, highlight=False, soft_wrap=True)):
        yield


def make(options: Options, finder: "Callable[[Row], FindBatch] | None" = None) -> tuple["Plan", Row]:
    """Asks a worker what this machine and the models are, and plans; `finder` makes of that who tells automatic batch sizes."""
    from nanobench import plan as planning
    from nanobench import runner
    from nanobench.executors import local

    question = planning.question(options)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        executor = local.build("spawn", options.seed, Path(folder))
        description = runner.describe(executor, question, Path(folder))
    return planning.make_plan(options, description, finder(description) if finder else planning.nowhere), description

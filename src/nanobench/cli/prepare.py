"""What comes before every measurement: holding the device, asking a worker what is here, and planning."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.options import Options

if TYPE_CHECKING:
    from nanobench.executors.base import Executor
    from nanobench.plan import FindBatch, Plan

Row = dict[str, Any]


@contextmanager
def held(device: str, wait: bool, console: Any) -> Iterator[None]:
    """Holds a device before anything is started on it. Ctrl-C ends a wait with 130."""
    from nanobench import lock

    with lock.hold(device, wait, lambda text: console.print(text, highlight=False, soft_wrap=True)):
        yield


def workers(isolation: str, seed: int, launch: int, folder: Path) -> "Executor":
    """The workers of one round of the run in a folder: each round has a hash seed and an address layout of its own."""
    from nanobench.executors import local
    from nanobench.store import Run

    return local.build(isolation, 1000 * seed + launch, Run(folder).scratch / "inductor")


@contextmanager
def first_workers(options: Options, folder: Path | None = None) -> Iterator["Executor"]:
    """Those of the first round, which can say before it what is here: so torch is loaded once for both. Without a folder what
    they compile is forgotten.
    """
    with tempfile.TemporaryDirectory(prefix="nanobench-") as own:
        executor = workers(options.isolation, options.seed, 1, folder or Path(own))
        try:
            yield executor
        finally:
            executor.close()


def make(
    options: Options, executor: "Executor | None" = None, finder: "Callable[[Row], FindBatch] | None" = None
) -> tuple["Plan", Row]:
    """Asks a worker what this machine and the models are, and plans; `finder` makes of that who tells automatic batch sizes."""
    from nanobench import plan as planning
    from nanobench import runner
    from nanobench.executors import local

    question = planning.question(options)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        asked = executor or local.build("spawn", options.seed, Path(folder))
        description = runner.describe(asked, question, Path(folder))
    return planning.make_plan(options, description, finder(description) if finder else planning.nowhere), description

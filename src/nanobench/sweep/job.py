"""A whole sweep, for the command line and for Python: the device held, the plan, the run's folder, the measurement."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from nanobench.errors import UserError
from nanobench.records import Description
from nanobench.results import out_folder
from nanobench.results.derive import CellRow
from nanobench.results.store import Run
from nanobench.schema import Plan
from nanobench.sweep import autobatch
from nanobench.sweep.autobatch import Listener, ignore
from nanobench.sweep.objects import NO_FILES, Files
from nanobench.sweep.options import TimedOptions
from nanobench.sweep.progress import Watch
from nanobench.sweep.session import first_workers, make, measure, new_run, reopen
from nanobench.sweep.site import held


@contextmanager
def unwatched(run: Run, plan: Plan) -> Iterator[Watch]:
    """Nobody watches the measurement."""
    yield ignore


@dataclass(frozen=True)
class Audience:
    """Who is informed of a sweep. Whatever is shown is shown while no repetition runs."""

    waiting: Callable[[str], None] = ignore
    """another process holds the device: a line that names it"""
    planned: Callable[[Plan, Description], None] = ignore
    """the plan is made, and nothing is written yet"""
    measuring: Callable[[Run, Plan], AbstractContextManager[Watch]] = unwatched
    """a context around the measurement; what it gives is called at every report of a worker and after every trial"""
    search: Listener = Listener()


SILENT = Audience()


class Measured(NamedTuple):
    """A finished sweep."""

    run: Run
    cells: list[CellRow]


def run_sweep(options: TimedOptions, command: str, audience: Audience = SILENT, files: Files = NO_FILES) -> Measured:
    """Plans and measures a run, or continues the one that `options.resume` names.

    `files` are those of models that Python holds in memory. Raises UserError for what is wrong with the request. Whatever
    interrupts it, the finished trials are on disk.
    """
    folder = out_folder.folder_at(options.resume) if options.resume else out_folder.choose(options.out, command)
    with held(options, audience.waiting) as where, first_workers(options, folder, files, where) as first:
        if files and not where.is_here:
            raise UserError(
                f"executor {where.executor!r} cannot run a model in memory; give its build function, or a checkpoint"
            )
        if options.resume:
            run, plan, description = reopen(options, command, files, where)
        else:
            plan, description = make(options, first, autobatch.finder(options, audience.search, files, where))
        audience.planned(plan, description)
        if not options.resume:
            run = new_run(folder, command, options, plan, description)
        with audience.measuring(run, plan) as watch:
            first_of_new = None if options.resume else first
            cells = measure(run, plan, description, watch, first_of_new, files, where=where)
    return Measured(run, cells)

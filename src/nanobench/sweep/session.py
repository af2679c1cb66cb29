"""A sweep from the request to the cells: asking a worker for the machine, planning, reopening, measuring."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nanobench import errors
from nanobench.errors import UserError
from nanobench.records import Description, JsonObject
from nanobench.results import request, store
from nanobench.results.derive import CellRow
from nanobench.results.run_info import UNCOMPARED, RunInfo, finished_event, time_event
from nanobench.results.store import Run
from nanobench.schema import PROTOCOL, Plan
from nanobench.sweep import device_lock, site, stopped
from nanobench.sweep import plan as planning
from nanobench.sweep.code import SameCode, code_of, refuse_resume
from nanobench.sweep.executors import local
from nanobench.sweep.executors.base import Executor
from nanobench.sweep.machine import SameMachine
from nanobench.sweep.objects import NO_FILES, Files, shipping
from nanobench.sweep.options import Options, TimedOptions, changed_options
from nanobench.sweep.plan import FindBatch
from nanobench.sweep.progress import Progress, Watch
from nanobench.sweep.runner import Sweep
from nanobench.sweep.site import HERE, Site


def describe(executor: Executor, request: JsonObject, folder: Path) -> Description:
    """Asks a worker what the plan needs to know. Raises UserError where the worker says so or dies."""
    log = folder / "describe.log"
    result = executor.run({"describe": request}, folder / "describe", log, timeout_s=600.0, progress=lambda report: None)
    if result.record is None:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        more = [line for line in tail if line != result.reason]
        raise UserError(" ".join(["the models cannot be described:", str(result.reason), *more]))
    if "user_error" in result.record:
        raise UserError(result.record["user_error"])
    return Description.from_json(result.record)


def describe_machine(device: str) -> Description:
    """Identity and state of the machine, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        request = {"device": device, "models": {"cpu": [], "cuda": []}}
        return describe(local.build("spawn", 0, Path(folder)), request, Path(folder))


def new_run(folder: Path, command: str, options: Any, plan: Plan, description: Description) -> Run:
    """Makes the folder of a sweep that begins now."""
    info = RunInfo(command=command, requested=changed_options(options), plan=plan, description=description, started_at=now())
    return store.create(folder, info)


def now() -> str:
    """The local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def workers(isolation: str, seed: int, folder: Path, files: Files = NO_FILES, where: Site = HERE) -> Executor:
    """The workers of the run in a folder. They get the `files` of models that Python holds in memory."""
    return shipping(site.build(where, isolation, 1000 * seed, Run(folder).scratch / "inductor"), files)


@contextmanager
def first_workers(
    options: Options, folder: Path | None = None, files: Files = NO_FILES, where: Site = HERE
) -> Iterator[Executor]:
    """The workers of a run, which can describe the machine before its first round: torch is loaded once for both.

    Without a folder their compiler cache is dropped at the end.
    """
    with nullcontext(folder) if folder else site.temporary(where) as own:
        executor = workers(options.isolation, options.seed, Path(own), files, where)
        try:
            yield executor
        finally:
            executor.close()


@contextmanager
def held_worker(options: Options, wait: bool, say: Callable[[str], None]) -> Iterator[tuple[Executor, Path]]:
    """Holds the device, and starts a worker for single requests. Gives it with a folder that is dropped at the end."""
    with (
        device_lock.hold(device_lock.guess(options.device), wait, say),
        tempfile.TemporaryDirectory(prefix="nanobench-") as folder,
        first_workers(options, Path(folder)) as workers,
    ):
        yield workers, Path(folder)


def make(
    options: Options, executor: Executor | None = None, finder: "Callable[[Description], FindBatch] | None" = None
) -> tuple[Plan, Description]:
    """Asks a worker for the machine and the models, and makes the plan; `finder` gives the search for automatic batch sizes."""
    request = planning.describe_request(options)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        description = describe(executor, request, Path(folder)) if executor else describe_at(site.site_of(options), request)
    points, arms = planning.requested(options, description.device, planning.cores_of(options, description))
    description = replace(description, code=code_of(points, arms, commits=True))
    find = finder(description) if finder else planning.no_batch_search
    return planning.make_plan(options, description, find), description


def describe_at(where: Site, request: JsonObject, files: Files = NO_FILES) -> Description:
    """What a worker at a site says, with nothing held. Raises UserError where it says so or dies."""
    with site.temporary(where) as folder:
        executor = shipping(site.build(where, "spawn", 0, Path(folder) / "scratch" / "inductor"), files)
        try:
            return describe(executor, request, Path(folder))
        finally:
            executor.close()


def reopen(
    options: TimedOptions, command: str, files: Files = NO_FILES, where: Site | None = None
) -> tuple[Run, Plan, Description]:
    """The run that --resume names, with its own plan; `where` is its site, if that is held already.

    Raises UserError where options, source code or machine contradict it.
    """
    run = store.run_at(options.resume) if options.dry_run else store.resumed(options.resume)
    info = run.info()
    if info.command != command:
        again = request.resumed(info.command, run.place)
        raise UserError(f"{run.place} is a run of {info.command}{again and ': ' + again}")
    if info.protocol != PROTOCOL:
        measured = f"was measured by protocol {info.protocol}, and this version of nanobench measures by protocol {PROTOCOL}"
        raise UserError(f"--resume {run.place} {measured}; start a new run with --out")
    refuse_other_options(run, info, options)
    refuse_resume(run.place, info.description.code, code_of(info.plan.points, info.plan.arms))
    refuse_other_machine(run, info, files, where or site.site_of(options))
    return run, info.plan, info.description


def refuse_other_options(run: Run, info: RunInfo, options: TimedOptions) -> None:
    """Raises UserError where an option contradicts those that a run began with."""
    asked = {name: value for name, value in changed_options(options).items() if name == "out" or name not in request.OF_ONE_RUN}
    other = [name for name, value in asked.items() if info.requested.get(name) != value]
    if other:
        flags = ", ".join("--" + name.replace("_", "-") for name in other)
        raise UserError(f"--resume {run.place} keeps its own plan; drop {flags}, or start a new run with --out")


def refuse_other_machine(run: Run, info: RunInfo, files: Files = NO_FILES, where: Site = HERE) -> None:
    """Raises UserError where the machine, the software or a model is not the one that a run was begun with."""
    description = info.description
    models = {description.device.partition(":")[0]: list(description.models)}
    found = describe_at(where, {"device": description.device, "models": models}, files)
    was, here = ({**each.identity, "models": each.models} for each in (description, found))
    changed = [
        f"{name} was {was.get(name)}, is {here[name]}"
        for name in here
        if name not in UNCOMPARED and was.get(name) != here[name]
    ]
    if changed:
        raise UserError(f"--resume {run.place} was measured elsewhere: {'; '.join(changed)}; start a new run with --out")


def measure(
    run: Run,
    plan: Plan,
    description: Description,
    watch: Watch = lambda progress: None,
    first: Executor | None = None,
    files: Files = NO_FILES,
    kind: Callable[..., Sweep] = Sweep,
    where: Site = HERE,
) -> list[CellRow]:
    """Runs what is missing of the plan and keeps the journal up to date. Returns the cells.

    `watch` is called at every report of a worker and after every trial; what it raises ends the sweep. `first` are the workers,
    if they were started already; `files` are those of models that Python holds in memory; `kind` is what
    decides which trials there are; `where` is the site of the workers. Raises UserError where the source code changes
    meanwhile, or a file cannot be written.
    """

    def make_executor() -> Executor:
        made = first or workers(plan.isolation, plan.seed, run.folder, files, where)
        alike = SameMachine(made, description.identity)
        continues = run.info().command in request.SWEEPS
        return SameCode(alike, description.code, lambda: code_of(plan.points, plan.arms), run.place, continues)

    with stopping(run, plan):
        return finish(kind(run, plan, description, make_executor, keeping_time(run, watch)))


@contextmanager
def stopping(run: Run, plan: Plan) -> Iterator[None]:
    """Turns a file that cannot be written, here or at the URI of the run, into a UserError that says what is kept."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"the sweep stopped: {errors.cause(error)}; {stopped.what_is_left(run, plan, error)}") from error


def keeping_time(run: Run, watch: Watch) -> Watch:
    """A `watch` that also keeps the seconds of measuring in the run's journal, after each trial."""
    last = time.monotonic()

    def watched(progress: Progress) -> None:
        nonlocal last
        watch(progress)
        if progress.report is None:
            run.append(time_event(time.monotonic() - last))
            last = time.monotonic()

    return watched


def finish(sweep: Sweep) -> list[CellRow]:
    """Runs what is missing of a sweep and closes its folder. Returns the cells."""
    cells = sweep.measure()
    sweep.run.clear_scratch()
    sweep.run.append(finished_event(now()))
    # Once more: the stored cells name the state of all other files of the run.
    cells = sweep.run.write_cells(cells)
    sweep.run.settle()
    return cells

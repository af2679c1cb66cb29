"""What comes before every measurement: holding the device, asking a worker what is here, and planning."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.errors import UserError
from nanobench.schema import PROTOCOL
from nanobench.sweep.executors.base import Executor
from nanobench.sweep.options import Options, TimedOptions, as_asked
from nanobench.sweep.plan import Plan

if TYPE_CHECKING:
    from nanobench.results.store import Run
    from nanobench.sweep.plan import FindBatch
    from nanobench.sweep.runner import Progress

Row = dict[str, Any]


def describe(executor: Executor, question: Row, folder: Path) -> Row:
    """Asks a worker what the plan needs to know. Raises UserError where the worker says so or dies."""
    log = folder / "describe.log"
    result = executor.run({"describe": question}, folder / "describe", log, timeout_s=600.0, progress=lambda report: None)
    if result.record is None:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        raise UserError(f"the models cannot be described: {result.reason} {' '.join(tail)}".strip())
    if "user_error" in result.record:
        raise UserError(result.record["user_error"])
    return result.record


def about_new(command: str, asked: dict[str, Any], plan: Plan, description: dict[str, Any]) -> dict[str, Any]:
    """run.json of a sweep that begins."""
    return {
        "protocol": PROTOCOL,
        "command": command,
        "asked": asked,
        "started_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "finished_at": None,
        "wall_s": 0.0,
        "seed": plan.seed,
        "plan": asdict(plan),
        **description,
    }


def describe_machine(device: str) -> Row:
    """Identity and state of the machine, from a process of its own."""
    from nanobench.sweep.executors import local

    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        question = {"device": device, "models": {"cpu": [], "cuda": []}}
        return describe(local.build("spawn", 0, Path(folder)), question, Path(folder))


def workers(isolation: str, seed: int, launch: int, folder: Path) -> "Executor":
    """The workers of one round of the run in a folder: each round has a hash seed and an address layout of its own."""
    from nanobench.results.store import Run
    from nanobench.sweep.executors import local

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
    from nanobench.sweep import plan as planning
    from nanobench.sweep.executors import local

    question = planning.describe_request(options)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        asked = executor or local.build("spawn", options.seed, Path(folder))
        description = describe(asked, question, Path(folder))
    return planning.make_plan(options, description, finder(description) if finder else planning.no_batch_search), description


def device_of(options: TimedOptions) -> str:
    """The device to hold, told without torch. Raises UserError for options that no device could serve."""
    from nanobench.results.store import Run
    from nanobench.sweep import device_lock
    from nanobench.sweep import plan as planning

    planning.describe_request(options)
    return Run(Path(options.resume)).read_about()["device"] if options.resume else device_lock.guess(options.device)


def reopen(options: TimedOptions, name: str) -> tuple["Run", "Plan", Row]:
    """The run that --resume names, with its own plan. Raises UserError where other options or another machine contradict it."""
    from nanobench.results.store import Run
    from nanobench.sweep.executors import local
    from nanobench.sweep.plan import Plan

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
        description = describe(local.build("spawn", plan.seed, Path(folder)), question, Path(folder))
    was, now = ({**each["identity"], "models": each["models"]} for each in (about, description))
    changed = [f"{name} was {was.get(name)}, is {now[name]}" for name in now if name != "hash" and was.get(name) != now[name]]
    if changed:
        raise UserError(f"--resume {run.folder} was measured elsewhere: {'; '.join(changed)}; start a new run with --out")
    return run, plan, about


def expected_total_s(plan: "Plan", description: Row) -> float:
    """About how long the whole sweep takes: an import per round, and every launch of every point."""
    from nanobench.sweep.estimate import expected_s

    launches = range(1, plan.launches + 1)
    return sum(3.0 + sum(expected_s(plan, point, launch, description) for point in plan.points) for launch in launches)


def measure(
    run: "Run",
    plan: "Plan",
    description: Row,
    watch: "Callable[[Progress], None]" = lambda progress: None,
    first: "Executor | None" = None,
) -> list[Row]:
    """Runs what is missing of the plan and keeps run.json up to date. Returns the cells.

    `watch` is called at every report of a worker and after every trial; what it raises ends the sweep. `first` are the workers
    of the first round, if they were started already.
    """
    from nanobench.sweep.runner import Sweep

    start, before_s = time.monotonic(), run.read_about()["wall_s"]

    def make_executor(launch: int) -> "Executor":
        return first if first and launch == 1 else workers(plan.isolation, plan.seed, launch, run.folder)

    def keep_time(progress: "Progress") -> None:
        watch(progress)
        if progress.report is None:
            run.write_about({**run.read_about(), "wall_s": before_s + time.monotonic() - start})

    cells = Sweep(run, plan, description, make_executor, keep_time).measure()
    run.clear_scratch()
    run.write_about({**run.read_about(), "finished_at": datetime.now().astimezone().isoformat(timespec="seconds")})
    return cells

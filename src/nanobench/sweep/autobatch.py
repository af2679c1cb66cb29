"""Batch sizes tried on this machine, each in its own process, and answers kept between runs.

A trial takes full steps, or calls, of the arms as they will be measured: compiled, with the optimizer, in turns. Running out of
memory ends a trial. Any other error ends the search.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nanobench import source_code
from nanobench.errors import UserError
from nanobench.records import Description, Status
from nanobench.results import user_cache
from nanobench.schema import PROTOCOL, Arm, Point, Trial
from nanobench.sweep import device_lock
from nanobench.sweep.autobatch_options import AutobatchOptions
from nanobench.sweep.batch_search import BatchAnswer, BatchTrial, Search, SearchConfig
from nanobench.sweep.code import code_of
from nanobench.sweep.executors.base import Executor
from nanobench.sweep.objects import NO_FILES, Files
from nanobench.sweep.options import Options
from nanobench.sweep.values import read_memory_limit

if TYPE_CHECKING:
    from nanobench.sweep.axes import Axes
    from nanobench.sweep.plan import FindBatch
    from nanobench.sweep.site import Site


def ignore(*_: object) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Listener:
    """Who is informed of the progress of a search."""

    starting: Callable[[], None] = ignore
    """a worker is started, which takes some seconds"""
    waiting: Callable[[str], None] = ignore
    """another process holds the device: a line that names it"""
    searching: Callable[[str], None] = ignore
    """a search begins: a line that names the model and the arms"""
    tried: Callable[[BatchTrial], None] = ignore
    found: Callable[[BatchAnswer, str], None] = ignore
    """the answer, and the labels of the arms"""


UNHEARD = Listener()


@dataclass(frozen=True)
class Found:
    """What was searched for, and the answer."""

    point: Point
    arm: Arm
    answer: BatchAnswer


def find(options: AutobatchOptions, listener: Listener = UNHEARD, files: Files = NO_FILES) -> Found:
    """The batch size of the point and arm that the options name: the cached answer, or that of a search on the device.

    `files` are those of models that Python holds in memory. Raises UserError for what is wrong with the request.
    """
    from nanobench.sweep.plan import describe_request, requested

    sweep = options.as_sweep()
    refuse_lists(sweep.axes)
    describe_request(sweep)
    device = device_lock.guess(options.device)
    config = SearchConfig(options.margin, options.total_batch or None, options.most, options.max_seconds)
    (point,), (arm,) = requested(sweep, device)
    path = file_of(point, (arm,), config, options.memory_limit)
    answer = None if options.fresh else cached(path)
    if answer is None:
        from nanobench.sweep.session import first_workers, make

        listener.starting()
        devices = device_lock.devices_of_ranks(device, point.world_size)
        with device_lock.hold_all(devices, options.wait, listener.waiting), first_workers(sweep, files=files) as executor:
            plan, description = make(sweep, executor, lambda description: lambda point, arms: 1)
            answer = search(plan.points[0], (arm,), config, sweep, executor, description, listener)
        keep(path, answer)
    return Found(point, arm, answer)


def refuse_lists(axes: "Axes") -> None:
    """Raises UserError where a list has several values."""
    several = sorted(field for field, values in axes.items() if len(values) > 1)
    if several:
        raise UserError(f"autobatch searches for one batch size at a time; give one value for {', '.join(several)}")


def search(
    point: Point,
    arms: tuple[Arm, ...],
    config: SearchConfig,
    options: Options,
    executor: Executor,
    description: Description,
    listener: Listener,
) -> BatchAnswer:
    """Tries batch sizes of some arms at a point, each in its own process."""
    available = description.available_bytes if point.device == "cpu" else None
    limit = read_memory_limit(options.memory_limit, available)
    trial = Trial(point=point, arms=arms, launch=1, seed=options.seed, target_ci=1.0, max_seconds=1.0, memory_limit_bytes=limit)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        measure = run_trial_in(executor, trial, Path(folder), options.timeout)
        answer = Search(measure, config, point.world_size, listener.tried, limit).run()
    return replace(answer, memory_limit_bytes=limit)


def run_trial_in(executor: Executor, trial: Trial, folder: Path, timeout_s: float) -> Callable[[int], BatchTrial]:
    """Tries a batch size of a trial's point in its own process. Raises UserError for any error except running out of memory."""

    def measure(batch_size: int) -> BatchTrial:
        # The longest conversation fills its row: padding to the longest may need as much memory as padding in full.
        phase = trial.point.phase.replace("sft-dynamic", "sft-padded")
        sized = replace(trial, point=replace(trial.point, batch_size=batch_size, phase=phase))
        log = folder / "autobatch.log"
        result = executor.run(
            {"batch_trial": asdict(sized)}, folder / f"batch-{batch_size}", log, timeout_s, lambda report: None
        )
        if result.record is None:
            # A worker that the kernel's out-of-memory killer ends can leave no record.
            if result.killed or result.status is Status.OOM:
                return BatchTrial(batch_size, None, reason=result.reason)
            raise UserError(f"batch {batch_size}: {result.reason}")
        found = result.record
        if found["status"] == Status.OK:
            return BatchTrial(batch_size, found["tok_s"], found["peak_bytes"])
        if found["status"] == Status.OOM:
            return BatchTrial(batch_size, None, reason=found["reason"])
        raise UserError(f"batch {batch_size}: {found['reason']}")

    return measure


def cached(path: Path) -> BatchAnswer | None:
    """The answer that an earlier search kept; None where there is none."""
    document = user_cache.read(path)
    return None if document is None else replace(BatchAnswer.from_json(document), cached=True)


def keep(path: Path, answer: BatchAnswer) -> None:
    """Keeps an answer for later runs."""
    user_cache.write(path, answer.to_json())


def file_of(point: Point, arms: tuple[Arm, ...], config: SearchConfig, limit: str) -> Path:
    """The file of an answer, by everything that decides it: point, arms, search, memory, source code and versions."""
    fields = {name: value for name, value in asdict(point).items() if name != "batch_size"}
    facts = {"point": fields, "arms": [asdict(arm) for arm in arms], "wish": asdict(config), "limit": limit}
    code = source_code.files_of(code_of([point], arms))
    known = {**facts, "code": code, "machine": machine_of(point.device)}
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return user_cache.folder() / f"autobatch-{PROTOCOL}-{name}.json"


def machine_of(device: str) -> dict[str, object]:
    """Memory and versions, read without torch."""
    facts: dict[str, object] = {
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cores": os.cpu_count(),
    }
    return facts if device == "cpu" else {**facts, "gpu": device_lock.gpu_of(device)}


def finder(
    options: Options, listener: Listener, files: Files = NO_FILES, where: "Site | None" = None
) -> "Callable[[Description], FindBatch]":
    """For --batch auto: finds the batch size at which all arms of a point fit together, because they are measured in turns.

    `where` is the site of the workers, by default this machine. Answers of other machines are not cached.
    """
    from nanobench.sweep.session import first_workers
    from nanobench.sweep.site import HERE

    here = (where or HERE).is_here

    def of(description: Description) -> "FindBatch":
        def find(point: Point, arms: tuple[Arm, ...]) -> int:
            config = SearchConfig(max_seconds=SearchConfig.max_seconds * len(arms))
            path = file_of(point, arms, config, options.memory_limit)
            answer = cached(path) if here else None
            if answer is None:
                labels = ", ".join(arm.label for arm in arms)
                listener.searching(f"searching for the batch size of {point.model}, {labels}")
                # Not the sweep's workers: the sweep's cold start must not find what these compiled.
                with first_workers(options, files=files, where=where or HERE) as own:
                    answer = search(replace(point, batch_size=1), arms, config, options, own, description, listener)
                if here:
                    keep(path, answer)
                listener.found(answer, labels)
            return answer.batch_size

        return find

    return of

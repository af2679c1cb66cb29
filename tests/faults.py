"""Every fault at every stage of a sweep, each in a process of its own; prints what came of each as a line of JSON.

    python tests/faults.py DIR [STAGE ...]    (all stages)

A stage is the control process at one of its files, or a worker. A fault is injected once; then the sweep is resumed without it.
"""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import scripted_sweep
from nanobench.results import finder, store
from nanobench.results.store import Run
from nanobench.schema import Trial
from nanobench.sweep.executors.base import WorkerResult, result
from scripted_sweep import Script, forked

FAULTS = ("kill before", "kill within", "kill after", "hang", "fill", "corrupt", "delay")
STAGES: dict[str, tuple[Any, str, int, Callable[[Path], Path]]] = {
    "run.json": (store, "write_atomically", 1, lambda run: run / "run.json"),
    "raw file": (Run, "write_raw", 2, lambda run: max((run / "raw").glob("*.parquet"), key=written_at)),
    "journal": (Run, "append", 3, lambda run: run / "journal.jsonl"),
    "cells": (Run, "write_cells", 2, lambda run: run / "cells.parquet"),
    "end": (Run, "clear_scratch", 1, lambda run: run / "cells.arrow"),
}
"""Stage -> a function of the control process, which of its calls is hit, and the file that it wrote."""
WORKER = ("kill", "hang", "fill", "corrupt", "delay")
"""Faults of a worker."""
BATCHES, LAUNCHES = (1, 2), 2
HUNG_S = 60.0
PLAN = scripted_sweep.plan(BATCHES, LAUNCHES)


def written_at(path: Path) -> int:
    """When a file was written, in nanoseconds."""
    return path.stat().st_mtime_ns


def kill() -> None:
    """Ends this process as SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)


def inject(stage: str, fault: str, run: Path) -> None:
    """Lets one call of a stage meet a fault, in this process."""
    owner, name, at, file_of = STAGES[stage]
    original, calls = getattr(owner, name), count(1)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if next(calls) != at:
            return original(*arguments, **named)
        if fault == "kill before":
            kill()
        if fault == "kill within":
            # Files are written beside their place, and then renamed.
            os.replace = lambda *paths: kill()
        if fault == "hang":
            (run.parent / f"{run.name}.hangs").touch()
            time.sleep(HUNG_S)
        if fault == "fill":
            raise OSError(errno.ENOSPC, "No space left on device", str(run))
        if fault == "delay":
            time.sleep(0.2)
        done = original(*arguments, **named)
        if (stage, fault) == ("journal", "kill within"):
            os.truncate(file_of(run), file_of(run).stat().st_size - 10)
        if fault == "corrupt":
            path = file_of(run)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if fault != "delay":
            kill()
        return done

    setattr(owner, name, faulty)


class Faulty(Script):
    """Its second trial meets a fault of the worker, which leaves the files that a real one would."""

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, count(1)

    def run(self, request: dict[str, Any], folder: Path, log: Path, timeout_s: float, progress: Any) -> WorkerResult:
        """See Executor.run."""
        if next(self.calls) != 2 or self.fault == "delay":
            time.sleep(0.05 * (self.fault == "delay"))
            return super().run(request, folder, log, timeout_s, progress)
        assert Trial.from_json(request["trial"]).arms == scripted_sweep.ARMS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "running").write_text("1")
        if self.fault == "fill":
            failure = {"status": "error", "reason": "OSError: [Errno 28] No space left on device"}
            (folder / "failure.json").write_text(json.dumps(failure))
        if self.fault == "corrupt":
            (folder / "record.json").write_text('{"arms": [{"arm"')
        codes = {"kill": -signal.SIGKILL, "hang": -signal.SIGKILL, "fill": 1, "corrupt": 0}
        return result(folder, log, codes[self.fault], "no answer within 60 s" if self.fault == "hang" else None)


def wait_for(path: Path) -> None:
    """Waits until a file is there. Raises TimeoutError."""
    deadline = time.monotonic() + HUNG_S / 2
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def ended(pid: int, hangs: Path | None = None) -> str:
    """How a process ended; one that hangs is killed, once the file says so."""
    if hangs:
        wait_for(hangs)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def begin(stage: str, fault: str, run: Path) -> None:
    """The sweep that meets a fault."""
    inject(stage, fault, run)
    scripted_sweep.sweep(run, PLAN)


def look(run: Path) -> None:
    """What another process sees of a sweep that hangs: raises where a trial is there in part."""
    counts = [len(launches) for launches in by_trial(run).values()]
    assert all(each == len(scripted_sweep.ARMS) for each in counts), counts
    if counts:
        finder.load(run)


def by_trial(run: Path) -> dict[tuple[int, int], list[Any]]:
    """Batch size and launch -> the arms that are stored."""
    found: dict[tuple[int, int], list[Any]] = {}
    for each in Run(run).read_raw():
        found.setdefault((each.point.batch_size, each.launch), []).append(each.arm_index)
    return found


def at_file(stage: str, fault: str, folder: Path) -> dict[str, Any]:
    """A fault of the control process."""
    run, errors = folder / f"{stage}-{fault}".replace(" ", "-"), folder / "errors"
    pid, hangs = forked(partial(begin, stage, fault, run), errors), run.parent / f"{run.name}.hangs"
    found: dict[str, Any] = {"stage": stage, "fault": fault}
    if fault == "hang":
        wait_for(hangs)
        found["seen"] = ended(forked(partial(look, run), folder / "seen"))
    found["ended"] = ended(pid, hangs if fault == "hang" else None)
    found["said"] = errors.read_text().splitlines()
    found["resumed"] = ended(forked(partial(scripted_sweep.sweep, run, PLAN), errors))
    found["resume_said"] = errors.read_text().splitlines()
    found["whole"] = ended(forked(partial(scripted_sweep.refuse_damage, run, PLAN, folder / "unbroken"), errors))
    found["damage"] = errors.read_text().splitlines()
    return found


def rows(run: Path, file: Path) -> None:
    """Writes how each arm of each trial ended."""
    found = [(e.point.batch_size, e.launch, e.arm_index, str(e.outcome.status), e.outcome.reason) for e in Run(run).read_raw()]
    file.write_text(json.dumps(found))


def at_worker(fault: str, folder: Path) -> dict[str, Any]:
    """A fault of a worker."""
    run, errors = folder / f"worker-{fault}", folder / "errors"
    code = ended(forked(partial(scripted_sweep.sweep, run, PLAN, lambda: Faulty(fault)), errors))
    found = {"stage": "worker", "fault": fault, "ended": code, "said": errors.read_text().splitlines()}
    ended(forked(partial(rows, run, folder / "rows"), errors))
    return {**found, "rows": json.loads((folder / "rows").read_text())}


def main() -> None:
    """Prints a line per fault and stage."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    assert ended(forked(partial(scripted_sweep.sweep, folder / "unbroken", PLAN))) == "exit code 0"
    for stage in sys.argv[2:] or (*STAGES, "worker"):
        for fault in WORKER if stage == "worker" else FAULTS:
            found = at_worker(fault, folder) if stage == "worker" else at_file(stage, fault, folder)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""A sweep that cannot go on because a file cannot be written: what is kept, how much room it needs, and how it continues."""

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from nanobench.results import request
from nanobench.results.store import Run
from nanobench.schema import Plan

FULL = (errno.ENOSPC, errno.EDQUOT)
"""No space on the disk, or none left of the user's share."""
ROOM_BYTES = 1 << 20
"""Where a worker failed and not even so much can be written, the disk failed and not the worker."""
MIB = 1 << 20


def refuse_full(folder: Path) -> None:
    """Raises OSError where a folder has no room for even one more file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM_BYTES))


def what_is_left(run: Run, plan: Plan, error: OSError) -> str:
    """What is kept of a sweep that an error stopped, and what to do."""
    command = run.info().command
    room = need(run, plan) if error.errno in FULL else ""
    if run.mirror is not None:
        again = request.resumed(command, run.place)
        return "; ".join(filter(None, [published(run), room, again and f"continue on this machine with: {again}"]))
    kept, again = f"finished trials are kept in {run.folder}", request.resumed(command, str(run.folder))
    if not again:
        return f"{kept}{room and f': {room}'}"
    return f"{kept}: {room or 'solve the problem'}, and continue with: {again}"


def need(run: Run, plan: Plan) -> str:
    """How much room the trials that are left will take, by those that are finished; makes the room of what is not kept."""
    trials, planned = len(list(run.raw.glob("*.parquet"))), plan.launches * len(plan.points)
    scratch = size_of(run.scratch)
    run.clear_scratch()
    if not trials:
        return "no trial is finished, so it is not known how much is needed; make room"
    left = max(1, planned - trials)
    needed = left * size_of(run.folder) / trials + scratch
    free = shutil.disk_usage(run.folder).free
    return f"make room, about {in_mib(needed)} for {left} more trial{'' if left == 1 else 's'} ({in_mib(free)} are free)"


def in_mib(size: float) -> str:
    """A number of bytes for people, rounded up."""
    return f"{-(-size // (MIB / 10)) / 10:.1f} MiB"


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def published(run: Run) -> str:
    """How many trials of a run with a URI are kept here, and how many of them are there already."""
    assert run.mirror is not None
    kept = [path.name for path in run.raw.glob("*.parquet")]
    there = sum(name.rpartition("/")[2] in kept for name in run.mirror.raw_names())
    trials = (
        f"{len(kept)} finished trial{'' if len(kept) == 1 else 's'} {'is' if len(kept) == 1 else 'are'} kept in {run.folder}"
    )
    return f"{trials}, {there} of them published"

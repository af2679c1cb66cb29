"""What is damaged in a run's folder after a crash or a full disk, and its repair. Nothing that was measured is deleted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanobench.errors import UserError
from nanobench.results import derive, request, store, stored_cells
from nanobench.results.raw_files import Damaged
from nanobench.results.run_info import event_in
from nanobench.results.store import Run

DAMAGED = ".damaged"
"""What is added to the name of a file that is set aside."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a file of a run."""

    path: Path
    what: str
    fix: str
    """what a repair does, or what the user can do where there is none"""
    repair: Callable[[], None] | None = None


@dataclass(frozen=True)
class Finding:
    """A problem, and whether it was repaired."""

    problem: Problem
    repaired: bool = False
    where: str = ""
    """the path or the URI that a user knows the file by"""


def treat(run: Run, repair: bool) -> Iterator[Finding]:
    """Every problem of a run; with `repair` those that can be are repaired. Raises OSError where a file cannot be written."""
    for problem in examine(run):
        if repair and problem.repair:
            problem.repair()
        yield Finding(problem, repair and problem.repair is not None, run.where(problem.path))


def examine(run: Run) -> list[Problem]:
    """Everything that is wrong with a run's files, in the order in which it is repaired."""
    run.bring()
    return [*of_info(run), *of_parts(run), *of_journal(run), *of_raw(run), *of_cells(run)]


def of_info(run: Run) -> Iterator[Problem]:
    """A run.json that says nothing: without it nobody knows what the numbers mean."""
    try:
        run.info()
    except UserError as error:
        yield Problem(run.info_file, str(error), "no repair; measure again, and keep the raw files for reference")


def of_parts(run: Run) -> Iterator[Problem]:
    """Files that were not written to their end."""
    for path in sorted(run.folder.rglob("*.part")):
        yield Problem(path, "was not written to its end", "delete it", lambda path=path: run.remove(path))  # type: ignore[misc]


def of_journal(run: Run) -> Iterator[Problem]:
    """Lines of the journal that are not whole."""
    if not run.journal.exists():
        return
    lines = run.journal.read_text(errors="replace").splitlines()
    whole = [line for line in lines if event_in(line) is not None]
    if len(whole) < len(lines):

        def repair() -> None:
            text = "".join(f"{line}\n" for line in whole)
            store.write_atomically(run.journal, lambda part: part.write_text(text))
            run.publish(run.journal)

        yield Problem(run.journal, f"has {len(lines) - len(whole)} lines that are not whole", "remove them", repair)


def of_raw(run: Run) -> Iterator[Problem]:
    """Raw files that cannot be read: their trials are measured again by --resume."""
    for path in sorted(run.raw.glob("*.parquet")):
        try:
            store.launches_in(path)
        except (Damaged, OSError) as error:
            why = " ".join(str(error).split())
            again = request.resumed(command_of(run), run.place)
            fix = f"set it aside; {again} measures its trial again" if again else "set it aside"
            yield Problem(path, f"cannot be read: {why}", fix, lambda path=path: set_aside(run, path))  # type: ignore[misc]


def set_aside(run: Run, path: Path) -> None:
    """Renames a file, so that nothing reads it."""
    names = (f"{path.name}{DAMAGED}{f'-{number}' if number > 1 else ''}" for number in count(1))
    run.rename(path, next(new for name in names if not (new := path.with_name(name)).exists()))


def is_known(run: Run) -> bool:
    """Whether run.json can be read: without it no cells are derived."""
    try:
        run.info()
    except UserError:
        return False
    return True


def command_of(run: Run) -> str:
    """The command that measured a run, as far as it is known."""
    return run.info().command if is_known(run) else "kv-sweep"


def of_cells(run: Run) -> Iterator[Problem]:
    """A cells.parquet that is missing or cannot be read."""
    try:
        pq.read_schema(run.cells)
        return
    except (pa.ArrowException, OSError):
        what = "cannot be read" if run.cells.exists() else "is missing"

    def repair() -> None:
        run.write_cells(derive.derive(run.read_raw(), run.info().machine))
        run.publish(run.cells, stored_cells.path_in(run.folder))

    if any(run.raw.glob("*.parquet")) and is_known(run):
        yield Problem(run.cells, what, "derive it again from the raw files", repair)

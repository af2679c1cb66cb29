"""The runs in a folder or at a URI, and their cells."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.errors import UserError
from nanobench.registry.plug_in import warn
from nanobench.results import mirror, store
from nanobench.results.place import is_uri, together
from nanobench.results.store import Run, mirrored

if TYPE_CHECKING:
    import pandas as pd

MOST_FOLDERS = 20_000
"""Folders that are searched for runs: more are no folder of results."""


def find_runs(path: str | Path) -> list[Run]:
    """The run in `path`, a folder or a URI, or all runs below it, oldest first. Raises UserError where there is none."""
    runs = runs_below(path)
    if not runs:
        raise UserError(f"no run in {path} that has a readable run.json; measure one with: nanobench kv-sweep")
    return runs


def runs_below(path: str | Path) -> list[Run]:
    """The same, without complaint where there is none. Of several runs, one whose run.json cannot be read is left out."""
    runs = folders_below(path)
    together([partial(run.bring, "run.json") for run in runs if run.mirror])
    return sorted(runs if len(runs) == 1 else filter(is_readable, runs), key=Run.started_at)


def is_readable(run: Run) -> bool:
    """Whether run.json can be read. Warns where it cannot."""
    try:
        run.started_at()
    except UserError as error:
        warn(f"{error}; this run is left out (nanobench doctor {run.place})")
        return False
    return True


def folders_below(path: str | Path) -> list[Run]:
    """The runs below a folder in no order, whatever state their files are in. Raises UserError for a folder with too many
    folders below it.
    """
    if is_uri(path):
        return [mirrored(each) for each in mirror.find(str(path))]
    found: list[Run] = []
    for number, (folder, below, files) in enumerate(os.walk(path)):
        if number > MOST_FOLDERS:
            raise UserError(f"{path} has more than {MOST_FOLDERS:,} folders below it; give a folder that a sweep wrote")
        if "run.json" in files:
            found.append(Run(Path(folder)))
            below.clear()
    return found


def load(path: str | Path, columns: Sequence[str] | None = None, filters: Any = None) -> "pd.DataFrame":
    """The cells of a run, or of all runs below a folder, as a DataFrame, with the column `run` that names the folder.

    Cells are derived from the raw files, unless what that would give is stored. `columns` and `filters` are those of
    pandas.read_parquet: only these columns, and only these cells, are kept.
    Raises UserError where there is no run, and for an unknown column.
    """
    return store.load_runs(find_runs(path), columns, filters)

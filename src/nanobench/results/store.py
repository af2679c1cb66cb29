"""The folder of a run: raw parquet per trial, the cells derived from it, run.json. A file is written whole or not at all."""

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanobench import errors
from nanobench.errors import UserError, writing
from nanobench.records import JsonObject, LaunchRecord
from nanobench.results import derive, mirror, run_info, stored_cells
from nanobench.results.derive import CellRow
from nanobench.results.mirror import Mirror
from nanobench.results.place import is_uri
from nanobench.results.raw_files import RAW_SCHEMA, Damaged, launches_in
from nanobench.results.raw_rows import rows_of
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS
from nanobench.results.request import SWEEPS
from nanobench.results.run_info import RunInfo
from nanobench.schema import Trial

if TYPE_CHECKING:
    import pandas as pd

# pyarrow would take Ctrl-C for itself while it reads or writes, and end the process.
pa.enable_signal_handlers(False)

RUN = "run"
"""The column that names the folder of a cell's run."""


@dataclass(frozen=True)
class Run:
    """The paths of one run. They are those of a copy on this machine for a run that is kept at a URI."""

    folder: Path
    mirror: Mirror | None = field(default=None, compare=False, repr=False)
    """how the copy follows the run at the URI; None for a run that is kept on this machine"""

    @property
    def place(self) -> str:
        """The URI or the folder that a user knows the run by."""
        return self.mirror.place.uri if self.mirror else str(self.folder)

    @property
    def is_copy(self) -> bool:
        """Whether it is read from a URI: what is needed is fetched first."""
        return self.mirror is not None and not self.mirror.own

    def where(self, path: Path) -> str:
        """The URI or the path that a user knows a file of the run by."""
        return self.mirror.place.uri_of(path.relative_to(self.folder).as_posix()) if self.mirror else str(path)

    @property
    def info_file(self) -> Path:
        """run.json: what was requested and planned."""
        return self.folder / "run.json"

    @property
    def journal(self) -> Path:
        """journal.jsonl: what was learned while the sweep ran, a line each."""
        return self.folder / "journal.jsonl"

    @property
    def raw(self) -> Path:
        """The folder of raw files."""
        return self.folder / "raw"

    @property
    def cells(self) -> Path:
        """cells.parquet"""
        return self.folder / "cells.parquet"

    @property
    def plots(self) -> Path:
        """The folder of figures."""
        return self.folder / "plots"

    @property
    def logs(self) -> Path:
        """The folder of the workers' output."""
        return self.folder / "logs"

    @property
    def traces(self) -> Path:
        """The folder of Chrome's traces."""
        return self.folder / "traces"

    @property
    def scratch(self) -> Path:
        """What only a running sweep needs: requests, records and inductor's cache."""
        return self.folder / "scratch"

    def raw_file(self, trial: Trial) -> Path:
        """Where a finished trial's rows lie; its presence is what `--resume` looks at."""
        point = trial.point
        lengths = f"s{point.seq_len}" if point.trains else f"p{point.prompt_len}-n{point.new_tokens}"
        return self.raw / f"{trial.launch:02d}-b{point.batch_size}-{lengths}-{trial.key}.parquet"

    def info(self) -> RunInfo:
        """What run.json and the journal say. Raises UserError where there is none or it is no run's."""
        self.bring("run.json", "journal.jsonl")
        try:
            data = json.loads(self.info_file.read_text())
            lines = self.journal.read_text(errors="replace").splitlines() if self.journal.exists() else []
            info = RunInfo.from_json(data, self.info_file).after(lines)
            datetime.fromisoformat(info.started_at)
            return info
        except FileNotFoundError:
            raise UserError(f"{self.place} holds no run (no run.json); give a folder that a sweep wrote") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{self.where(self.info_file)} cannot be read: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.where(self.info_file)} is not a run's ({what}); give a folder that a sweep wrote") from None

    def append(self, event: JsonObject) -> None:
        """Adds an event to the journal, on a line of its own: the last line may be part of one, if its writer was killed."""
        with self.journal.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = end == 0 or file.read(1) == b"\n"
            file.write((b"" if whole else b"\n") + json.dumps(event).encode() + b"\n")

    def started_at(self) -> datetime:
        """When the sweep began, read without the plan. Raises UserError as `info` does."""
        self.bring("run.json")
        try:
            return run_info.started_at(json.loads(self.info_file.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return datetime.fromisoformat(self.info().started_at)

    def write_raw(self, trial: Trial, launches: Iterable[LaunchRecord]) -> None:
        """Writes what a finished trial left behind."""
        table = pa.Table.from_pylist([row for launch in launches for row in rows_of(launch)], schema=RAW_SCHEMA)
        write_atomically(self.raw_file(trial), lambda path: pq.write_table(table, path))
        if self.mirror:
            self.mirror.publish_trial(self.raw_file(trial))

    def read_raw(self) -> list[LaunchRecord]:
        """Every launch of every arm, by launch. What an older file lacks is at its default. Raises Damaged."""
        self.bring("raw/")
        launches: list[LaunchRecord] = []
        for path in sorted(self.raw.glob("*.parquet")):
            try:
                launches.extend(launches_in(path))
            except OSError as error:
                raise UserError(f"{self.where(path)} cannot be read: {error.strerror}") from None
            except Damaged as damaged:
                fix = f"nanobench doctor --repair {shlex.quote(self.place)} sets it aside"
                fix += ", and --resume measures it again" if self.info().command in SWEEPS else ""
                raise Damaged(path, f"{self.where(path)} cannot be read: {damaged}; {fix}") from None
        return launches

    def write_cells(self, cells: list[CellRow]) -> list[CellRow]:
        """Replaces cells.parquet, and the copy that is quick to load; returns what it wrote."""
        table = table_of(cells)
        write_atomically(self.cells, lambda path: pq.write_table(table, path))
        if keys := stored_cells.keys_of(stored_cells.facts(self.folder)):
            write_atomically(stored_cells.path_in(self.folder), lambda path: stored_cells.write(table, keys, path))
        return cells

    def clear_scratch(self) -> None:
        """Removes what only a running sweep needs."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def bring(self, *names: str) -> None:
        """Fetches these files and folders (`raw/`), or all, of a run that is read from a URI. Raises UserError."""
        if self.mirror:
            self.mirror.bring(*names)

    def publish(self, *paths: Path) -> None:
        """Writes files of the run to its URI, if it has one. Raises OSError where that is impossible."""
        for path in paths:
            if self.mirror and path.exists():
                self.mirror.publish(path)

    def remove(self, path: Path) -> None:
        """Removes a file of the run, at its URI too. Raises OSError where that is impossible."""
        self.mirror.remove(path) if self.mirror else path.unlink()

    def rename(self, path: Path, new: Path) -> None:
        """Renames a file of the run, at its URI too. Raises OSError where that is impossible."""
        self.mirror.rename(path, new) if self.mirror else path.rename(new)

    def settle(self) -> None:
        """Publishes what is left of a finished run, if it has a URI. Raises OSError where that is impossible."""
        if self.mirror:
            self.mirror.settle()


def cells_schema() -> pa.Schema:
    """Types of the columns of cells.parquet."""
    heads = [(name, RAW_SCHEMA.field(name).type) for name in (*POINT_FIELDS, *ARM_FIELDS)]
    kinds = {"text": pa.string(), "count": pa.int64(), "flag": pa.bool_()}
    columns = [(metric.name, kinds.get(metric.unit, pa.float64())) for metric in derive.all_metrics()]
    return pa.schema([*heads, ("arm", pa.string()), ("arm_index", pa.int64()), *columns])


def write_atomically(path: Path, write: Any) -> None:
    """Lets `write` fill a file beside `path` and renames it, so that a reader sees the old file or the new one, never half.

    Raises OSError where that fails; nothing of it is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_once(path: Path, text: str) -> None:
    """Writes a file whole, or raises FileExistsError where there is one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links; where nothing can be written at all, this fails as well.
        with path.open("x") as file:
            file.write(text)
    finally:
        part.unlink(missing_ok=True)


def create(folder: Path, info: RunInfo) -> Run:
    """Makes a run's folder, with run.json in it, and publishes that first. Raises UserError where it cannot be written."""
    run = Run(folder, mirror.new(folder, info.command))
    text = json.dumps(info.to_json(), indent=2) + "\n"
    with writing(run.place, "give another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_once(run.info_file, text)
        except FileExistsError:
            raise UserError(f"{run.place} holds another run: another sweep was quicker; give another --out") from None
        run.raw.mkdir(exist_ok=True)
        run.logs.mkdir(exist_ok=True)
        if run.mirror:
            run.mirror.publish(run.info_file, once=True)
    return run


def resumed(place: str) -> Run:
    """The run that --resume names, by its folder or its URI. Raises UserError where what is at a URI cannot be continued."""
    return mirrored(mirror.resume(place)) if is_uri(place) else Run(Path(place))


def run_at(place: str) -> Run:
    """The run at a folder or a URI, to be read only. Raises UserError where there is none at a URI."""
    return mirrored(mirror.read(place)) if is_uri(place) else Run(Path(place))


def mirrored(found: Mirror) -> Run:
    """A run and its mirror."""
    return Run(found.folder, found)


def load_runs(runs: Sequence[Run], columns: Sequence[str] | None = None, filters: Any = None) -> "pd.DataFrame":
    """The cells of some runs, as `finder.load` gives them."""
    known = [*cells_schema().names, RUN]
    for name in columns or ():
        if name not in known:
            raise errors.unknown("column", name, known)
    chosen = None if filters is None else pq.filters_to_expression(filters)
    wanted = None if columns is None else stored_cells.needed(columns, filters, RUN)
    found = pa.concat_tables([named(run, table_in(run, wanted, chosen if wanted else None)) for run in runs])
    found = found if chosen is None else found.filter(chosen)
    return (found if columns is None else found.select(list(columns))).to_pandas()


def table_in(run: Run, columns: list[str] | None = None, chosen: Any = None) -> pa.Table:
    """The cells of a run, or these columns of them: those that are stored where they are up to date, else derived again.

    What is read from a URI is limited to the `chosen` cells where that is possible.
    """
    if run.is_copy and run.mirror:
        stored = run.mirror.cells(columns, chosen)
    else:
        stored = stored_cells.read(run.folder) if run.cells.exists() else None
    if stored is None:
        stored = table_of(derive.derive(run.read_raw(), run.info().machine))
        if run.is_copy and run.mirror and (keys := run.mirror.derived_keys()) and run.folder.exists():
            copy = stored
            with suppress(OSError):
                write_atomically(stored_cells.path_in(run.folder), lambda path: stored_cells.write(copy, keys, path))
    return stored if columns is None else stored.select(columns)


def table_of(cells: list[CellRow]) -> pa.Table:
    """Cells as a table."""
    return pa.Table.from_pylist(cells, schema=cells_schema())


def named(run: Run, table: pa.Table) -> pa.Table:
    """A table of cells with the column `run`."""
    name = pa.array([run.folder.resolve().name] * table.num_rows, pa.string())
    return table.replace_schema_metadata(None).append_column(RUN, name)


def frame(run: Run, cells: list[CellRow]) -> "pd.DataFrame":
    """A run's cells as a DataFrame, with the column `run`."""
    return named(run, table_of(cells)).to_pandas()


def records(cells: "pd.DataFrame") -> list[CellRow]:
    """The cells as rows of plain values: None where nothing is known, whole numbers for what is counted."""
    import pandas as pd

    whole = {metric.name for metric in derive.all_metrics() if metric.unit in ("count", "B")}
    return [
        {str(name): None if pd.isna(value) else int(value) if name in whole else value for name, value in row.items()}
        for row in cells.to_dict("records")
    ]

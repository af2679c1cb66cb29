"""The folder of a run: raw parquet per trial, the cells derived from it, run.json. A file is written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanobench import errors
from nanobench.errors import UserError, writing
from nanobench.records import JsonObject, LaunchRecord
from nanobench.results import derive, run_info, stored_cells
from nanobench.results.derive import CellRow
from nanobench.results.raw_rows import RAW_COLUMNS, records_of, rows_of
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS
from nanobench.results.run_info import RunInfo
from nanobench.schema import Trial

if TYPE_CHECKING:
    import pandas as pd

# pyarrow would take Ctrl-C for itself while it reads or writes, and end the process.
pa.enable_signal_handlers(False)

RUN = "run"
"""The column that names the folder of a cell's run."""
ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def arrow_type(kind: Any) -> pa.DataType:
    """The parquet type of an annotation like `float | None` or `tuple[float, ...] | None`."""
    options = [option for option in getattr(kind, "__args__", (kind,)) if option is not type(None)]
    if kind in ARROW:
        return ARROW[kind]
    if "tuple" in str(kind):
        return pa.list_(pa.float64())
    return next((ARROW[base] for base in (bool, str, int, float) if issubclass(options[0], base)), pa.string())


MOST_FOLDERS = 20_000
"""Folders that are searched for runs: more are no folder of results."""
RENAMED = {
    "marks_s": "token_times_s",
    "marked": "timestamped",
    "mark_cost_s": "timestamp_cost_s",
    "contexts": "attended_positions",
    "useful_contexts": "useful_attended_positions",
    "path": "kv_access",
    "throttle": "clock_event_reasons",
    "throttled": "quota_throttled_periods",
    "device_busy": "gpu_busy_fraction",
    "graphs": "compiled_graphs",
}
"""Raw column of protocol 4 and before -> its name today."""
RAW_SCHEMA = pa.schema([(name, arrow_type(kind)) for name, kind in RAW_COLUMNS.items()])


@dataclass(frozen=True)
class Run:
    """The paths of one run."""

    folder: Path

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
        try:
            data = json.loads(self.info_file.read_text())
            lines = self.journal.read_text().splitlines() if self.journal.exists() else []
            info = RunInfo.from_json(data, self.info_file).after(lines)
            datetime.fromisoformat(info.started_at)
            return info
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no run (no run.json); give a folder that a sweep wrote") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{self.info_file} cannot be read: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.info_file} is not a run's ({what}); give a folder that a sweep wrote") from None

    def append(self, event: JsonObject) -> None:
        """Adds an event to the journal, on a line of its own: the last line may be part of one, if its writer was killed."""
        with self.journal.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = end == 0 or file.read(1) == b"\n"
            file.write((b"" if whole else b"\n") + json.dumps(event).encode() + b"\n")

    def started_at(self) -> datetime:
        """When the sweep began, read without the plan. Raises UserError as `info` does."""
        try:
            return run_info.started_at(json.loads(self.info_file.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return datetime.fromisoformat(self.info().started_at)

    def write_raw(self, trial: Trial, launches: Iterable[LaunchRecord]) -> None:
        """Writes what a finished trial left behind."""
        table = pa.Table.from_pylist([row for launch in launches for row in rows_of(launch)], schema=RAW_SCHEMA)
        write_atomically(self.raw_file(trial), lambda path: pq.write_table(table, path))

    def read_raw(self) -> list[LaunchRecord]:
        """Every launch of every arm, in the order of the launches. What an older file lacks is at its default."""
        launches: list[LaunchRecord] = []
        for path in sorted(self.raw.glob("*.parquet")):
            try:
                launches.extend(launches_in(path))
            except (pa.ArrowInvalid, OSError) as error:
                fix = f"nanobench doctor --repair {self.folder} sets it aside, and --resume measures it again"
                raise UserError(f"{path} cannot be read: {error}; {fix}") from None
        return launches

    def write_cells(self, cells: list[CellRow]) -> list[CellRow]:
        """Replaces cells.parquet, and the copy that is quick to load; returns what it wrote."""
        table = table_of(cells)
        write_atomically(self.cells, lambda path: pq.write_table(table, path))
        if key := stored_cells.key_of(self.folder):
            write_atomically(stored_cells.path_in(self.folder), lambda path: stored_cells.write(table, key, path))
        return cells

    def clear_scratch(self) -> None:
        """Removes what only a running sweep needs."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def launches_in(path: Path) -> list[LaunchRecord]:
    """The launches in a raw file. Raises pyarrow.ArrowInvalid or OSError where it cannot be read."""
    table = pq.read_table(path)
    return records_of(table.rename_columns(list(map(name_today, table.column_names))).to_pylist())


def name_today(column: str) -> str:
    """Today's name of a raw column."""
    return RENAMED.get(column, column)


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


def choose(out: str, command: str) -> Path:
    """The folder of a new run. Raises UserError where it holds a run already or can't be written; makes nothing yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(out) if out else Path("results") / f"{command}-{stamp}"
    check_writable(folder)
    if (folder / "run.json").exists() or (folder / "raw").exists():
        raise UserError(f"{folder} holds another run; give another --out, or continue that one with --resume {folder}")
    return folder


def check_writable(folder: Path) -> None:
    """Raises UserError where no file can be made in a folder that may not exist yet. Leaves nothing behind."""
    missing: list[Path] = []
    try:
        missing += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        why = errors.cause(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"--out {folder} cannot be written: {why}; give another --out") from None
    finally:
        for path in missing:
            with suppress(OSError, ValueError):
                path.rmdir()


def create(folder: Path, info: RunInfo) -> Run:
    """Makes a run's folder, with run.json in it. Raises UserError where it cannot be written."""
    run = Run(folder)
    text = json.dumps(info.to_json(), indent=2) + "\n"
    with writing(folder, "give another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.info_file, lambda path: path.write_text(text))
        run.raw.mkdir(exist_ok=True)
        run.logs.mkdir(exist_ok=True)
    return run


def find_runs(path: str | Path) -> list[Run]:
    """The run in `path`, or all runs below it, oldest first. Raises UserError where there is none."""
    runs = runs_below(path)
    if not runs:
        raise UserError(f"no run in {path} (no run.json); measure one with: nanobench kv-sweep")
    return runs


def runs_below(path: str | Path) -> list[Run]:
    """The same, without complaint where there is none."""
    return sorted(folders_below(path), key=Run.started_at)


def folders_below(path: str | Path) -> list[Run]:
    """The runs below a folder in no order, whatever state their files are in. Raises UserError for a folder with too many
    folders below it.
    """
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
    return load_runs(find_runs(path), columns, filters)


def load_runs(runs: Sequence[Run], columns: Sequence[str] | None = None, filters: Any = None) -> "pd.DataFrame":
    """The same of runs that were found."""
    known = [*cells_schema().names, RUN]
    for name in columns or ():
        if name not in known:
            raise errors.unknown("column", name, known)
    found = pa.concat_tables([named(run, table_in(run)) for run in runs])
    if filters is not None:
        found = found.filter(pq.filters_to_expression(filters))
    return found.to_pandas() if columns is None else found.select(list(columns)).to_pandas()


def table_in(run: Run) -> pa.Table:
    """The cells of a run: those that are stored where they are up to date, else derived again."""
    stored = stored_cells.read(run.folder) if run.cells.exists() else None
    return table_of(derive.derive(run.read_raw(), run.info().machine)) if stored is None else stored


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

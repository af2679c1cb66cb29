"""The parquet files of finished trials: the types of their columns, and how they are read, old ones too."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanobench.errors import UserError
from nanobench.records import LaunchRecord
from nanobench.results.raw_rows import RAW_COLUMNS, records_of

ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
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


def arrow_type(kind: Any) -> pa.DataType:
    """The parquet type of an annotation like `float | None` or `tuple[float, ...] | None`."""
    options = [option for option in getattr(kind, "__args__", (kind,)) if option is not type(None)]
    if kind in ARROW:
        return ARROW[kind]
    if "tuple" in str(kind):
        return pa.list_(pa.float64())
    return next((ARROW[base] for base in (bool, str, int, float) if issubclass(options[0], base)), pa.string())


RAW_SCHEMA = pa.schema([(name, arrow_type(kind)) for name, kind in RAW_COLUMNS.items()])


class Damaged(UserError):
    """A file is no whole raw file."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def launches_in(path: Path) -> list[LaunchRecord]:
    """The launches in a raw file. Raises Damaged, and OSError where the file cannot be opened."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        return records_of(table.rename_columns(list(map(name_today, table.column_names))).to_pylist())
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        # Without a number, the error is pyarrow's own.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Damaged(path, " ".join(str(error).split())) from None


def name_today(column: str) -> str:
    """Today's name of a raw column."""
    return RENAMED.get(column, column)

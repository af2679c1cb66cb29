"""Cells that were derived before. cells.parquet is read instead of the raw files where deriving again would give the same.

It carries a key of everything that cells follow from: the raw files, run.json, the journal, and the code that derives.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanobench.results import derive

PACKAGE = Path(__file__).parents[1]
DERIVING = ("results", "stats", "roofline", "schema.py", "records.py")
"""Rooms whose code decides what a cell says."""
KEY = b"nanobench_key"


@cache
def key_of_code() -> str:
    """A hash of the code that derives cells."""
    found = hashlib.sha256()
    for room in DERIVING:
        place = PACKAGE / room
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in (".py", ".toml"):
                found.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def key_of(folder: Path) -> bytes | None:
    """The key of a run's cells as they are now; None where plug-ins add columns, whose code is not known here."""
    if derive.plug_ins():
        return None
    return hashlib.sha256(json.dumps([key_of_code(), *facts(folder)]).encode()).hexdigest().encode()


def facts(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of each file that cells follow from."""
    for name in ("run.json", "journal.jsonl"):
        if (folder / name).exists():
            state = (folder / name).stat()
            yield name, state.st_size, state.st_mtime_ns
    if not (folder / "raw").is_dir():
        return
    with os.scandir(folder / "raw") as entries:
        raw = {entry.name: entry.stat() for entry in entries if entry.name.endswith(".parquet")}
    for name in sorted(raw):
        yield name, raw[name].st_size, raw[name].st_mtime_ns


def read(folder: Path, columns: list[str] | None, filters: Any) -> pa.Table | None:
    """The cells that are stored in a run's folder; None where they are of other files or other code."""
    path = folder / "cells.parquet"
    try:
        with pq.ParquetFile(path) as file:
            stored = (file.schema_arrow.metadata or {}).get(KEY)
            if stored is None or stored != key_of(folder):
                return None
            if filters is None or isinstance(filters, pc.Expression):
                found = file.read(columns if filters is None else None, use_threads=False)
            else:
                found = file.read(columns and [*columns, *names_in(filters)], use_threads=False)
        return found if filters is None else found.filter(pq.filters_to_expression(filters))
    except (OSError, pa.ArrowInvalid):
        return None


def names_in(filters: Any) -> list[str]:
    """The columns that filters name: a list of (column, operator, value), or a list of such lists."""
    groups = [filters] if filters and isinstance(filters[0], tuple) else filters
    return [name for group in groups for name, _, _ in group]

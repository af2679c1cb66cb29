"""Cells that were derived before. cells.parquet is read instead of the raw files where deriving again would give the same.

It carries a key of everything that cells follow from: the raw files, run.json, the journal, and the code that derives.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nanobench.results import derive

PACKAGE = Path(__file__).parents[1]
DERIVING = ("results", "stats", "roofline", "schema.py", "records.py")
"""Rooms whose code decides what a cell says."""
KEY = b"nanobench_key"
FILE = "__filename"
"""The column in which pyarrow names the file of a row."""


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


def is_current(folder: Path) -> bool:
    """Whether a run's folder stores the cells that deriving them again would give."""
    try:
        stored = (pq.read_metadata(folder / "cells.parquet").metadata or {}).get(KEY)
    except (OSError, pa.ArrowInvalid):
        return False
    return stored is not None and stored == key_of(folder)


def read(
    folders: Sequence[Path], columns: list[str] | None, filters: Any, schema: pa.Schema
) -> tuple[pa.Table, pa.Array] | None:
    """The cells that are stored in folders, and the place of each cell's folder among these; None where a file is damaged."""
    paths = [str(folder / "cells.parquet") for folder in folders]
    wanted = schema.names if columns is None else columns
    expression = None if filters is None else pq.filters_to_expression(filters)
    try:
        found = ds.dataset(paths, schema=schema, format="parquet").to_table(columns=[*wanted, FILE], filter=expression)
    except (OSError, pa.ArrowInvalid):
        return None
    places = pc.index_in(found[FILE].cast(pa.string()), pa.array(paths)).combine_chunks()
    return found.drop_columns([FILE]), places

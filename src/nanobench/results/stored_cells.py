"""Cells that were derived before: read instead of the raw files where deriving again would give the same.

They stand in a file of their own beside cells.parquet, which has them for everybody: many small files of parquet take long to
read. It carries a key of everything that cells follow from: the raw files, run.json, the journal, and the code that derives.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa

from nanobench.results import derive

PACKAGE = Path(__file__).parents[1]
DERIVING = ("results", "stats", "roofline", "schema", "records.py")
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


def path_in(folder: Path) -> Path:
    """The file in a run's folder."""
    return folder / "cells.arrow"


def write(table: pa.Table, key: bytes, path: Path) -> None:
    """Writes cells with their key."""
    keyed = table.replace_schema_metadata({KEY: key}).combine_chunks()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, keyed.schema) as writer:
        writer.write_table(keyed)


def read(folder: Path) -> pa.Table | None:
    """The cells that are stored in a run's folder; None where there are none, or those of other files or other code."""
    try:
        reader = pa.ipc.open_file(path_in(folder).read_bytes())
        stored = (reader.schema.metadata or {}).get(KEY)
        return reader.read_all() if stored is not None and stored == key_of(folder) else None
    except (OSError, pa.ArrowInvalid):
        return None

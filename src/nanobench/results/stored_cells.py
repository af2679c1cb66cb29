"""Cells that were derived before: read instead of the raw files where deriving again would give the same.

They stand in a file of their own beside cells.parquet, which has them for everybody: many small files of parquet take long to
read. It carries a key of everything that cells follow from: the raw files, run.json, the journal, and the code that derives.
A second key leaves out when those files were written: it holds for copies of a run too, at a URI or on another machine.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanobench.results import derive

PACKAGE = Path(__file__).parents[1]
DERIVING = ("results", "stats", "roofline", "schema", "records.py")
"""Rooms whose code decides what a cell says."""
NAME = "cells.arrow"
KEY, PORTABLE = b"nanobench_key", b"nanobench_portable_key"
Facts = Iterable[tuple[str, int, int]]
"""Name, size and time of change of each file that cells follow from."""
Keys = Mapping[bytes, bytes]


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


def keys_of(known: Facts) -> Keys:
    """Both keys of cells that follow from some files; none where plug-ins add columns, whose code is not known here."""
    if derive.plug_ins():
        return {}
    whole = list(known)
    return {KEY: hashed(whole), PORTABLE: hashed([(name, size) for name, size, _ in whole])}


def hashed(known: Iterable[tuple[str | int, ...]]) -> bytes:
    """A hash of facts and of the code."""
    return hashlib.sha256(json.dumps([key_of_code(), *known]).encode()).hexdigest().encode()


def key_of(folder: Path) -> bytes | None:
    """The key of a run's cells as they are now; None where plug-ins add columns."""
    return keys_of(facts(folder)).get(KEY)


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
    return folder / NAME


def write(table: pa.Table, keys: Keys, path: Path) -> None:
    """Writes cells with their keys."""
    keyed = table.replace_schema_metadata(dict(keys)).combine_chunks()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, keyed.schema) as writer:
        writer.write_table(keyed)


def read(folder: Path, keys: Keys | None = None) -> pa.Table | None:
    """The cells that are stored in a run's folder; None where there are none, or those of other files or other code.

    With `keys` those that carry one of these.
    """
    wanted = keys if keys is not None else {name: key for name, key in keys_of(facts(folder)).items() if name == KEY}
    try:
        reader = pa.ipc.open_file(path_in(folder).read_bytes())
        return reader.read_all() if carries(reader.schema, wanted) else None
    except (OSError, pa.ArrowInvalid):
        return None


def carries(schema: pa.Schema, keys: Keys) -> bool:
    """Whether cells carry one of some keys."""
    stored = schema.metadata or {}
    return any(stored.get(name) == key for name, key in keys.items())


def needed(columns: Sequence[str], filters: Any, outside: str) -> list[str] | None:
    """The columns of files that are read for these and for filters; None for all: where filters use what is `outside` of the
    files, or are no lists of terms like those of pandas.read_parquet.
    """
    if filters is not None and not isinstance(filters, list):
        return None
    terms = [term for each in filters or () for term in (each if isinstance(each, list) else [each])]
    names = [term[0] for term in terms]
    if outside in names:
        return None
    return [name for name in dict.fromkeys([*columns, *names]) if name != outside] or None

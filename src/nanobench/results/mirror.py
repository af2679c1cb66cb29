"""The copy on this machine of a run that is kept at a URI: measured here and published file by file, or read from there."""

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanobench.errors import UserError, writing
from nanobench.results import copies, stored_cells
from nanobench.results import place as places
from nanobench.results.copies import clear, copy_in, home_of, mark
from nanobench.results.place import Place, State
from nanobench.results.request import SWEEPS

INFO, JOURNAL, CELLS, RAW = "run.json", "journal.jsonl", "cells.parquet", "raw/"
GROWTH = 1.05
"""The journal is published again when it has grown by this factor: all copies together stay a multiple of the last one."""
UNPUBLISHED = ("scratch/",)
"""Folders of a run that only a running sweep needs."""


@dataclass
class Mirror:
    """A run at a place, and its copy here."""

    place: Place
    folder: Path
    known: dict[str, State] = field(default_factory=dict)
    """the files that are there"""
    own: bool = False
    """whether the run is being measured here: then the copy leads, and nothing is fetched"""

    # Read
    def bring(self, *names: str) -> None:
        """Fetches what is missing or has changed of these files and folders (`raw/`), or of all; removes what is not there.

        Raises UserError where that is impossible.
        """
        if self.own:
            return
        with writing(self.folder, copies.FIX):
            for name in self.local(*names):
                if name not in self.known:
                    (self.folder / name).unlink(missing_ok=True)
            # A part of a file is the business of its writer; only a repair, which asks for all files, wants to see it.
            stale = [name for name in self.known if is_among(name, names) and not (names and name.endswith(".part"))]
            self.fetch([name for name in stale if not self.is_current(name)])

    def fetch(self, names: list[str]) -> None:
        """Fetches files, some of them at the same time."""

        def fetch(name: str) -> None:
            self.known[name] = self.place.fetch(name, self.known[name], self.folder / name)

        places.together([partial(fetch, name) for name in names])

    def local(self, *names: str) -> list[str]:
        """The files here, or those of these that are here; not what is just being fetched."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return [name for name in (path.relative_to(self.folder).as_posix() for path in found) if is_among(name, names)]

    def is_current(self, name: str) -> bool:
        """Whether the copy of a file is that of the version that is there."""
        try:
            here = (self.folder / name).stat()
        except OSError:
            return False
        return State(here.st_size, here.st_mtime_ns) == self.known.get(name)

    def raw_names(self) -> list[str]:
        """The raw files that are there."""
        return sorted(name for name in self.known if is_raw(name))

    def facts(self) -> Iterator[tuple[str, int, int]]:
        """What cells follow from, as `stored_cells.facts` says it of a folder."""
        for name in (INFO, JOURNAL, *self.raw_names()):
            if name in self.known:
                yield name.removeprefix(RAW), *self.known[name]

    def derived_keys(self) -> stored_cells.Keys:
        """The key of cells that are derived here from what is there."""
        return {name: key for name, key in stored_cells.keys_of(self.facts()).items() if name == stored_cells.KEY}

    def published_keys(self) -> stored_cells.Keys:
        """The key of cells that were published; none where a file that they follow from is newer than they are."""
        cells = self.known.get(stored_cells.NAME)
        if cells is None or any(mtime_ns > cells.mtime_ns for _, _, mtime_ns in self.facts()):
            return {}
        return {name: key for name, key in stored_cells.keys_of(self.facts()).items() if name == stored_cells.PORTABLE}

    def cells(self, columns: list[str] | None, chosen: Any) -> pa.Table | None:
        """The stored cells, where they are those of the raw files: from the copy, else these columns of the chosen cells from
        the place, or the whole file; None where they must be derived.
        """
        published = self.published_keys()
        keys = {**self.derived_keys(), **(published if self.is_current(stored_cells.NAME) else {})}
        found = stored_cells.read(self.folder, keys)
        if found is not None or not published:
            return found
        if columns is None:
            self.bring(stored_cells.NAME)
            return stored_cells.read(self.folder, published)
        with self.place.reading(stored_cells.NAME):
            return self.cells_there(columns, chosen, published)

    def cells_there(self, columns: list[str], chosen: Any, keys: stored_cells.Keys) -> pa.Table | None:
        """These columns of the chosen cells, read at the place; None where the file carries none of the keys."""
        import pyarrow.dataset as ds

        path, filesystem = f"{self.place.path}/{stored_cells.NAME}", self.place.filesystem
        try:
            with filesystem.open_input_file(path) as file:
                if not stored_cells.carries(pa.ipc.open_file(file).schema, keys):
                    return None
            return ds.dataset(path, filesystem=filesystem, format="ipc").to_table(columns=columns, filter=chosen)
        except pa.ArrowInvalid:
            return None

    # Write
    def publish(self, path: Path, once: bool = False) -> None:
        """Writes a file of the copy to the place, whole or not at all; `once`: never a second time.

        Raises OSError where that is impossible.
        """
        name = path.relative_to(self.folder).as_posix()
        self.known[name] = self.place.put(path, name, once)
        self.stamp(name)

    def stamp(self, name: str) -> None:
        """Gives the copy of a file the time of the file that is there: that makes it current."""
        with suppress(OSError):
            os.utime(self.folder / name, ns=(self.known[name].mtime_ns, self.known[name].mtime_ns))

    def publish_trial(self, path: Path) -> None:
        """Publishes a raw file, and the journal where it has grown."""
        self.publish(path, once=True)
        journal = self.folder / JOURNAL
        if journal.exists() and journal.stat().st_size >= GROWTH * self.known.get(JOURNAL, State(0, 0)).size:
            self.publish(journal)

    def remove(self, path: Path) -> None:
        """Removes a file here and there."""
        path.unlink(missing_ok=True)
        name = path.relative_to(self.folder).as_posix()
        if self.known.pop(name, None) is not None:
            self.place.delete(name)

    def rename(self, path: Path, new: Path) -> None:
        """Renames a file here and there."""
        path.rename(new)
        name, to = (each.relative_to(self.folder).as_posix() for each in (path, new))
        if name in self.known:
            self.place.move(name, to)
            self.known[to] = self.known.pop(name)

    def settle(self) -> None:
        """Publishes what is not there yet of a finished run, its cells last; from then on the copy follows the place.

        Raises OSError where that is impossible.
        """
        if not self.own:
            return
        last = [name for name in (JOURNAL, CELLS, stored_cells.NAME) if (self.folder / name).exists()]
        others = [name for name in self.local() if name not in last and self.is_unpublished(name)]
        places.together([partial(self.publish, self.folder / name, is_raw(name)) for name in others])
        for name in last:
            self.publish(self.folder / name)
        self.own = False
        self.stamp(INFO)
        copies.unmark(self.folder.parent)

    def is_unpublished(self, name: str) -> bool:
        """Whether a file here says something that nothing at the place says."""
        size = (self.folder / name).stat().st_size
        kept = not name.startswith(UNPUBLISHED) and not name.endswith(".part")
        return kept and size > 0 and self.known.get(name, State(0, 0)).size != size

    def join(self) -> None:
        """Makes the copy and the place of an unfinished run agree: what is missing here is fetched, and what was measured here
        and is missing there is published. Raises UserError or OSError where that is impossible.
        """
        missing = []
        for name in self.raw_names():
            here = self.folder / name
            if self.is_current(name):
                continue
            if here.exists() and self.place.read(name) == here.read_bytes():
                self.stamp(name)
                continue
            if here.exists():
                here.replace(here.with_name(here.name + ".twice"))
            missing.append(name)
        self.fetch(missing)
        journal, there = self.folder / JOURNAL, self.place.read(JOURNAL) if JOURNAL in self.known else b""
        if not journal.exists() or not journal.read_bytes().startswith(there):
            journal.write_bytes(there)
        for name in self.local():
            if is_raw(name) and name not in self.known and is_whole(self.folder / name):
                self.publish_trial(self.folder / name)


def is_raw(name: str) -> bool:
    """Whether a file is that of a finished trial."""
    return name.startswith(RAW) and name.endswith(".parquet")


def is_among(name: str, names: tuple[str, ...]) -> bool:
    """Whether a file is one of these, or in one of these folders; without names every file is."""
    return not names or any(name == each or (each.endswith("/") and name.startswith(each)) for each in names)


def is_whole(path: Path) -> bool:
    """Whether a raw file can be read."""
    try:
        pq.read_metadata(path)
        return True
    except (OSError, pa.ArrowException):
        return False


# The runs
def begin(uri: str, command: str) -> Path:
    """The folder where a new run is measured before it is published. Raises UserError where the place holds a run already."""
    place = places.at(uri)
    refuse_taken(place, command)
    home = home_of(place)
    clear(home)
    mark(home, place)
    return copy_in(home, place)


def refuse_taken(place: Place, command: str) -> None:
    """Raises UserError where a place holds a run."""
    if any(name == INFO or name.startswith(RAW) for name in place.files()):
        again = f", or continue that one with --resume {shlex.quote(place.uri)}" if command in SWEEPS else ""
        raise UserError(f"{place.uri} holds another run; give another --out{again}")


def new(folder: Path, command: str) -> Mirror | None:
    """The run that begins in a folder that `begin` gave; None for a folder of the user.

    Raises UserError where another sweep was quicker.
    """
    if copies.base() not in folder.parents:
        return None
    place = places.at(copies.uri_in(folder.parent))
    refuse_taken(place, command)
    return Mirror(place, folder, own=True)


def folder_at(uri: str) -> Path:
    """The folder of the copy of a run."""
    place = places.at(uri)
    return copy_in(home_of(place), place)


def resume(uri: str) -> Mirror:
    """The run at a URI, to be continued here: what is there and what was measured here of it are brought together.

    Raises UserError where there is none, or its files cannot be read or written.
    """
    place, known = known_at(uri)
    home = home_of(place)
    folder, info = copy_in(home, place), place.read(INFO)
    if (folder / INFO).exists() and (folder / INFO).read_bytes() != info:
        clear(home)
    if not copies.leads(home):
        copies.use(home)
        Mirror(place, folder, known).bring(INFO, JOURNAL, RAW)
    mark(home, place)
    found = Mirror(place, folder, known, own=True)
    with writing(uri):
        for name in ("raw", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if not (folder / INFO).exists():
            (folder / INFO).write_bytes(info)
        found.join()
    return found


def known_at(uri: str) -> tuple[Place, dict[str, State]]:
    """The place of a run and its files. Raises UserError where there is none."""
    place = places.at(uri)
    known = place.files()
    if INFO not in known:
        raise UserError(f"{uri} holds no run (no run.json); give the URI of a run that a sweep wrote")
    return place, known


def read(uri: str) -> Mirror:
    """The run at a URI, to be read only. Raises UserError where there is none."""
    return reader(*known_at(uri))


def find(uri: str) -> list[Mirror]:
    """The run at a URI, or all runs below it, in no order. Nothing is fetched yet. Raises UserError where nothing answers."""
    place = places.at(uri)
    files = place.files()
    copies.prune()
    tops = {name.removesuffix(INFO).rstrip("/") for name in files if PurePosixPath(name).name == INFO}
    below: dict[str, dict[str, State]] = {}
    for name, state in files.items():
        parts = name.split("/")
        top = next((each for each in ("/".join(parts[:end]) for end in range(len(parts))) if each in tops), None)
        if top is not None:
            below.setdefault(top, {})[name.removeprefix(top).lstrip("/")] = state
    return [reader(place.below(top), known) for top, known in below.items()]


def reader(place: Place, known: dict[str, State]) -> Mirror:
    """A run that is only read. While it is measured here too, it has a copy of its own."""
    home = home_of(place)
    if copies.leads(home):
        home = home.with_name(f"{home.name}-read")
    copies.use(home)
    return Mirror(place, copy_in(home, place), known)

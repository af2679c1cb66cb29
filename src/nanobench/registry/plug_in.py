"""Entry points of other distributions: what they say about themselves, their objects, and one line about each broken one."""

import ast
import importlib.util
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

from nanobench.errors import UserError

FIX = "correct or uninstall it"
UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)
"""What the text of a Python file can raise when it is parsed."""


@cache
def warn(line: str) -> None:
    """Prints a line on standard error, once per process: a broken plug-in is no reason to stop."""
    print(f"warning: {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """A text on one line that cannot control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def one_line(error: BaseException) -> str:
    """An exception in one line: its type, and its message if it has one."""
    try:
        words = str(error)
    except Exception:
        words = ""
    return printable(f"{type(error).__name__}: {words}" if words.strip() else type(error).__name__)


def readable(group: str) -> list[EntryPoint]:
    """The entry points of a group. importlib.metadata gives none at all where one distribution declares its own wrongly."""
    found: list[EntryPoint] = []
    for each in distributions():
        try:
            found += [entry for entry in each.entry_points if entry.group == group]
        except Exception as error:
            warn(f"the entry points of {name_of(each)} cannot be read ({one_line(error)}); reinstall or uninstall it")
    return found


def name_of(distribution: Distribution | None) -> str:
    """A distribution with its version, as far as its metadata says."""
    try:
        parts = (distribution.name, distribution.version) if distribution else ()
    except Exception:
        parts = ()
    return printable(" ".join(part for part in parts if isinstance(part, str))) or "a distribution without a name"


def origin(entry: EntryPoint) -> str:
    """Where a plug-in comes from: its distribution with its version."""
    return name_of(entry.dist) if entry.dist is not None else "plug-in"


def title(entry: EntryPoint) -> str:
    """A plug-in with its distribution and its value, as a message names it."""
    return f"plug-in {entry.name!r} ({origin(entry)}, {printable(entry.value)})"


def module(entry: EntryPoint) -> str | None:
    """The module that a plug-in comes from; None where its value is not module:function."""
    try:
        return entry.module
    except (AttributeError, ValueError):
        return None


def usable(entries: Iterable[EntryPoint], taken: Collection[str], noun: str) -> Iterator[EntryPoint]:
    """Those plug-ins whose names are free: none replaces what has its name already. Warns of the others."""
    seen: set[str] = set()
    for entry in entries:
        if entry.name in taken:
            why = f"a built-in {noun} has this name, and no plug-in replaces it"
            warn(f"{title(entry)} is ignored: {why}; rename its entry point")
        elif entry.name in seen:
            warn(f"{title(entry)} is ignored: another plug-in has this name; uninstall one of them")
        else:
            seen.add(entry.name)
            yield entry


def docstring(entry: EntryPoint) -> str:
    """The first line of the docstring of a plug-in's module, which is not imported; empty where its file is not found.

    Raises UserError for a plug-in that cannot be imported, as far as that can be seen without an import.
    """
    name = module(entry)
    if name is None:
        raise UserError(f"{title(entry)} is not module:function; {FIX}")
    path = file_of(entry, name)
    try:
        if path is not None:
            return printable(first_line(path))
    except UNREADABLE as error:
        raise UserError(f"{title(entry)} cannot be loaded: {one_line(error)}; {FIX}") from None
    if not is_there(name.partition(".")[0]):
        raise UserError(f"{title(entry)} cannot be loaded: there is no module {name.partition('.')[0]!r}; {FIX}")
    return ""


def file_of(entry: EntryPoint, module: str) -> Path | None:
    """The file of a module in the distribution of a plug-in."""
    if entry.dist is None:
        return None
    path = Path(str(entry.dist.locate_file(module.replace(".", "/"))))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def is_there(package: str) -> bool:
    """Whether a top-level module can be found. It is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def first_line(path: Path) -> str:
    """The first line of a Python file's docstring, read without an import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


def load(entry: EntryPoint) -> Any:
    """The object of a plug-in, imported now. Raises UserError where that fails.

    A MemoryError is no mistake of the plug-in: under a memory limit it means that a model does not fit.
    """
    try:
        return entry.load()
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{title(entry)} cannot be loaded: {one_line(error)}; {FIX}") from error


def load_function(entry: EntryPoint) -> Any:
    """The function of a plug-in. Raises UserError where it cannot be imported or called."""
    function = load(entry)
    if not callable(function):
        raise UserError(f"{title(entry)} is a {type(function).__name__}, not a function; {FIX}")
    return function

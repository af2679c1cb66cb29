"""Finds a member of a family by name: a file of this package, a plug-in's entry point, or a dotted path `package.module:build`.

Listing reads file names, docstrings and package metadata. It imports no member.
"""

import ast
import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pathlib import Path
from typing import Any

from nanobench.errors import UserError, unknown

PACKAGE = Path(__file__).parent
PACKAGES = {
    "models": "models",
    "engines": "engines",
    "samplers": "samplers",
    "optimizers": "optimizers",
    "executors": "sweep.executors",
}
"""Family -> the package of its members, one file each. `base` and files that start with an underscore are no members."""
BUILT_IN = "built in"


@dataclass(frozen=True)
class Member:
    """A member of a family as `nanobench list` shows it."""

    name: str
    what: str
    """one line that says what it is"""
    origin: str = BUILT_IN
    """where it comes from: built in, or the distribution of a plug-in"""


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """The built-in models: name -> sizes, with the file that builds them under `architecture`."""
    return tomllib.loads((PACKAGE / "models" / "presets.toml").read_text())


def names(family: str) -> list[str]:
    """All names of a family, models in the order of their presets, plug-ins last. Imports no member."""
    return list(dict.fromkeys([*built_in(family), *(entry.name for entry in plug_ins(family))]))


def built_in(family: str) -> list[str]:
    """The names of our own members, which no plug-in can take."""
    if family == "models":
        return list(presets())
    stems = (path.stem for path in folder_of(family).glob("*.py"))
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base")


def plug_ins(family: str) -> list[EntryPoint]:
    """The entry points that installed distributions declare for a family."""
    return list(entry_points(group=f"nanobench.{family}"))


def folder_of(family: str) -> Path:
    """The folder of a family's own members."""
    return PACKAGE.joinpath(*PACKAGES[family].split("."))


def members(family: str) -> list[Member]:
    """All members of a family with a line about each. Imports none of them."""
    own = [Member(name, describe(family, name)) for name in built_in(family)]
    taken = {member.name for member in own}
    return own + [describe_plug_in(entry) for entry in plug_ins(family) if entry.name not in taken]


def describe(family: str, name: str) -> str:
    """One line about a built-in member: the sizes of a model's preset, or the first line of the file's docstring."""
    if family != "models":
        return first_line(folder_of(family) / f"{name.replace('-', '_')}.py")
    sizes = presets()[name]
    heads = f"{sizes['n_head']} heads"
    if "n_kv_head" in sizes:
        heads += f", {sizes['n_kv_head']} KV heads"
    return (
        f"{sizes['architecture']}: {sizes['n_layer']} layers, {heads}, width {sizes['n_embd']}, "
        f"vocabulary {sizes['vocab_size']}, {sizes['block_size']} positions"
    )


def describe_plug_in(entry: EntryPoint) -> Member:
    """A plug-in: the first line of its module's docstring where the file is part of the distribution, or its dotted path."""
    if entry.dist is None:
        return Member(entry.name, entry.value, "plug-in")
    path = Path(str(entry.dist.locate_file(entry.module.replace(".", "/"))))
    files = (path.with_suffix(".py"), path / "__init__.py")
    what = next((first_line(file) for file in files if file.is_file()), "")
    return Member(entry.name, what or entry.value, f"{entry.dist.name} {entry.dist.version}")


def first_line(path: Path) -> str:
    """The first line of a Python file's docstring, read without an import."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def check(family: str, name: str) -> None:
    """Raises UserError unless `name` exists. A dotted path is checked when it is imported."""
    if ":" in name or name in names(family):
        return
    fix = "; your own model: --model my_pkg.my_mod:build" if family == "models" else ""
    raise unknown(family.removesuffix("s"), name, names(family), fix=fix)


def find(family: str, name: str) -> Callable[..., Any]:
    """The build() of a family's member, imported now.

    Raises UserError for an unknown name and for a dotted path that cannot be imported.
    """
    check(family, name)
    if ":" in name:
        return dotted(name)
    if name not in built_in(family):
        return next(entry for entry in plug_ins(family) if entry.name == name).load()
    if family == "models":
        sizes = dict(presets()[name])
        return partial(importlib.import_module(f"nanobench.models.{sizes.pop('architecture')}").build, **sizes)
    return importlib.import_module(f"nanobench.{PACKAGES[family]}.{name.replace('-', '_')}").build


def dotted(path: str) -> Callable[..., Any]:
    """The attribute behind `package.module:attribute`. Modules in the current folder are found too.

    A MemoryError is no mistake of the user: under a memory limit it means that the model does not fit.
    """
    module_name, _, attribute = path.partition(":")
    search_current_folder()
    try:
        module = importlib.import_module(module_name)
    except MemoryError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path!r} cannot be imported: {what}; give module:function, importable from {os.getcwd()}") from error
    if not callable(getattr(module, attribute, None)):
        own = [name for name, value in vars(module).items() if isfunction(value) and value.__module__ == module_name]
        raise UserError(f"{module_name} has no function {attribute!r} (available: {', '.join(own[:8]) or 'none'})")
    return getattr(module, attribute)


def search_current_folder() -> None:
    """Makes modules of the current folder importable."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def module_of(family: str, name: str) -> str | None:
    """The module that a plug-in's build() comes from; None for a built-in member and for an unknown name. Imports nothing."""
    if name in built_in(family):
        return None
    if ":" in name:
        return name.partition(":")[0]
    return next((entry.module for entry in plug_ins(family) if entry.name == name), None)

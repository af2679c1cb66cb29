"""Finds a family's member by name: a file of ours, a plug-in's entry point, or a dotted path `package.module:build`.

Listing reads file names and package metadata and imports nothing.
"""

import hashlib
import importlib.util
import json
import os
import sys
import tomllib
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
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
"""Family -> the package that holds its members, a file each; a file that starts with an underscore, or is `base`, is none."""


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The built-in models: name -> sizes, with the file that builds them under `architecture`."""
    return tomllib.loads((PACKAGE / "models" / "presets.toml").read_text())


def names(family: str) -> list[str]:
    """All names that a family knows without importing one of them; models in the order of their presets."""
    plugged = (entry.name for entry in entry_points(group=f"nanobench.{family}"))
    return list(dict.fromkeys([*built_in(family), *plugged]))


def built_in(family: str) -> list[str]:
    """The names of our own members, which no plug-in can take."""
    if family == "models":
        return list(presets())
    folder = PACKAGE.joinpath(*PACKAGES[family].split("."))
    members = (path.stem for path in folder.glob("*.py") if not path.stem.startswith("_") and path.stem != "base")
    return sorted(stem.replace("_", "-") for stem in members)


def check(family: str, name: str) -> None:
    """Raises UserError unless `name` is known; a dotted path is checked when it is imported."""
    if ":" in name or name in names(family):
        return
    mend = "; your own: --model my_pkg.my_mod:build" if family == "models" else ""
    raise unknown(family.removesuffix("s"), name, names(family), mend)


def find(family: str, name: str) -> Callable[..., Any]:
    """The build() of a family's member, imported now.

    Raises UserError for a name that nobody has and for a dotted path that cannot be imported.
    """
    check(family, name)
    if ":" in name:
        return dotted(name)
    if name not in built_in(family):
        return next(entry for entry in entry_points(group=f"nanobench.{family}") if entry.name == name).load()
    if family == "models":
        sizes = dict(presets()[name])
        return partial(importlib.import_module(f"nanobench.models.{sizes.pop('architecture')}").build, **sizes)
    return importlib.import_module(f"nanobench.{PACKAGES[family]}.{name.replace('-', '_')}").build


def dotted(path: str) -> Callable[..., Any]:
    """The attribute behind `package.module:attribute`; modules of the current folder are found too."""
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path!r} cannot be imported: {what}; give module:function, importable from {os.getcwd()}") from error
    if not callable(getattr(module, attribute, None)):
        own = [name for name, value in vars(module).items() if isfunction(value) and value.__module__ == module_name]
        raise UserError(f"{module_name} has no function {attribute!r} (it has: {', '.join(own[:8]) or 'none'})")
    return getattr(module, attribute)


def source(family: str, name: str) -> str:
    """What a member is made from, told without an import: a preset's sizes, a dotted path's file as a hash, or its name."""
    if family == "models" and name in presets():
        return json.dumps(presets()[name])
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    spec = importlib.util.find_spec(name.partition(":")[0]) if ":" in name else None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest() if spec and spec.origin else name

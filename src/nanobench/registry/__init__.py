"""Finds a member of a family by what is written: a file of this package, a plug-in's entry point, or `package.module:build`.

Listing reads file names, docstrings and package metadata. It imports no member. `spec.py` says how members are written.
"""

import importlib
import os
import re
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
from nanobench.registry import arguments, hub, plug_in, spec
from nanobench.registry.plug_in import first_line, one_line
from nanobench.registry.spec import Spec

PACKAGE = Path(__file__).parent.parent
PACKAGES = {
    "models": "models",
    "engines": "engines",
    "samplers": "samplers",
    "optimizers": "optimizers",
    "executors": "sweep.executors",
}
"""Family -> the package of its members, one file each. `base` and files that start with an underscore are no members."""
GIVEN = {
    "models": ("location",),
    "engines": ("adapter", "sampler", "point", "compiler"),
    "samplers": (),
    "optimizers": ("parameters", "fused"),
    "executors": ("isolation", "seed", "cache", "interpreter", "pinned"),
}
"""Family -> the parameters of build() that nanobench gives."""
BUILT_IN = "built in"
IN_MEMORY = "object"
"""The source of models that Python held in memory. Rows name them by their class and their content."""
NAMED_OBJECT = re.compile(rf"(?P<module>{spec.NAME}(\.{spec.NAME})*)\.{spec.NAME}-[0-9a-f]{{12}}")


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


@cache
def sources() -> Mapping[str, Mapping[str, Any]]:
    """The models that are read from a location: name -> the file that reads them, what a location is, and what they are.

    One that nobody types is not `listed`.
    """
    return tomllib.loads((PACKAGE / "models" / "sources.toml").read_text())


def parse(family: str, text: str) -> Spec:
    """A member of a family from its text. Raises UserError for what cannot be read."""
    return spec.parse(text, sources() if family == "models" else ())


def names(family: str) -> list[str]:
    """All names of a family, models in the order of their presets, plug-ins last. Imports no member."""
    return [*built_in(family), *(entry.name for entry in usable(family))]


def built_in(family: str) -> list[str]:
    """The names of our own members, which no plug-in can take."""
    if family == "models":
        return list(presets())
    stems = (path.stem for path in folder_of(family).glob("*.py"))
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base")


def plug_ins(family: str) -> list[EntryPoint]:
    """The entry points that installed distributions declare for a family, for plots or for metrics."""
    try:
        return list(entry_points(group=f"nanobench.{family}"))
    except Exception:
        return plug_in.readable(f"nanobench.{family}")


def usable(family: str) -> list[EntryPoint]:
    """The plug-ins of a family whose names are free. Warns of the others."""
    taken = [*built_in(family), *(sources() if family == "models" else ())]
    return list(plug_in.usable(plug_ins(family), taken, family.removesuffix("s")))


def folder_of(family: str) -> Path:
    """The folder of a family's own members."""
    return PACKAGE.joinpath(*PACKAGES[family].split("."))


def members(family: str) -> list[Member]:
    """All members of a family with a line about each. Imports none of them."""
    own = [Member(name, describe(family, name)) for name in built_in(family)]
    typed = {name: each for name, each in sources().items() if family == "models" and each.get("listed", True)}
    read = [Member(f"{name}:{each['location']}", each["what"]) for name, each in typed.items()]
    return [*own, *read, *map(describe_plug_in, usable(family))]


def describe(family: str, name: str) -> str:
    """One line about a built-in member: the sizes of a model's preset, or the first line of the file's docstring."""
    if family != "models":
        return first_line(folder_of(family) / f"{name.replace('-', '_')}.py")
    sizes = presets()[name]
    heads = f"{sizes['n_head']} heads"
    if "n_kv_head" in sizes:
        heads += f", {sizes['n_kv_head']} KV heads"
    if "latent_width" in sizes:
        heads += f", latents of {sizes['latent_width']}"
    if "window" in sizes:
        heads += f", windows of {sizes['window']}"
    return (
        f"{sizes['architecture']}: {sizes['n_layer']} layers, {heads}, width {sizes['n_embd']}, "
        f"vocabulary {sizes['vocab_size']}, {sizes['block_size']} positions"
    )


def describe_plug_in(entry: EntryPoint) -> Member:
    """A plug-in with the first line of its module's docstring, or its dotted path. Warns of one that cannot be imported."""
    what = ""
    try:
        what = plug_in.docstring(entry)
    except UserError as error:
        plug_in.warn(str(error))
    return Member(plug_in.printable(entry.name), what or plug_in.printable(entry.value), plug_in.origin(entry))


def check(family: str, text: str) -> None:
    """Raises UserError unless the member exists. `module:function` is checked when it is imported."""
    found = parse(family, text)
    if found.is_function or found.location is not None or found.name in names(family):
        return
    if family == "models" and found.name in sources():
        raise UserError(f"model {text!r} names no location; write it like {found.name}:{sources()[found.name]['location']}")
    fix = "; your own model: --model my_pkg.my_mod:build" if family == "models" else ""
    raise unknown(family.removesuffix("s"), found.name, names(family), fix=fix)


def find(family: str, text: str) -> Callable[..., Any]:
    """The build() of a family's member, imported now, with the arguments that its text gives.

    Raises UserError for an unknown name, a module that cannot be imported, and an argument that build() does not have or allow.
    """
    check(family, text)
    found = parse(family, text)
    build, given = build_of(family, found), dict(found.arguments)
    arguments.refuse_wrong(family, found, build, GIVEN[family])
    if family == "models" and found.name in built_in(family):
        given = {**sizes_of(found.name), **given}
    if found.location is not None:
        return partial(build, found.location, **given)
    return partial(build, **given) if given else build


def sizes_of(name: str) -> dict[str, Any]:
    """The arguments of a preset."""
    return {key: value for key, value in presets()[name].items() if key != "architecture"}


def build_of(family: str, found: Spec) -> Callable[..., Any]:
    """The build() behind a text, without its arguments."""
    if found.is_function:
        return function(found.name)
    if found.location is not None:
        return importlib.import_module(f"nanobench.models.{sources()[found.name]['file']}").build
    if found.name not in built_in(family):
        return plug_in.load_function(next(entry for entry in usable(family) if entry.name == found.name))
    if family == "models":
        file = presets()[found.name]["architecture"].replace("-", "_")
        return importlib.import_module(f"nanobench.models.{file}").build
    return importlib.import_module(f"nanobench.{PACKAGES[family]}.{found.name.replace('-', '_')}").build


def function(path: str) -> Callable[..., Any]:
    """The function behind `package.module:function`. Modules in the current folder are found too.

    A MemoryError is no mistake of the user: under a memory limit it means that the model does not fit.
    """
    module_name, _, attribute = path.partition(":")
    search_current_folder()
    try:
        module = importlib.import_module(module_name)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path!r} cannot be imported: {one_line(error)}; give module:function, importable from {os.getcwd()}"
        ) from error
    if not callable(getattr(module, attribute, None)):
        own = [name for name, value in vars(module).items() if isfunction(value) and value.__module__ == module_name]
        raise UserError(f"{module_name} has no function {attribute!r} (available: {', '.join(own[:8]) or 'none'})")
    return getattr(module, attribute)


def search_current_folder() -> None:
    """Makes modules of the current folder importable; or of the folder that holds the code of a side of a comparison."""
    folder = os.environ.get("NANOBENCH_CODE") or os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)


def module_of(family: str, text: str) -> str | None:
    """The module that a plug-in's build() or a model in memory comes from; None for a built-in member and for an unknown name.

    Imports nothing.
    """
    found = parse(family, text)
    if found.name == IN_MEMORY and found.location is not None:
        return module_in_memory(found.location)
    if found.name in built_in(family) or found.location is not None:
        return None
    if found.is_function:
        return found.name.partition(":")[0]
    return next((plug_in.module(entry) for entry in usable(family) if entry.name == found.name), None)


def module_in_memory(location: str) -> str | None:
    """The module in the name of a model in memory, like `my_pkg.my_mod.MyGPT-3f2a9c1b7e4d`; None if it names none."""
    named = NAMED_OBJECT.fullmatch(location)
    return named["module"] if named else None


def location_of(family: str, text: str) -> Path | None:
    """The file or folder that a source reads: a path, or a folder of the local cache that has the location as a name.

    None for other members, and for a location that is neither.
    """
    found = parse(family, text)
    if found.location is None:
        return None
    path = Path(found.location)
    if sources()[found.name].get("cache") == "hub":
        # Where a model type has the name of a folder, the folder counts only if it holds a model.
        return path if (path / "config.json").is_file() else hub.snapshot(found.location)
    return path if path.exists() else None

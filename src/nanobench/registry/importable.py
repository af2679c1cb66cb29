"""Functions and classes of Python as a worker finds them: by module and name, because it is a new process."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from nanobench.errors import UserError
from nanobench.registry.spec import read_value

FIX = "workers are new processes: put it into a file, like my_gpt.py, and import it from there"
PLAIN = (str, int, float, bool, type(None))
"""Arguments that can be written after a function."""


def is_build(value: object) -> bool:
    """Whether a value is a function or a class, that is, something that builds a model."""
    return isinstance(value, FunctionType | MethodType | type | partial)


def text_of(build: Callable[..., Any]) -> str:
    """A function as the command line names it: `module:function`, with the arguments of a partial.

    Raises UserError where a worker could not import it.
    """
    if isinstance(build, partial):
        return with_arguments(build)
    if isinstance(build, MethodType):
        raise UserError(f"build {build.__qualname__!r} is a method; give a function or a class that a file defines")
    module, name = build.__module__, build.__qualname__
    names = [key for key, value in vars(sys.modules.get(module, build)).items() if value is build and module != "__main__"]
    if not names:
        refuse_unimportable(build, "build")
        raise UserError(f"build {name!r} is not found by its name in {module}; {FIX}")
    refuse_shadowed(module, f"build {name!r}")
    return f"{module}:{name if name in names else names[0]}"


def with_arguments(build: "partial[Any]") -> str:
    """A partial as `module:function:name=value,name=value`. Raises UserError for an argument that cannot be written so."""
    name = getattr(build.func, "__qualname__", str(build.func))
    odd = [repr(value) for value in build.args]
    odd += [f"{key}={value!r}" for key, value in build.keywords.items() if not is_plain(value)]
    if odd:
        raise UserError(
            f"build {name!r} has the argument {odd[0]}; give numbers, names or truth values by keyword, "
            "or a function without arguments that a file defines"
        )
    return ":".join(filter(None, (text_of(build.func), ",".join(f"{key}={value}" for key, value in build.keywords.items()))))


def is_plain(value: object) -> bool:
    """Whether an argument can be written on the command line and read again as it is."""
    if type(value) not in PLAIN or (isinstance(value, str) and (value != value.strip() or set(value) & set(",=?:"))):
        return False
    text = str(value)
    return text != "" and type(read_value(text)) is type(value) and bool(read_value(text) == value)


def refuse_unimportable(value: Any, what: str) -> None:
    """Raises UserError for a function or class that a new process cannot import, or would import from another file."""
    module, name = str(value.__module__), value.__qualname__
    if module == "__main__":
        raise UserError(f"{what} {name!r} is defined in a script or notebook (__main__); {FIX}")
    if "<" in name:
        raise UserError(f"{what} {name!r} is defined inside a function, or is a lambda; {FIX}")
    refuse_shadowed(module, f"{what} {name!r}")


def refuse_shadowed(module: str, what: str) -> None:
    """Raises UserError where the current folder has another module of this name: a worker searches there first."""
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:
        return
    for other in (Path.cwd() / top / "__init__.py", Path.cwd() / f"{top}.py"):
        if other.exists() and Path(file).exists() and not other.samefile(file):
            raise UserError(f"{what} is in {file}, but a worker would import {other}; rename one of them, or change the folder")

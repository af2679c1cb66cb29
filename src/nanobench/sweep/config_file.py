"""Config files: options in TOML, as --config and `nanobench run` take them."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from nanobench import errors
from nanobench.errors import UserError
from nanobench.schema import type_of
from nanobench.sweep.values import MOST

MOST_BYTES = 1_000_000
EXAMPLES = {bool: "true", int: "5", float: "0.5", str: '"text"'}
"""Type of an option -> a value of that type in TOML."""


def from_toml(path: Path, kind: type, command: str) -> dict[str, Any]:
    """The options in a TOML file. Raises UserError for an unknown option, and for the config file of another command."""
    settings = read_toml(path)
    named = settings.pop("command", command)
    if named != command:
        raise UserError(f"{path} is for {named}, not for {command}; run it with: nanobench run {path}")
    known = {field.name: field for field in fields(kind)}
    options: dict[str, Any] = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in known:
            raise errors.unknown("option", key, [name.replace("_", "-") for name in known], where=f" in {path}")
        if name in options:
            raise UserError(f"{path} gives {name.replace('_', '-')!r} twice; keep one of them")
        options[name] = as_typed(path, key, value, type_of(known[name]))
        if isinstance(options[name], list | str) and "\0" in "".join(options[name]):
            raise UserError(f"{path}: {key} contains a NUL character; remove it")
    return options


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as a dictionary. Raises UserError for a file that is missing or broken."""
    try:
        # A device or a pipe can have no end.
        if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):
            raise UserError(f"{path} is not a file of at most {MOST_BYTES:,} bytes; give a TOML file")
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; nanobench list configs shows the configs") from None
    except (ValueError, RecursionError) as error:
        # Also for what is no UTF-8, numbers with thousands of digits, and lists nested thousands deep.
        raise UserError(f"{path} is not TOML: {error}") from None


def as_typed(path: Path, key: str, value: object, kind: type) -> object:
    """A TOML value in the type of its option: a TOML list becomes a LIST, a number may stand for its text."""
    if kind is tuple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if kind is str and isinstance(value, list):
        return ",".join(str(item) for item in value)
    if kind is str and not isinstance(value, bool | dict):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{path}: {key} = {value!r} is not of type {kind.__name__}; write {key} = {EXAMPLES[kind]}")
    return value

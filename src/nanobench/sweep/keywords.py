"""Options as keywords of Python: what nanobench.kv_sweep and its like accept. The names and meanings are the command line's."""

import operator
from collections.abc import Mapping
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex

from nanobench import errors
from nanobench.errors import UserError
from nanobench.schema import type_of
from nanobench.sweep.values import shortened

COMMAND_LINE_ONLY = {
    "json": "the cells are returned",
    "no_plot": "nothing is drawn; nanobench.plot draws a figure",
    "dry_run": "nothing is printed",
    "quiet": "nothing is printed",
}
"""Options that only print -> why a function does not have them."""
EXAMPLES = {bool: "True", int: "5", float: "0.5", str: "'auto' or a list", tuple: "['batch_size=1,4']"}
"""Type of an option -> a value of that type."""


def read(kind: type, function: str, given: Mapping[str, object]) -> Any:
    """The options of a command from keywords; None stands for the default.

    Raises UserError for an unknown keyword, and for a value of another type than that of the option.
    """
    known = {field.name: field for field in fields(kind)}
    choices = [name for name in known if name not in COMMAND_LINE_ONLY]
    options: dict[str, object] = {}
    for name, value in given.items():
        if name in known and name in COMMAND_LINE_ONLY:
            raise UserError(f"{name} is an option of the command line alone: {COMMAND_LINE_ONLY[name]}; leave it out")
        if name not in known:
            raise errors.unknown("option", name, choices, where=f" of {function}")
        if value is not None:
            options[name] = typed(name, value, type_of(known[name]))
    return kind(**options)


def typed(name: str, value: Any, kind: type) -> object:
    """A value in the type of its option: a list becomes a LIST, and a number may stand for its text."""
    if kind is tuple:
        return [text_of(name, each, kind) for each in ([value] if isinstance(value, str) else listed(name, value, kind))]
    if kind is str:
        parts = [value] if isinstance(value, str | Path | Real) else listed(name, value, kind)
        return ",".join(text_of(name, each, kind) for each in parts)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return operator.index(value)
    if type(value) is not kind:
        raise wrong_type(name, value, kind)
    return value


def listed(name: str, value: Any, kind: type) -> list[Any]:
    """The items of a list, a range, or an array of NumPy or pandas."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, list | tuple | range):
        raise wrong_type(name, value, kind)
    return list(values)


def text_of(name: str, value: Any, kind: type) -> str:
    """One value as it is written on the command line."""
    if isinstance(value, bool) or not isinstance(value, str | Path | Real):
        raise wrong_type(name, value, kind)
    return str(value)


def wrong_type(name: str, value: object, kind: type) -> UserError:
    """The error for a value of another type than that of the option."""
    what = "list" if kind is tuple else kind.__name__
    return UserError(f"{name}={shortened(ascii(value))} is not of type {what}; write {name}={EXAMPLES[kind]}")

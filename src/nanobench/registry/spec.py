"""How a member of a family is written: its name, or `module:function`; the location that a source reads; and arguments.

gpt2                                a name
gpt2:n_layer=6,n_kv_head=4          a name with arguments
my_pkg.my_mod:build                 a function, also in a module of the current folder
my_pkg.my_mod:build:width=64        a function with arguments
nanogpt:out/ckpt.pt                 a source with a location
hf:gpt2?random,n_layer=2            a source with a location and arguments
"""

import ast
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanobench.errors import UserError

NAME = r"[^\W\d]\w*"
"""A name of Python."""
FUNCTION = re.compile(rf"{NAME}(\.{NAME})*:{NAME}")
ARGUMENT = re.compile(rf"{NAME}=")
WORDS = {"true": True, "false": False, "none": None}
"""Values that are not written as in Python, too."""


@dataclass(frozen=True)
class Spec:
    """A member as it is written."""

    name: str
    """of the member, or module:function"""
    location: str | None = None
    """what a source reads: a path, or a name that the source knows"""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """for build()"""

    @property
    def is_function(self) -> bool:
        """Whether it is module:function."""
        return ":" in self.name


def split(text: str) -> list[str]:
    """The parts of a LIST of members. A part that is `name=value` is an argument of the member before it."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and ARGUMENT.match(part.strip()):
            parts[-1] += "," + part
        else:
            parts.append(part)
    return parts


def parse(text: str, sources: Collection[str] = ()) -> Spec:
    """A member from its text. `sources` are the names that take a location.

    Raises UserError for an argument without a value, and for a function that is not module:function.
    """
    name, _, rest = text.partition(":")
    if name in sources:
        location, _, arguments = rest.partition("?")
        if not location:
            raise UserError(f"{text!r} names no location; write it like {name}:PATH")
        return Spec(name, location, read_arguments(text, arguments, flags=True))
    if ARGUMENT.match(rest):
        return Spec(name, None, read_arguments(text, rest))
    function, _, arguments = rest.partition(":")
    if not rest and ":" not in text:
        return Spec(name)
    if not FUNCTION.fullmatch(f"{name}:{function}"):
        raise UserError(f"{text!r} is not module:function; write it like my_pkg.my_mod:build")
    return Spec(f"{name}:{function}", None, read_arguments(text, arguments))


def read_arguments(text: str, arguments: str, flags: bool = False) -> dict[str, Any]:
    """The arguments of `key=value,key=value`. With `flags`, a key alone is True."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in arguments.split(","))):
        key, equals, value = part.partition("=")
        if not re.fullmatch(NAME, key) or not (equals or flags) or (equals and not value):
            raise UserError(f"{text!r}: {part!r} is not key=value; write arguments like n_layer=6,n_head=4")
        if key in found:
            raise UserError(f"{text!r} gives {key} twice; give it once")
        found[key] = read_value(value) if equals else True
    return found


def read_value(text: str) -> Any:
    """A number, a truth value or None; any other text as it is."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, int | float) else text


def with_argument(text: str, sources: Collection[str], name: str, value: object) -> str:
    """A member's text with one argument more. Raises UserError where the text gives this argument already."""
    found = parse(text, sources)
    if name in found.arguments:
        raise UserError(f"{text!r} gives {name} already; leave out one of both")
    if found.arguments:
        return f"{text},{name}={value}"
    return f"{text}{'?' if found.location is not None else ':'}{name}={value}"

"""The arguments that a text gives to build(): their names, and the values that each may have."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from nanobench.errors import UserError, unknown
from nanobench.registry.spec import Spec

SIMPLE = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none"}
"""The types that are checked, and their words. A parameter of another type takes any value."""
VARIABLE = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an argument of build() may be, in its annotation: `chunk: Annotated[int, Range(at_most=64)] = 16`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    def __contains__(self, number: float) -> bool:
        """Whether a number is in the range."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
        )

    def __str__(self) -> str:
        """The range in words: `above 0 and at most 1`. Empty without a limit."""
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most}
        return " and ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)


Count = Annotated[int, Range(at_least=1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(above=0, at_most=1)]


def refuse_wrong(family: str, found: Spec, build: Callable[..., Any], given: Collection[str]) -> None:
    """Raises UserError for an argument that build() does not have, and for a value that its annotation does not allow.

    `given` are the parameters that nanobench passes itself.
    """
    parameters = parameters_of(build)
    if parameters is None:
        return
    name = found.name if found.location is None else f"{found.name}:{found.location}"
    where = f" of {family.removesuffix('s')} {name!r}"
    own = [each.name for each in parameters.values() if each.kind not in VARIABLE and each.name not in given]
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    for name, value in found.arguments.items():
        if name in own:
            refuse_wrong_value(name, value, parameters[name].annotation, where)
        elif not takes_any:
            raise unknown("argument", name, own, where)


def parameters_of(build: Callable[..., Any]) -> Mapping[str, Parameter] | None:
    """The parameters of build(); None if Python cannot tell. Annotations that cannot be evaluated stay texts."""
    try:
        return signature(build, eval_str=True).parameters
    except Exception:
        try:
            return signature(build).parameters
        except (TypeError, ValueError):
            return None


def refuse_wrong_value(name: str, value: object, annotation: Any, where: str) -> None:
    """Raises UserError unless the value is of one of the annotation's types, and in its range."""
    kinds = kinds_of(annotation)
    if kinds and not any(fits(value, kind, allowed) for kind, allowed in kinds):
        words = " or ".join(SIMPLE[kind] + (f" ({limits})" if (limits := str(allowed)) else "") for kind, allowed in kinds)
        raise UserError(f"{name}={value}{where} is not allowed; give {words}")


def kinds_of(annotation: Any) -> list[tuple[type, Range]]:
    """The types of an annotation, each with its range. Empty if one of them is not SIMPLE: then any value is allowed."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds: list[tuple[type, Range]] = []
    for option in options:
        kind, *notes = get_args(option) if get_origin(option) is Annotated else (option,)
        if kind not in SIMPLE:
            return []
        kinds.append((kind, next((each for each in notes if isinstance(each, Range)), Range())))
    return kinds


def fits(value: object, kind: type, allowed: Range) -> bool:
    """Whether a value is of a type and in a range. A whole number is a number, and a truth value is none."""
    if kind not in (int, float):
        return type(value) is kind
    return isinstance(value, int | kind) and not isinstance(value, bool) and value in allowed

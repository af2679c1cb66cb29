"""Columns of plug-ins: an entry point of the group `nanobench.metrics` names one Metric, or a list of them."""

import math
import numbers
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any

from nanobench import registry
from nanobench.errors import UserError
from nanobench.registry import plug_in
from nanobench.results.cell import Cell
from nanobench.results.metrics.metric import COUNT, FLAG, HIGHER, LOWER, NEITHER, TEXT, Metric

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
MOST_COUNT = 2**63
WORDS = {TEXT: "text", COUNT: "a whole number", FLAG: "True or False"}
"""Unit -> the values that it has; all others have finite numbers."""


@dataclass(frozen=True)
class PlugIn:
    """A column of a plug-in."""

    metric: Metric
    """gives None instead of failing"""
    origin: str
    """its distribution"""


def load(taken: Collection[str]) -> tuple[PlugIn, ...]:
    """The metrics of all plug-ins, imported now. One that is no metric, or whose name is `taken`, is a warning."""
    found: dict[str, PlugIn] = {}
    for entry in registry.plug_ins("metrics"):
        title = plug_in.title(entry)
        for metric in metrics_of(entry):
            wrong = problem(metric, taken, found)
            if wrong:
                plug_in.warn(f"metric {metric.name!r} of {title} is ignored: {wrong}")
            else:
                found[metric.name] = PlugIn(guarded(metric, title), plug_in.origin(entry))
    return tuple(found.values())


def metrics_of(entry: EntryPoint) -> list[Metric]:
    """The metrics that a plug-in gives; none and a warning where it cannot be imported or gives something else."""
    try:
        given = plug_in.load(entry)
    except UserError as error:
        plug_in.warn(str(error))
        return []
    metrics = list(given) if isinstance(given, list | tuple) else [given]
    other = next((type(each).__name__ for each in metrics if not isinstance(each, Metric)), None)
    if other:
        plug_in.warn(f"{plug_in.title(entry)} gives a {other}, not a Metric or a list of them; {plug_in.FIX}")
        return []
    return metrics


def problem(metric: Metric, taken: Collection[str], others: Collection[str]) -> str | None:
    """Why a metric cannot be a column, and the fix; None if it can."""
    if not isinstance(metric.name, str) or not NAME.fullmatch(metric.name):
        return "a column is named like tokens_per_joule; rename it"
    if metric.name in taken:
        return "a built-in column has this name, and no plug-in replaces it; rename it"
    if metric.name in others:
        return "another plug-in has a column of this name; uninstall one of them"
    if not all(isinstance(each, str) and each and each.isprintable() for each in (metric.unit, metric.formula)):
        return "its unit and its formula are not texts of one line; correct them"
    if metric.better not in (HIGHER, LOWER, NEITHER):
        return "`better` is not higher, lower or empty; correct it"
    return None if callable(metric.compute) else "`compute` is no function; correct it"


def guarded(metric: Metric, title: str) -> Metric:
    """The same metric, null where its function fails or gives what its unit cannot have. The first failure is a warning."""
    failed = False

    def compute(cell: Cell) -> Any:
        nonlocal failed
        try:
            return checked(metric.compute(cell), metric.unit)
        except (Exception, SystemExit) as error:
            if not failed:
                why = f"{plug_in.one_line(error)}; its value is null in such cells: {plug_in.FIX}"
                plug_in.warn(f"metric {metric.name!r} of {title} fails: {why}")
            failed = True
            return None

    return replace(metric, compute=compute)


def checked(value: Any, unit: str) -> Any:
    """A value as its column stores it; None where it is not known. Raises TypeError for what has no place there."""
    if value is None:
        return None
    convert = CONVERSIONS.get(unit, as_number)
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"it gives {ascii(value)[:60]}, which is not {WORDS.get(unit, 'a finite number')}") from None


def as_number(value: Any) -> float | None:
    """A finite number; None for one that is not a number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    number = float(value)
    if math.isinf(number):
        raise ValueError
    return None if math.isnan(number) else number


def as_count(value: Any) -> int:
    """A whole number that fits into 64 bits."""
    count = operator.index(value)
    if isinstance(value, bool) or abs(count) >= MOST_COUNT:
        raise ValueError
    return count


def as_flag(value: Any) -> bool:
    """True or False, also NumPy's."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError
    return bool(value)


def as_text(value: Any) -> str:
    """A text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


CONVERSIONS: dict[str, Callable[[Any], Any]] = {COUNT: as_count, FLAG: as_flag, TEXT: as_text}

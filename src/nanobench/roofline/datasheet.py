"""What makers promise of their devices: memory, bandwidth, operations per second and power; the peaks of MFU and MBU.

A device that datasheet.toml does not know has no peak: None rather than a wrong one.
"""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from nanobench import errors


@dataclass(frozen=True)
class Datasheet:
    """One device as its maker describes it. None where a figure is not printed, or not certain."""

    name: str
    bytes_per_s: float | None = None
    flops: dict[str, float] = field(default_factory=dict)
    """dense operations per second by dtype, and by `tf32`: float32 rounded for tensor cores"""
    memory_bytes: int | None = None
    power_w: float | None = None
    match: str = ""
    """regular expression for all of what torch or /proc/cpuinfo calls the device"""
    source: str = ""


@cache
def sheets() -> dict[str, Datasheet]:
    """All that are known, by their short names."""
    tables = tomllib.loads((resources.files(__package__) / "datasheet.toml").read_text())
    return {key: Datasheet(**table) for key, table in tables.items()}


def names() -> list[str]:
    """The short names."""
    return list(sheets())


def find(name: str) -> Datasheet | None:
    """The sheet of a device by what torch or /proc/cpuinfo calls it; None for one that is not known."""
    return next((sheet for sheet in sheets().values() if re.fullmatch(sheet.match, name)), None)


def named(name: str) -> Datasheet:
    """The sheet of a short name such as `h200`. Raises UserError for a name that nobody has."""
    if name not in sheets():
        raise errors.unknown("datasheet", name, names())
    return sheets()[name]

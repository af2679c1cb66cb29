"""Datasheets of devices: memory, bandwidth, operations per second and power. They are the peaks of MFU and MBU.

A device that is not in datasheet.toml has no peak: MFU and MBU are then None.
"""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from nanobench import errors


@dataclass(frozen=True)
class Datasheet:
    """The figures of one device, as its vendor publishes them. None for a figure that is not published or not certain."""

    name: str
    bytes_per_s: float | None = None
    flops: dict[str, float] = field(default_factory=dict)
    """dense FLOP/s by dtype, and for `tf32` (float32 rounded for tensor cores)"""
    memory_bytes: int | None = None
    power_w: float | None = None
    match: str = ""
    """regular expression for the full name of the device in torch or /proc/cpuinfo"""
    source: str = ""


@cache
def sheets() -> dict[str, Datasheet]:
    """All datasheets, by short name."""
    tables = tomllib.loads((resources.files(__package__) / "datasheet.toml").read_text())
    return {key: Datasheet(**table) for key, table in tables.items()}


def names() -> list[str]:
    """The short names of all datasheets."""
    return list(sheets())


def find(name: str) -> Datasheet | None:
    """The datasheet for a device name as reported by torch or /proc/cpuinfo; None if there is none."""
    return next((sheet for sheet in sheets().values() if re.fullmatch(sheet.match, name)), None)


def named(name: str) -> Datasheet:
    """The datasheet of a short name such as `h200`. Raises UserError for an unknown name."""
    if name not in sheets():
        raise errors.unknown("datasheet", name, names())
    return sheets()[name]

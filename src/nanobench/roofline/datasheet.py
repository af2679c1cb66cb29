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
    also: str = ""
    """a shorter name that stands for this variant of a device"""
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
    """The datasheet of a short name such as `h200`, or of a name without a variant, such as `a100`.

    Raises UserError for an unknown name, and for one whose variants are all that is known.
    """
    if name in sheets():
        return sheets()[name]
    common = next((sheet for sheet in sheets().values() if sheet.also == name != ""), None)
    if common is None and variants(name):
        raise errors.UserError(f"{name} has several datasheets; give one of {', '.join(variants(name))}")
    if common is None:
        raise errors.unknown("datasheet", name, names())
    return common


def variants(name: str) -> list[str]:
    """The short names that begin with a name and a hyphen, like a100-40gb for a100."""
    return [key for key in sheets() if key.startswith(f"{name}-")]

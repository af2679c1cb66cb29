"""A side of an A/B comparison: what its text names, and how its workers differ from those of the other side."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nanobench import registry
from nanobench.errors import UserError, unknown
from nanobench.schema import Arm, Point
from nanobench.sweep import revision
from nanobench.sweep.axes import NUMBERS, check_names
from nanobench.sweep.executors.base import OWN, Interpreter
from nanobench.sweep.options import refuse_not_in_training
from nanobench.sweep.revision import Revision
from nanobench.sweep.values import read_numbers

ARM_FIELDS = tuple(each.name for each in fields(Arm) if each.name != "side")
POINT_FIELDS = ("model", "dtype", "threads", "optimizer")
"""Fields of a point that may differ between the sides: the work stays the same."""


@dataclass(frozen=True)
class Side:
    """One side, before its files are written."""

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """fields of the arm or the point -> this side's value"""
    revision: str | None = None
    """the git revision that holds its code; None for the code that is imported here"""
    python: str | None = None
    """its interpreter; None for this one"""

    @classmethod
    def of(cls, text: str, arguments: Iterable[str], python: str) -> "Side":
        """What a text and the options of a side name. Raises UserError for what names nothing."""
        changes = read_changes(arguments)
        if python and not os.access(python, os.X_OK):
            raise UserError(f"{python!r} is no program; give the path of a Python, like /opt/venv/bin/python")
        kind = kind_of(text)
        if kind == "revision":
            return cls(text, changes, text, python or None)
        return cls(text, {kind: text, **changes}, None, python or None)

    def beside(self, other: "Side", model: str) -> "Side":
        """This side where only the other one names a model of its own: then it has the model of both, `model`."""
        if "model" in self.changes or "model" not in other.changes:
            return self
        return replace(self, changes={**self.changes, "model": model})

    def refuse_other_fields(self, kind: str, axes: Collection[str]) -> None:
        """Raises UserError for a field that this kind of work, with these axes, does not have, and for a value it can't use."""
        known = [name for name in (*ARM_FIELDS, *POINT_FIELDS) if name in axes]
        if other := next((name for name in self.changes if name not in known), None):
            raise UserError(f"{other} is not for {kind}; a side of {kind} can change: {', '.join(known)}")
        if kind == "training":
            refuse_not_in_training({name: [value] for name, value in self.changes.items()})

    def point(self, point: Point) -> Point:
        """The point as this side runs it."""
        return replaced(point, self.changes, POINT_FIELDS)

    def arm(self, arm: Arm, name: str) -> Arm:
        """The arm as this side runs it, with the side's name."""
        return replaced(replaced(arm, self.changes, ARM_FIELDS), {"side": name}, ("side",))

    def interpreter(self, found: Revision | None, scratch: Path) -> Interpreter:
        """What runs its workers. `scratch` is a folder for links and caches."""
        if found is None and self.python is None:
            return OWN
        variables = {}
        path = [*(found.search_path if found else ()), *remapped(os.environ.get("PYTHONPATH", ""), found)]
        if self.python is not None:
            path.append(str(link_to_nanobench(scratch)))
        if found is not None:
            variables["NANOBENCH_CODE"] = str(found.folder / found.prefix)
            # Otherwise `python -m` searches the current folder first, where the files as they are now lie.
            variables["PYTHONSAFEPATH"] = "1"
        return Interpreter(self.python or OWN.python, {**variables, "PYTHONPATH": os.pathsep.join(path)})


def kind_of(text: str) -> str:
    """What a text names: `model`, `engine`, or `revision`. Names of members come before revisions."""
    if ":" in text and not text.startswith((".", "/")):
        registry.check("models", text)
        return "model"
    for family, kind in (("models", "model"), ("engines", "engine")):
        if text in registry.names(family):
            return kind
    if revision.is_revision(text):
        return "revision"
    raise unknown(
        "side", text, [*registry.names("engines"), *registry.names("models")], " (no git revision here, engine or model)"
    )


def read_changes(arguments: Iterable[str]) -> dict[str, Any]:
    """Fields and values of FIELD=VALUE. Raises UserError for a field that a side cannot change, and for an unknown value."""
    changes: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value:
            raise UserError(f"{text!r} is not FIELD=VALUE; write it like compile_mode=default")
        if name not in (*ARM_FIELDS, *POINT_FIELDS):
            raise unknown("field", name, (*ARM_FIELDS, *POINT_FIELDS))
        changes[name] = read_number(name, value) if name in NUMBERS else value
        if value == "auto" and name in ("model", "dtype"):
            raise UserError(f"{text!r} does not say which {name}; give one")
    check_names({name: [value] for name, value in changes.items()})
    return changes


def read_number(name: str, text: str) -> int:
    """One whole number from 1 up. Raises UserError for another text."""
    numbers = read_numbers(name, text)
    if len(numbers) > 1:
        raise UserError(f"{name}={text} has several values; give one to each side")
    return numbers[0]


def replaced(noun: Any, changes: Mapping[str, Any], names: Iterable[str]) -> Any:
    """A dataclass instance with those changes that are among `names`."""
    return type(noun)(**{**vars(noun), **{name: value for name, value in changes.items() if name in names}})


def remapped(path: str, found: Revision | None) -> list[str]:
    """The folders of PYTHONPATH; one inside the repository becomes that of the revision."""
    folders = []
    for entry in filter(None, path.split(os.pathsep)):
        here = Path(entry).resolve()
        inside = found is not None and here.is_relative_to(found.top)
        folders.append(str(found.folder / here.relative_to(found.top)) if found is not None and inside else str(here))
    return folders


def link_to_nanobench(scratch: Path) -> Path:
    """A folder from which another Python imports this nanobench, and nothing else of this environment."""
    folder = scratch / "import"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "nanobench"
    if not link.is_symlink():
        link.symlink_to(Path(__file__).parents[1])
    return folder

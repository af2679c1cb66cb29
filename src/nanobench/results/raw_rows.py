"""The rows of raw files, and the records that they hold."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from nanobench.records import LaunchRecord, Outcome, Repetition
from nanobench.schema import Arm, Point

OUTCOME = "outcome"
"""`kind` of the row that holds an outcome."""
RawRow = dict[str, Any]
"""A row of a raw file: column -> value."""
HEAD_COLUMNS = {
    "trial": str,
    "protocol": int,
    "identity": str,
    "launch": int,
    "process": int,
    "seed": int,
    "target_ci": float,
    "arm_index": int,
    "extra": bool,
    "node": str,
}
RAW_COLUMNS: dict[str, object] = {
    **HEAD_COLUMNS,
    **{each.name: each.type for noun in (Point, Arm, Repetition, Outcome) for each in fields(noun)},
}
"""Column of the raw files -> its Python type."""


def rows_of(record: LaunchRecord) -> list[RawRow]:
    """The rows of a raw file: one per repetition and one for the outcome, each with the trial, the point and the arm."""
    head = {name: getattr(record, name) for name in HEAD_COLUMNS} | vars(record.point) | vars(record.arm)
    rows = [vars(each) for each in record.repetitions] + [{"kind": OUTCOME, **vars(record.outcome)}]
    return [{**dict.fromkeys(RAW_COLUMNS), **head, **row} for row in rows]


def records_of(rows: Iterable[RawRow]) -> list[LaunchRecord]:
    """The records that rows of raw files hold, in their order. A column that a row lacks is at its default, or None."""
    groups: dict[tuple[object, ...], list[RawRow]] = {}
    for row in rows:
        groups.setdefault((row.get("trial"), row.get("launch"), row.get("process"), row["arm_index"]), []).append(row)
    return [_record_of(group) for group in groups.values()]


def _record_of(rows: list[RawRow]) -> LaunchRecord:
    last = rows[-1]
    assert last["kind"] == OUTCOME
    head: dict[str, Any] = {name: last.get(name) for name in HEAD_COLUMNS}
    head["extra"] = bool(head["extra"])
    return LaunchRecord(
        **head,
        point=Point(**_part(Point, last)),
        arm=Arm(**_part(Arm, last)),
        repetitions=tuple(_repetition_of(row) for row in rows[:-1]),
        outcome=Outcome.from_json(last),
    )


def _repetition_of(row: RawRow) -> Repetition:
    known: dict[str, Any] = _part(Repetition, row)
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Repetition(**{**known, **lists})


def _part(noun: type, row: RawRow) -> dict[str, Any]:
    """The fields of a dataclass that a row knows; those without a default are None where it does not."""
    return {name: row.get(name) for name, needed in _names(noun) if needed or row.get(name) is not None}


@cache
def _names(noun: type) -> tuple[tuple[str, bool], ...]:
    """Field -> whether it has no default."""
    return tuple((each.name, each.default is MISSING) for each in fields(noun))

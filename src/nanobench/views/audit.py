"""Faulty methods beside our measurement, as a table and as data."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from nanobench.analysis.audit import Found, Row
from nanobench.results.derive import CellRow
from nanobench.results.run_info import RunInfo
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column

STYLES = {Found.WRONG: "bold red", Found.NO_NUMBER: "bold red", Found.SMALL: "", Found.SKIPPED: "dim", Found.UNKNOWN: "yellow"}


def figure(value: float | None, unit: str) -> str | None:
    """A value in its unit."""
    if value is None:
        return None
    if unit == "x":
        return format.times(value)
    return format.text(value, unit) + (" tok/s" if unit == "tok/s" else "")


def ours(row: CellRow) -> str | None:
    """Our value with its interval."""
    value, unit = figure(row["ours"], row["unit"]), row["unit"]
    if value is None or row["low"] in (None, row["ours"]):
        return value
    low, high = (figure(row[bound], unit) or "" for bound in ("low", "high"))
    tail = {"x": "x", "tok/s": " tok/s"}.get(unit, "")
    return f"{value} [{low.removesuffix(tail)}, {high.removesuffix(tail)}]"


COLUMNS = (
    Column("method", lambda row: row["name"], align="left"),
    Column("publishes", lambda row: row["publishes"], align="left", drop=1),
    Column("published", lambda row: figure(row["published"], row["unit"])),
    Column("ours [95 %]", ours),
    Column("published\n/ ours", lambda row: format.times(row["factor"]), sorts_by="factor"),
    Column("here", lambda row: row["found"], align="left", wrap=12, style=lambda row: STYLES.get(row["found"], "")),
    Column("what the script does", lambda row: row["fault"], align="left", wrap=20, drop=2),
)


def flat(row: Row) -> CellRow:
    """A row as plain values."""
    each = row.specimen
    return {
        "name": each.name,
        "publishes": each.publishes,
        "unit": each.unit,
        "published": row.published,
        "ours": row.ours.value,
        "low": row.ours.low,
        "high": row.ours.high,
        "factor": row.factor,
        "found": row.found,
        "fault": each.fault,
        "why": each.why,
        "note": row.note,
    }


def table(rows: Sequence[Row]) -> CellTable:
    """A row per method."""
    return CellTable(COLUMNS, [flat(row) for row in rows])


def sentences(rows: Sequence[Row]) -> Iterator[str]:
    """Why each method is wrong, what has no figure, and how many were wrong here."""
    for row in rows:
        yield f"{row.specimen.name}: {row.specimen.why}" + (f" ({row.note})" if row.note else "")
    counts = Counter(row.found for row in rows)
    yield ", ".join(f"{counts[found]} {found}" for found in Found if counts[found])


def where(info: RunInfo) -> str:
    """Model, shape and machine of the methods."""
    point = info.plan.points[0]
    lengths = f"prompt {point.prompt_len}, {point.new_tokens} new tokens"
    return f"{point.model}, {point.dtype}, batch {point.batch_size}, {lengths}, {info.hardware}"


def document(rows: Sequence[Row], run: str) -> dict[str, Any]:
    """All of it for programs."""
    return {"run": run, "rows": [flat(row) for row in rows]}

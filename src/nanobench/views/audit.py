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


def where(info: RunInfo, cells: Sequence[CellRow]) -> str:
    """Model, shape, launches and machine of the methods, as the footers of figures have them."""
    point, launches = info.plan.points[0], [row["launches_ok"] for row in cells if row["launches_ok"]]
    few, many = min(launches, default=0), max(launches, default=0)
    count = format.count(many, "launch") if few == many else f"{few} to {many} launches"
    facts = [point.model, point.dtype, point.device, format.count(point.threads, "thread"), f"batch {point.batch_size}"]
    return "  |  ".join([*facts, f"prompt {point.prompt_len}", f"{point.new_tokens} new tokens", count, info.hardware])


def left_out(rows: Sequence[Row]) -> str:
    """The methods without a factor, with what was found; empty where there are none."""
    bare = [row for row in rows if row.factor is None]
    groups = {found: ", ".join(row.specimen.name for row in bare if row.found is found) for found in Found}
    return "; ".join(f"{names} ({found})" for found, names in groups.items() if names)


def document(rows: Sequence[Row], run: str) -> dict[str, Any]:
    """All of it for programs."""
    return {"run": run, "rows": [flat(row) for row in rows]}

"""Tables with a row per cell, as a specification: which columns, what they hold, how they are laid out.

`console.py` renders one for a terminal, `markdown.py` for a page, `html/grid.py` for a browser. All show the same texts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nanobench.analysis.verdict import SETTING, mark_of, marked
from nanobench.records import MEASURED
from nanobench.results.derive import BY_NAME, CellRow
from nanobench.views import format

STATUS_STYLES = {
    "ok": "green",
    "imprecise": "yellow",
    "unstable": "magenta",
    "no_steady_state": "magenta",
    "implausible": "magenta",
    "wrong": "bold red",
    "skipped": "dim",
    "oom": "red",
    "timeout": "red",
    "error": "red",
}
LONG = ("run", "model")
"""Fields of a setting that may be longer than a terminal has room for."""
WORDS = (*LONG, "dtype")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    head: str
    """a line break is only for the terminal"""
    text: Callable[[CellRow], str | None]
    """None where it is not known"""
    needs: str = ""
    """the column is left out where no cell knows this field"""
    applies: Callable[[CellRow], bool] = lambda row: True
    """whether a cell can have it: the reference has no speedup"""
    align: str = "right"
    drop: int | None = None
    """a narrow terminal leaves out the columns that have a number, the smallest first"""
    wrap: int | None = None
    """texts may take several lines, and this is their smallest width"""
    sorts_by: str = ""
    """the field that orders rows by this column, where it is not `needs`; without either the text does"""
    is_key: bool = False
    """part of a cell's name; a terminal does not repeat it from row to row"""
    note: Callable[[CellRow], str | None] = lambda row: None
    """what a terminal adds to the text; needs `wrap`"""
    style: Callable[[CellRow], str] = lambda row: ""
    """the colour on a terminal"""

    @property
    def name(self) -> str:
        """The head on one line."""
        return " ".join(self.head.split())

    def cell(self, row: CellRow) -> str:
        """The text of a cell."""
        text = self.text(row) if self.applies(row) else None
        return format.MISSING if text is None else text


@dataclass(frozen=True)
class CellTable:
    """Columns and the cells that they show, in order."""

    columns: tuple[Column, ...]
    rows: list[CellRow]
    title: str = ""


def make(rows: list[CellRow], columns: Iterable[Column], title: str = "") -> CellTable:
    """The table of some cells: their names, and those columns that some cell knows."""
    known = [column for column in columns if not column.needs or any(row.get(column.needs) not in (None, []) for row in rows)]
    return CellTable((*keys(rows), *known), rows, title)


def keys(rows: list[CellRow]) -> list[Column]:
    """The columns that name a cell: what differs of its setting, its batch size and its arm."""
    fields = [
        Column(
            name.replace("_", " "),
            field_text(name),
            align="left" if name in WORDS else "right",
            wrap=9 if name in LONG else None,
            is_key=True,
            sorts_by=name,
        )
        for name in varying(rows)
    ]
    batch = Column("batch", field_text("batch_size"), is_key=True, sorts_by="batch_size")
    return [*fields, batch, Column("arm", field_text("arm"), align="left")]


def varying(rows: list[CellRow]) -> list[str]:
    """The fields of a setting in which cells differ, beside the batch size. The only place that decides this."""
    return [name for name in ("run", *SETTING) if len({row[name] for row in rows if row.get(name) is not None}) > 1]


def in_order(rows: list[CellRow]) -> list[CellRow]:
    """The cells by what differs of their setting, then by batch size and arm."""
    fields = (*varying(rows), "batch_size", "arm_index")
    return sorted(rows, key=lambda row: tuple((row[name] is not None, row[name]) for name in fields))


def namer(rows: list[CellRow]) -> Callable[[CellRow], str]:
    """What names each of these cells in words: cached at batch 93 (prompt_len 50)."""
    fields = varying(rows)

    def name_of(row: CellRow) -> str:
        where = ", ".join(f"{name} {row[name]}" for name in fields)
        return f"{marked(row['arm'], [row])} at batch {row['batch_size']}" + (f" ({where})" if where else "")

    return name_of


def cell_name(rows: list[CellRow], row: CellRow) -> str:
    """The name of one cell among others."""
    return namer(rows)(row)


# Columns that several tables have
def field_text(name: str) -> Callable[[CellRow], str | None]:
    """The text of a field that holds words or a plain number."""
    return lambda row: None if row[name] is None else str(row[name])


def value(head: str, name: str, unit: str = "", drop: int | None = None) -> Column:
    """A column of one field of the cells, in a unit; without one, in that of its metric."""
    unit = unit or BY_NAME[name].unit
    return Column(head, lambda row: format.text(row[name], unit), needs=name, drop=drop)


def status_style(name: str) -> Callable[[CellRow], str]:
    """The colour of a status on a terminal."""
    return lambda row: STATUS_STYLES.get(row[name] or "", "")


def speedup_text(row: CellRow) -> str | None:
    """5.31x [4.92, 5.70]; the reference arm reads '(reference)'. An arm whose output is not the model's says so."""
    if row["arm_index"] == 0:
        return "(reference)" if row["status"] in MEASURED else None
    text = format.times(row["speedup"], row["speedup_lo"], row["speedup_hi"])
    return f"{text} {row['gate']}" if row["speedup"] is not None and mark_of(row) else text


def reason_of_failure(row: CellRow) -> str | None:
    """Why a cell was not measured; None for one that was."""
    return row["reason"] if row["status"] not in MEASURED else None


SPEEDUP = Column("speedup\n[95 %]", speedup_text, sorts_by="speedup")
STATUS = Column(
    "status",
    field_text("status"),
    align="left",
    wrap=9,
    note=reason_of_failure,
    style=status_style("status"),
)
SPEEDUP_STATUS = Column(
    "speedup\nstatus",
    field_text("speedup_status"),
    needs="speedup_status",
    applies=lambda row: row["speedup_status"] in MEASURED,
    align="left",
    wrap=9,
    style=status_style("speedup_status"),
)

"""How reliable a run is: launches, spread, disturbances and the machine's state, as lines of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from nanobench.analysis import diagnostics, verdict
from nanobench.records import MEASURED, Description, Status
from nanobench.results.derive import CellRow
from nanobench.results.store import records
from nanobench.views import format, markdown
from nanobench.views.cell_table import CellTable, Column, field_text, in_order, keys
from nanobench.views.markdown import escaped

LEGEND = (
    "sd: standard deviation of a pair's ratio, within a launch and between launches; "
    "A/A: the reference compared with itself, which is 1 if the measurement is right; "
    "wider by: what the interval of a ratio allows for because the arms may have been disturbed differently"
)


def is_reference(row: CellRow) -> bool:
    """Whether a cell is of the arm that ratios refer to; only that one has an A/A contrast."""
    return bool(row["arm_index"] == 0)


def has_ratio(row: CellRow) -> bool:
    """Whether a cell is of an arm that is compared with the reference."""
    return not is_reference(row)


def reading(head: str, name: str, unit: str = "count") -> Column:
    """A reading that each measured cell can have."""
    return Column(head, lambda row: known(format.text(row[name], unit)), sorts_by=name)


def known(text: str) -> str | None:
    """None for a dash."""
    return None if text == format.MISSING else text


LAUNCHES = reading("launches", "launches_ok")
PAIRS = Column("pairs", lambda row: known(format.text(row["pairs"], "count")), applies=has_ratio, sorts_by="pairs")
SD_BETWEEN = Column(
    "sd between launches", lambda row: known(format.percent(row["sd_between"])), applies=has_ratio, sorts_by="sd_between"
)
STATUS = Column("status", field_text("status"), align="left")
SPEEDUP_STATUS = Column("speedup status", field_text("speedup_status"), align="left", applies=has_ratio)
COLUMNS = (
    LAUNCHES,
    PAIRS,
    reading("invalid repetitions", "invalid_repetitions"),
    Column("reason", field_text("invalid_reasons"), align="left"),
    Column("sd within launches", lambda row: known(format.percent(row["sd_within"])), applies=has_ratio, sorts_by="sd_within"),
    SD_BETWEEN,
    Column("narrowed by", field_text("ci_advice"), align="left", applies=has_ratio),
    Column(
        "A/A [95 %]",
        lambda row: known(format.near_one(row["aa_ratio"], row["aa_ratio_lo"], row["aa_ratio_hi"])),
        applies=is_reference,
        sorts_by="aa_ratio",
    ),
    Column(
        "wider by",
        lambda row: known(format.percent(row["speedup_widening"])),
        applies=has_ratio,
        sorts_by="speedup_widening",
    ),
    SPEEDUP_STATUS,
    STATUS,
    Column("identity", field_text("identity"), align="left"),
    reading("protocol", "protocol"),
)
GPU_UNITS = {"temperature_c": "C", "clock_sm_hz": "Hz", "power_w": "W"}


def lines(description: Description, cells: pd.DataFrame) -> list[str]:
    """The section's lines: what is the same in all cells, disturbances, the machine, then a table of what differs."""
    bullets, found = [*map(escaped, statements(cells)), *machine_lines(description)], table(cells)
    return [f"- {line}" for line in bullets] + (["", *markdown.render(found), "", f"({LEGEND})"] if found else [])


def table(cells: pd.DataFrame) -> CellTable | None:
    """What differs between the measured cells; None where nothing does."""
    rows = measured(cells)
    differing = [column for column, found in texts_of(rows).items() if len(found) > 1]
    return CellTable((*keys(rows), *differing), rows) if differing else None


def statements(cells: pd.DataFrame) -> list[str]:
    """What is the same in all measured cells, what disturbed them, and which readings are missing."""
    rows = measured(cells)
    return [*same_everywhere(texts_of(rows)), *verdict.disturbances(cells), *missing_readings(rows)]


def measured(cells: pd.DataFrame) -> list[CellRow]:
    """The rows of the measured cells, in their order."""
    return in_order(records(cells[cells["status"].isin(MEASURED)]))


def texts_of(rows: list[CellRow]) -> dict[Column, set[str | None]]:
    """Column -> its different texts."""
    return {column: {column.text(row) for row in rows if column.applies(row)} for column in COLUMNS}


def same_everywhere(texts: dict[Column, set[str | None]]) -> Iterator[str]:
    """What is the same in every measured cell that has it."""
    same = [f"{column.name} {next(iter(found))}" for column, found in texts.items() if len(found) == 1 and found != {None}]
    if same:
        yield f"the same everywhere: {', '.join(same)}"
    if texts[PAIRS] and texts[SD_BETWEEN] == {None}:
        yield "the spread between launches, often the larger part, is not known: it needs two launches with pairs"
    if texts[STATUS] and not texts[STATUS] & {Status.UNSTABLE, Status.NO_STEADY_STATE}:
        yield "no absolute figure is unstable or without a steady state"


def missing_readings(rows: list[CellRow]) -> Iterator[str]:
    """Which readings are missing and why."""
    notes = dict.fromkeys(row["probe_note"] for row in rows if row["probe_note"] is not None)
    if notes:
        yield f"readings that are missing: {'; '.join(notes)}"


def machine_lines(description: Description) -> Iterator[str]:
    """The machine's state before the start, and each problem with its effect and its fix."""
    state = description.state
    if not state:
        yield "the state of the machine before the start was not recorded"
        return
    yield f"before the start: {escaped(', '.join(state_words(state)))}"
    problems = diagnostics.problems(description.identity, state)
    for (effect, fix), what in by_effect(problems).items():
        yield f"**{escaped('; '.join(what))}**: {effect}; {fix}"
    if not problems:
        yield "no problem with the machine was found before the start"


def by_effect(problems: list[diagnostics.Problem]) -> dict[tuple[str, str], list[str]]:
    """Effect and fix -> the problems that have both in common."""
    found: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        found.setdefault((problem.effect, problem.fix), []).append(problem.what)
    return found


def state_words(state: Mapping[str, Any]) -> Iterator[str]:
    """Host, load, governor, memory and GPUs, as far as they are known."""
    if state.get("hostname"):
        yield f"host {state['hostname']}"
    yield f"load {format.text(state.get('load_1m'), 'ratio')}"
    yield f"CPU governor {state.get('governor') or 'unknown'}"
    if state.get("available_gib") is not None:
        yield f"{state['available_gib']:g} GiB of memory available"
    for gpu in state.get("gpus") or []:
        known = [format.text(gpu[name], unit) for name, unit in GPU_UNITS.items() if gpu.get(name) is not None]
        yield f"{gpu.get('name') or 'GPU'} ({', '.join(known) or 'nothing known'})"

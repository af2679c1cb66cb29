"""What a run says in one line."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from nanobench.analysis.verdict import marked
from nanobench.records import JUDGED
from nanobench.results.derive import CellRow
from nanobench.results.store import Run, load_runs, records

COLUMNS = ("arm", "arm_index", "batch_size", "gate", "speedup", "speedup_lo", "speedup_hi", "speedup_status")
"""What a line needs of the cells."""


class Line(NamedTuple):
    """One run."""

    run: str
    started_at: str
    command: str
    model: str
    machine: str
    commit: str | None
    """of nanobench or of the first plug-in that is in a git repository"""
    cells: int
    concluded: int
    """cells with a reliable ratio"""
    headline: str | None
    """the arm and the batch of the ratio"""
    speedup: float | None
    speedup_lo: float | None
    speedup_hi: float | None


def lines_of(runs: Iterable[Run]) -> list[Line]:
    """The lines of runs, the oldest run first."""
    return sorted(map(line_of, runs), key=lambda line: datetime.fromisoformat(line.started_at))


def line_of(run: Run) -> Line:
    """The line of a run. The headline is the reliable ratio at the largest batch size, of the first arm that has one."""
    info, cells = run.info(), records(load_runs([run], columns=COLUMNS))
    sources = sorted(info.description.code.items(), key=lambda pair: pair[0] == "nanobench")
    commit = next((source.commit for _, source in sources if source.commit), None)
    reliable = [cell for cell in cells if cell["speedup_status"] in JUDGED]
    best = max(reliable, key=lambda cell: (cell["batch_size"], -cell["arm_index"]), default=None)
    return Line(
        run.place,
        info.started_at,
        info.command,
        ", ".join(dict.fromkeys(point.model for point in info.plan.points)),
        info.hardware,
        commit,
        len(cells),
        len(reliable),
        headline(best) if best else None,
        *((None,) * 3 if best is None else (best["speedup"], best["speedup_lo"], best["speedup_hi"])),
    )


def headline(cell: CellRow) -> str:
    """The arm and the batch of a ratio."""
    return f"{marked(cell['arm'], [cell])} at batch {cell['batch_size']}"

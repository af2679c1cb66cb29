"""Whether a run can be believed: launches, spread, disturbances and the machine's state, as lines of the report."""

from collections.abc import Callable, Iterator

import pandas as pd

from nanobench.analysis import diagnostics, verdict
from nanobench.records import MEASURED, Status
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.markdown import Row, escaped, grid

LEGEND = (
    "sd: how far a pair's ratio scatters within a launch, and launches among one another; "
    "null: the reference against itself, which is 1 unless the measuring is at fault"
)
COLUMNS: dict[str, tuple[str, Callable[[Row], str | None]]] = {
    "launches": ("all", lambda cell: format.text(cell["launches_ok"], "count")),
    "pairs": ("ratios", lambda cell: format.text(cell["pairs"], "count")),
    "invalid repetitions": ("all", lambda cell: format.text(cell["invalid_repetitions"], "count")),
    "because": ("all", lambda cell: cell["invalid_reasons"]),
    "sd within launches": ("ratios", lambda cell: percent(cell["sd_within"])),
    "sd between launches": ("ratios", lambda cell: percent(cell["sd_between"])),
    "narrowed by": ("ratios", lambda cell: cell["ci_advice"]),
    "null [95 %]": ("reference", lambda cell: null(cell)),
    "status": ("all", lambda cell: cell["status"]),
    "identity": ("all", lambda cell: cell["identity"]),
    "protocol": ("all", lambda cell: format.text(cell["protocol"], "count")),
}
"""Head -> which cells have it, and the text; None where it is not known."""
GPU_UNITS = {"temperature_c": "C", "clock_sm_hz": "Hz", "power_w": "W"}


def lines(about: Row, cells: pd.DataFrame) -> list[str]:
    """The section's lines: what is alike in all cells and what disturbed some, the machine, then a table of what differs."""
    measured = cells[cells["status"].isin(MEASURED)]
    varying = [name for name in ("run", *verdict.SETTING) if name in measured and measured[name].nunique() > 1]
    rows = records(measured.sort_values([*varying, "batch_size", "arm_index"], kind="stable"))
    texts = {head: [text(row) if applies(to, row) else "" for row in rows] for head, (to, text) in COLUMNS.items()}
    found = {head: set(column) - {""} for head, column in texts.items()}
    bullets = [*alike(found), *verdict.disturbances(cells), *unread(measured), *of_the_machine(about)]
    apart = [head for head, values in found.items() if len(values) > 1]
    heads = [*(name.replace("_", " ") for name in varying), "batch", "arm", *apart]
    body = [
        [*(row[name] for name in varying), row["batch_size"], row["arm"], *(texts[head][n] or format.MISSING for head in apart)]
        for n, row in enumerate(rows)
    ]
    return [f"- {line}" for line in bullets] + (["", *grid(heads, body), "", f"({LEGEND})"] if apart else [])


def alike(found: dict[str, set[str | None]]) -> Iterator[str]:
    """What is the same in every measured cell that has it."""
    same = [f"{head} {next(iter(values))}" for head, values in found.items() if len(values) == 1 and values != {None}]
    if same:
        yield f"the same everywhere: {escaped(', '.join(same))}"
    if found["pairs"] and found["sd between launches"] == {None}:
        yield "the spread between launches, often the larger part, is not known: that takes two launches with pairs"
    if found["status"] and not found["status"] & {Status.UNSTABLE, Status.NO_STEADY_STATE}:
        yield "no measured cell is unstable or without a steady state"


def applies(to: str, cell: Row) -> bool:
    """Whether a cell has a column at all: the reference has no ratio, and is alone with its null contrast."""
    return to == "all" or (to == "reference") == (cell["arm_index"] == 0)


def percent(share: float | None) -> str | None:
    """A share as 1.2 %, a large one as 110 %."""
    return None if share is None else f"{100 * share:.0f} %" if share >= 0.995 else f"{100 * share:.2g} %"


def null(cell: Row) -> str | None:
    """1.003x [0.98, 1.02]."""
    if cell["aa_ratio"] is None:
        return None
    low, high = format.text(cell["aa_lo"], "ratio"), format.text(cell["aa_hi"], "ratio")
    return f"{cell['aa_ratio']:.3f}x" + ("" if cell["aa_lo"] is None else f" [{low}, {high}]")


def unread(cells: pd.DataFrame) -> Iterator[str]:
    """Which readings are missing and why."""
    notes = cells["probe_note"].dropna().unique()
    if len(notes):
        yield f"readings that are missing: {escaped('; '.join(notes))}"


def of_the_machine(about: Row) -> Iterator[str]:
    """The machine's state before the start, and each problem found in it with its effect and the mend."""
    state = about.get("state")
    if not state:
        yield "the state of the machine before the start was not recorded"
        return
    yield f"before the start: {escaped(', '.join(state_words(state)))}"
    problems = diagnostics.problems(about["identity"], state)
    for (effect, mend), what in together(problems).items():
        yield f"**{escaped('; '.join(what))}**: {effect}; {mend}"
    if not problems:
        yield "no problem with the machine was found before the start"


def together(problems: list[diagnostics.Problem]) -> dict[tuple[str, str], list[str]]:
    """Effect and mend -> the problems that have both in common."""
    found: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        found.setdefault((problem.effect, problem.mend), []).append(problem.what)
    return found


def state_words(state: Row) -> Iterator[str]:
    """Host, load, governor, memory and GPUs, as far as they are known."""
    if state.get("hostname"):
        yield f"host {state['hostname']}"
    yield f"load {format.text(state.get('load_1m'), 'ratio')}"
    yield f"CPU governor {state.get('governor') or 'not told'}"
    if state.get("available_gib") is not None:
        yield f"{state['available_gib']:g} GiB of memory available"
    for gpu in state.get("gpus") or []:
        known = [format.text(gpu[name], unit) for name, unit in GPU_UNITS.items() if gpu.get(name) is not None]
        yield f"{gpu.get('name') or 'GPU'} ({', '.join(known) or 'nothing known'})"

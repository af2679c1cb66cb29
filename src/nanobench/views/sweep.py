"""What the terminal shows: the card before a run, the live table while it runs, the result after it.

Nothing here has a timer: the table is drawn when a worker reports, and the worker waits until that is done.
"""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from nanobench.records import MEASURED
from nanobench.results.derive import BY_NAME
from nanobench.results.repetitions import POINT_FIELDS
from nanobench.views import format

STATUS_STYLE = {
    "ok": "green",
    "imprecise": "yellow",
    "unstable": "magenta",
    "no_steady_state": "magenta",
    "wrong": "bold red",
    "skipped": "dim",
    "oom": "red",
    "timeout": "red",
    "error": "red",
}
Row = dict[str, Any]
GENERATION = {"output tok/s": "output_tok_s", "TTFT": "ttft_s", "TPOT": "tpot_s"}
TRAINING = {"tok/s": "train_tok_s", "useful tok/s": "useful_tok_s", "step": "step_s"}
"""Column of the table -> the metric that it shows."""


def rates(cells: list[Row]) -> dict[str, str]:
    """What the table shows of cells like these."""
    if not cells or not cells[0]["seq_len"]:
        return GENERATION
    padded = any(cell["padding_fraction"] for cell in cells)
    return {name: column for name, column in TRAINING.items() if padded or column != "useful_tok_s"}


def result_table(cells: list[Row]) -> Table:
    """One row per cell: throughput, latencies, speedup, memory, gate, status."""
    varying, shown = varying_fields(cells), rates(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for name in (*varying, "batch"):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=name != "model")
    table.add_column("arm", no_wrap=True)
    for name in (*shown, "speedup [95 %]", "memory"):
        table.add_column(name, justify="right", no_wrap=name not in ("output tok/s", "speedup [95 %]"))
    for name in ("gate", "status"):
        table.add_column(name, min_width=9 if name == "status" else 8)
    last = None
    for cell in cells:
        head = [*(str(cell[name]) for name in varying), str(cell["batch_size"])]
        table.add_row(*(head if head != last else [""] * len(head)), cell["arm"], *figures(cell, shown))
        last = head
    return table


def varying_fields(cells: list[Row]) -> list[str]:
    """The fields of a point, beside its batch size, in which cells differ."""
    fields = [name for name in POINT_FIELDS if name not in ("device", "batch_size")]
    return [name for name in fields if len({cell[name] for cell in cells}) > 1]


def gate_table(cells: list[Row]) -> Table:
    """One row per cell: the verdict and what it rests on."""
    varying = varying_fields(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for name in (*varying, "batch"):
        table.add_column(name.replace("_", " "), justify="left" if name in ("model", "dtype") else "right")
    table.add_column("arm", no_wrap=True)
    for name in ("gate", "error", "tolerance", "because"):
        table.add_column(name, justify="right" if name in ("error", "tolerance") else "left", no_wrap=name != "because")
    for cell in cells:
        head = [*(str(cell[name]) for name in varying), str(cell["batch_size"]), cell["arm"]]
        gate = Text(cell["gate"] or cell["status"], style="green" if cell["gate"] in ("exact", "rounding") else "bold red")
        error, tolerance = (format.text(cell[name], "logit") for name in ("gate_max_error", "gate_tolerance"))
        table.add_row(*head, gate, error, tolerance, cell["gate_note"] or cell["reason"])
    return table


def figures(cell: Row, shown: dict[str, str]) -> list[Any]:
    """The measured part of a cell's row; the reason of a failure stands in its status."""
    status = Text(cell["status"], style=STATUS_STYLE.get(cell["status"], ""))
    if cell["reason"] and cell["status"] not in MEASURED:
        status.append(f": {cell['reason']}", style="dim")
    return [
        *(format.text(cell[name], BY_NAME[name].unit) for name in shown.values()),
        speedup(cell),
        format.text(cell["peak_memory_bytes"], "B"),
        cell["gate"] or format.MISSING,
        status,
    ]


def speedup(cell: Row) -> str:
    """5.31 [4.92, 5.70]; the reference arm reads 'reference'."""
    if cell["arm_index"] == 0:
        return "(reference)" if cell["status"] in MEASURED else format.MISSING
    if cell["speedup"] is None:
        return format.MISSING
    low, high = format.text(cell["speedup_lo"], "ratio"), format.text(cell["speedup_hi"], "ratio")
    bounds = "" if cell["speedup_lo"] is None else f" [{low}, {high}]"
    return f"{cell['speedup']:.3g}x{bounds}"

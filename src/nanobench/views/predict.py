"""Predictions for another device on the terminal: every figure that was not measured says so."""

from typing import Any

from rich import box
from rich.table import Table

from nanobench.results.repetitions import ARM_FIELDS
from nanobench.schema import Arm
from nanobench.views import format

Row = dict[str, Any]
COLUMNS = {
    "predicted_output_tok_s": ("predicted tok/s", "tok/s"),
    "predicted_ttft_s": ("predicted TTFT", "s"),
    "predicted_tpot_s": ("predicted TPOT", "s"),
    "predicted_speedup": ("predicted speedup", "ratio"),
    "predicted_bound_by": ("predicted bound by", "text"),
}


def table(rows: list[Row]) -> Table:
    """One row per cell; what was measured on that device stands beside the prediction where there is any."""
    measured = any(row["measured_output_tok_s"] is not None for row in rows)
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, title=f"predicted for {rows[0]['gpu']}")
    found.title_justify = "left"
    varying = [name for name in ("model", "dtype", "prompt_len", "new_tokens") if len({row[name] for row in rows}) > 1]
    for name in (*varying, "batch"):
        found.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    found.add_column("arm", no_wrap=True)
    for title, _ in COLUMNS.values():
        found.add_column(title, justify="right")
    for title in ("measured tok/s", "error") if measured else ():
        found.add_column(title, justify="right")
    for row in rows:
        arm = Arm(**{name: row[name] for name in ARM_FIELDS}).label
        seen = [format.text(row["measured_output_tok_s"], "tok/s"), percent(row["prediction_error"])] if measured else []
        figures = [format.text(row[name], unit) for name, (_, unit) in COLUMNS.items()]
        found.add_row(*(str(row[name]) for name in (*varying, "batch_size")), arm, *figures, *seen)
    return found


def percent(value: float | None) -> str:
    """+12 %, or a dash."""
    return format.MISSING if value is None else f"{value:+.0%}"


def basis(here: str, known: bool) -> str:
    """What the predictions rest on."""
    if known:
        return f"predicted from the datasheet, at the shares of its own that {here} reached; dispatch as on this host"
    return (
        f"predicted from the whole datasheet, as that of {here} is not known: times are lower bounds; dispatch as on this host"
    )

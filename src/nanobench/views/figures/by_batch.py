"""Quantities by batch size, one below the other: what was reached, and how the machine was used."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.results.status import LEAST_ON_CPU, LEAST_SPINS, MOST_CLOCK_SPREAD, MOST_PRESSURE, MOST_SPIN_DRIFT, MOST_STEAL
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import AXIS, MOST_COLUMNS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle


@dataclass(frozen=True)
class Quantity:
    """A column of the cells as an axis shows it."""

    name: str
    label: str
    unit: float = 1.0
    limit: float | None = None
    """beyond it a cell is unstable"""
    apart: float | None = None
    """by which share an arm may differ from the reference before the interval of its ratio is wider"""
    zero: bool = True
    """whether the axis starts at 0"""
    log: bool | None = None
    """None leaves it to the range of the values"""
    reach: tuple[float, ...] = ()
    """what the axis shows in any case"""
    closed_form: str = ""
    """the column of what it should be, drawn dashed"""
    too_few: str = ""
    """why measured cells may lack it; the panel says so where none at a batch size has it"""

    def known(self, cells: pd.DataFrame) -> bool:
        """Whether some row has it."""
        return bool(cells[self.name].notna().any())

    def lacking(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The measured cells without it, where that has a reason."""
        return cells[cells["status"].isin(MEASURED) & cells[self.name].isna() & bool(self.too_few)]

    def bounds(self, cells: pd.DataFrame) -> list[Any]:
        """The lower and upper bounds of its values; empty for a column without an interval."""
        tail = "_s" if f"{self.name.removesuffix('_s')}_lo_s" in cells else ""
        names = [f"{self.name.removesuffix(tail)}_{bound}{tail}" for bound in ("lo", "hi")]
        return [cells[name] / self.unit for name in names if name in cells]

    def predicted(self, cells: pd.DataFrame) -> pd.Series:
        """What it should be; not known where there is no closed form."""
        return cells[self.closed_form].astype(float) / self.unit if self.closed_form else pd.Series(np.nan, cells.index)


PERCENT, GHZ = 0.01, 1e9
ON_GPU = (
    Quantity("gpu_util", "GPU utilization:\nsome kernel was\nrunning (%)", PERCENT, log=False, reach=(0.0, 100.0)),
    Quantity("power_w", "power (W)", log=False),
    Quantity("clock_sm_hz", "SM clock (GHz)", GHZ, apart=MOST_CLOCK_SPREAD, zero=False, log=False),
    Quantity("energy_j_per_token", "energy (J/token)"),
)
ON_CPU = (
    Quantity(
        "on_cpu_fraction",
        "main thread had\na core (% of time)",
        PERCENT,
        LEAST_ON_CPU,
        zero=False,
        log=False,
        reach=(100.0,),
    ),
    Quantity("pressure_fraction", "tasks waited for\na core (% of time)", PERCENT, MOST_PRESSURE, log=False),
    Quantity("steal_fraction", "taken by the\nhypervisor (%)", PERCENT, MOST_STEAL, log=False),
    Quantity(
        "spin_drift",
        "drift of a\nfixed loop (%)",
        PERCENT,
        MOST_SPIN_DRIFT,
        log=False,
        too_few=f"no launch has {LEAST_SPINS} readings of the loop, which runs between repetitions",
    ),
    Quantity("cpu_hz", "CPU clock (GHz)", GHZ, zero=False, log=False),
)


@plot
def throughput_ttft_memory_vs_batch(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Output tokens per second, time to first token and peak memory of each arm, by batch size."""
    if cells["output_tok_s"].isna().all():
        raise UserError(
            "throughput_ttft_memory_vs_batch needs cells that generate; nanobench plot training_vs_batch draws training"
        )
    bytes_name, bytes_per = byte_unit(cells["peak_memory_bytes"])
    quantities = (
        Quantity("output_tok_s", "output (tok/s)"),
        Quantity("ttft_s", "TTFT (ms)", 1e-3),
        Quantity("peak_memory_bytes", f"peak memory ({bytes_name})", bytes_per),
    )
    return stack(cells, quantities, 1.9, "Throughput, time to first token and peak memory, by batch size")


def byte_unit(values: pd.Series) -> tuple[str, float]:
    """The unit in which an axis shows bytes, and its size."""
    return ("GiB", 1024.0**3) if values.max() >= 1024**3 else ("MiB", 1024.0**2)


@plot
def throughput_per_request_vs_batch(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Tokens per second of all rows together and of one row, by batch size: what the server gains and each request loses."""
    if cells["decode_tok_s_per_row"].isna().all():
        raise UserError("throughput_per_request_vs_batch needs cells that generate two tokens or more")
    quantities = (
        Quantity("output_tok_s", "all rows (tok/s)"),
        Quantity("decode_tok_s_per_row", "one row, decoding (tok/s)"),
    )
    return stack(cells, quantities, 2.2, "Throughput of all requests and of one, by batch size")


@plot
def utilization_vs_batch(cells: pd.DataFrame, launches: Launches) -> Figure:
    """How each arm used the GPU, or how far it had its CPU core to itself, by batch size, with the limits of `unstable`."""
    on_gpu = cells["device"].str.startswith("cuda")
    offered_here = [(each, here) for each, here in offered(cells[on_gpu], cells[~on_gpu])]
    known = [each for each, here in offered_here if each.known(here)]
    notes = "; ".join(cells["probe_note"].dropna().unique())
    if not known:
        why = notes or "it was measured before nanobench took readings; measure again with nanobench kv-sweep"
        raise UserError(f"utilization_vs_batch needs readings of the machine and this run has none: {why}")
    missing = [short(each) for each, _ in offered_here if each not in known]
    absent = f"not known: {', '.join(missing)}" if missing else ""
    title, held = "How the machine was used, by batch size", held_down(cells[on_gpu])
    return stack(cells, known, 1.35, title, absent, held, aside=True)


def short(quantity: Quantity) -> str:
    """The name of a quantity without its unit."""
    return quantity.label.partition(" (")[0].partition(":")[0].replace("\n", " ")


def offered(on_gpu: pd.DataFrame, on_cpu: pd.DataFrame) -> Iterable[tuple[Quantity, pd.DataFrame]]:
    """The quantities that say something of the cells of a device, with these cells."""
    for quantities, cells in ((ON_GPU, on_gpu), (ON_CPU, on_cpu)):
        if len(cells):
            yield from ((each, cells) for each in quantities)


def held_down(cells: pd.DataFrame) -> str:
    """Why clocks were seen held down; empty where they were not or nothing is known."""
    seen = {reason for text in cells["clock_event_reasons"].dropna() for reason in text.split(",") if reason}
    return f"clocks were seen held down by: {', '.join(sorted(seen))}" if seen else ""


def stack(
    cells: pd.DataFrame, quantities: Iterable[Quantity], row_in: float, title: str, *notes: str, aside: bool = False
) -> Figure:
    """A column of panels per setting, a row of panels per quantity, a line per arm; `aside` keeps equal ones apart."""
    quantities, line_styles, panels = list(quantities), style.arm_styles(cells), layout.panels(cells)
    shown = panels[:MOST_COLUMNS]
    crosses = panel.failing(shown, "arm")
    rows_in = [row_in + panel.room_in(crosses), *[row_in] * (len(quantities) - 1)]
    drawing, grid = layout.make(len(quantities) * len(shown), len(shown), rows_in, sharex=True, sharey="row")
    for column, (words, here) in zip(grid.T, shown, strict=True):
        panel.entitle(column[0], words, len(shown))
        lines = [(line_styles[str(arm)], rows.sort_values("batch_size")) for arm, rows in here.groupby("arm", sort=False)]
        panel.failures(column[0], [(line_style, rows["batch_size"], rows["status"]) for line_style, rows in lines])
        for axes, quantity in zip(column, quantities, strict=True):
            draw_lines(axes, quantity, lines, cells["batch_size"], len(shown) if aside else 0)
            draw_limits(axes, quantity, cells, here, labelled=here is shown[-1][1])
            say_too_few(axes, quantity, here)
            panel.steps(axes, cells["batch_size"], len(shown))
        column[-1].set_xlabel(AXIS["batch_size"])
    for axes, quantity in zip(grid[:, 0], quantities, strict=True):
        axes.set_ylabel(quantity.label)
    drawing.align_ylabels(grid[:, 0])
    panel.make_room(grid[0, 0], crosses, row_in)
    handles = [line_style.handle(arm) for arm, line_style in line_styles.items()]
    if any(each.predicted(cells).notna().any() for each in quantities):
        handles.append(Line2D([], [], color="0.3", **style.PREDICTED, label="closed form"))
    beside = "arms of one batch size stand side by side" if aside and len(line_styles) > 1 else ""
    absent = [without_value(quantity, cells) for quantity in quantities]
    return layout.finish_figure(
        drawing, title, handles, cells, beside, *notes, *absent, layout.left_out("settings", shown, panels)
    )


def say_too_few(axes: Axes, quantity: Quantity, cells: pd.DataFrame) -> None:
    """Words where no arm has a value at neighbouring batch sizes, although it was measured there."""
    missing = set(quantity.lacking(cells)["batch_size"]) - set(cells.loc[cells[quantity.name].notna(), "batch_size"])
    for has_none, group in groupby(sorted(set(cells["batch_size"])), key=missing.__contains__):
        if has_none and quantity.known(cells):
            found = list(group)
            place: Any = {
                "transform": axes.get_xaxis_transform(),
                "ha": "center",
                "va": "center",
                "fontsize": 7,
                "color": "0.35",
            }
            axes.text(math.sqrt(found[0] * found[-1]), 0.6, "too few\nreadings", **place)


def without_value(quantity: Quantity, cells: pd.DataFrame) -> str:
    """The measured cells that lack a quantity, and why; empty where none does."""
    found = quantity.lacking(cells.sort_values("arm_index", kind="stable")).groupby("arm", sort=False)["batch_size"].unique()
    words = [f"{arm} at batch {', '.join(map(str, sorted(batches)))}" for arm, batches in found.items()]
    return f"no {short(quantity)} for {', '.join(words)}: {quantity.too_few}" if words else ""


def draw_lines(
    axes: Axes, quantity: Quantity, lines: list[tuple[LineStyle, pd.DataFrame]], batches: pd.Series, crowd: int
) -> None:
    """A line per arm; words where none of them knows the quantity."""
    for number, (line_style, rows) in enumerate(lines):
        place = panel.dodge(rows["batch_size"], number, len(lines), batches, crowd)
        values, bounds = rows[quantity.name] / quantity.unit, quantity.bounds(rows)
        low, high = bounds if bounds else (None, None)
        panel.curve(axes, line_style, place, values, low, high, layout.unjudged(rows))
        if quantity.closed_form:
            expected = quantity.predicted(rows)
            single = {"marker": "_", "markersize": 14} if expected.notna().sum() == 1 else {}
            axes.plot(place, expected, color=line_style.colour, **{**style.PREDICTED, **single})
    if not any(quantity.known(rows) for _, rows in lines):
        panel.say(axes, "not known")


def draw_limits(axes: Axes, quantity: Quantity, cells: pd.DataFrame, here: pd.DataFrame, labelled: bool) -> None:
    """What bounds a quantity, with words beside the last panel, and an axis over the values of all cells and these bounds."""
    bounds = list(quantity.reach)
    if quantity.limit is not None:
        bounds.append(quantity.limit / quantity.unit)
        panel.limit(axes, bounds[-1], f"limit {bounds[-1]:g} %" if labelled else "")
    references = [rows[rows["arm_index"].eq(0)].dropna(subset=[quantity.name]) for rows in (cells, here)]
    if quantity.apart is not None and len(references[0]):
        span = np.array([1 - quantity.apart, 1 + quantity.apart]) / quantity.unit
        bounds += np.outer(references[0][quantity.name], span).ravel().tolist()
        middle = references[1].sort_values("batch_size")
        edges = np.outer(span, middle[quantity.name])
        ground: Any = {**style.GROUND, "zorder": 0.5}
        if len(middle) == 1:
            axes.axhspan(*edges[:, 0], **ground)
        else:
            axes.fill_between(middle["batch_size"], *edges, **ground)
        if labelled and len(middle):
            panel.beyond(axes, edges[:, -1].mean(), f"grey: ±{100 * quantity.apart:g} %\nof reference")
    values = [*cells[quantity.name] / quantity.unit, *quantity.predicted(cells), *bounds]
    ends = [end for each in quantity.bounds(cells) for end in each]
    panel.scale(axes, values, format.tick, ends, log=quantity.log, zero=quantity.zero)

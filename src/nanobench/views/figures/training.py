"""Training: what it reaches and holds over batch sizes, when compiling has paid, and what more ranks give."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nanobench.errors import UserError
from nanobench.records import JUDGED, MEASURED
from nanobench.stats.knee import NEAR_BEST, knee
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.by_batch import Quantity, byte_unit, stack
from nanobench.views.figures.layout import MOST_COLUMNS, Launches
from nanobench.views.figures.plot import plot

LINE = 10
"""Points from one label to the next."""


@plot
def training_vs_batch(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Tokens per second, those that carry loss among them, and peak memory of training steps, by batch size."""
    trained = trains(cells, "training_vs_batch")
    bytes_name, bytes_per = byte_unit(trained["peak_memory_bytes"])
    quantities = [Quantity("train_tok_s", "training (tok/s)")]
    if trained["padding_fraction"].max() > 0:
        quantities.append(Quantity("useful_tok_s", "with loss (tok/s)"))
    quantities.append(Quantity("peak_memory_bytes", f"peak memory ({bytes_name})", bytes_per))
    title = "Training: throughput and peak memory, by batch size"
    return stack(trained, quantities, 1.9, title, knees(trained))


def trains(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """The cells that train. Raises UserError where none does."""
    found = cells[cells["seq_len"].gt(0)]
    if found["train_tok_s"].notna().any():
        return found
    raise UserError(f"{name} needs cells that train and this run has none; measure some with nanobench train-throughput")


def knees(cells: pd.DataFrame) -> str:
    """From which batch size on an arm gains little, in words; empty where fewer than three were measured."""
    words = []
    for title, here in layout.panels(cells):
        for arm, rows in here[here["status"].isin(JUDGED)].dropna(subset=["train_tok_s"]).groupby("arm", sort=False):
            if len(rows) > 2:
                found = knee(dict(zip(rows["batch_size"], rows["train_tok_s"], strict=True)))
                words.append(f"{arm} at {found}" + (f" ({title})" if title else ""))
    return f"knee, the smallest batch within {NEAR_BEST:.0%} of the best: {', '.join(words)}" if words else ""


@plot
def compile_breakeven(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Seconds that compiling has saved after so many steps, its own time taken off: above 0 it has paid."""
    trained = trains(cells, "compile_breakeven")
    paid = trained[trained["breakeven_steps"].gt(0)]
    if paid.empty:
        raise UserError("compile_breakeven needs an arm that compiling made faster and this run has none")
    line_styles = style.arm_styles(trained)
    places = panels_of(paid)
    shown = places[-MOST_COLUMNS:]
    drawing, grid = layout.make(len(shown), len(shown), [2.6])
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        steps = np.linspace(0, 2.5 * here["breakeven_steps"].max(), 3)
        for number, row in enumerate(here.sort_values("breakeven_steps").to_dict("records")):
            doubtful = not row["speedup_lo"] > 1 or row["speedup_status"] not in JUDGED
            saved_s = row["compile_s"] * (steps / row["breakeven_steps"] - 1)
            axes.plot(steps, saved_s, color=line_styles[row["arm"]].colour, linestyle="--" if doubtful else "-")
            place: Any = {"textcoords": "offset points", "xytext": (6, -LINE * (number + 1)), "fontsize": 8}
            colour = line_styles[row["arm"]].colour
            axes.annotate(f"{row['breakeven_steps']:,.0f} steps", (row["breakeven_steps"], 0), color=colour, **place)
        axes.axhline(0, color="0.4", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: format.tick(value)))
        panel.entitle(axes, title, len(shown))
    panel.outer_labels(grid, len(shown), "steps", "saved by compiling (s)")
    solid = {arm: replace(line_style, line="-") for arm, line_style in line_styles.items()}
    handles = [solid[arm].handle(arm, timestamped=False) for arm in paid["arm"].drop_duplicates()]
    note = "from the cold compile time and mean steps; dashed: its speedup is unreliable or its interval reaches down to 1"
    return layout.finish_figure(
        drawing, "When compiling has paid", handles, paid, note, layout.left_out("points", shown, places)
    )


@plot
def scaling_vs_ranks(cells: pd.DataFrame, launches: Launches) -> Figure:
    """How many times as fast as one rank several are, by their number, with intervals and efficiency."""
    trained = trains(cells, "scaling_vs_ranks")
    if trained["scaling_efficiency"].isna().all():
        raise UserError(
            "scaling_vs_ranks needs one rank and several of them; measure with nanobench train-throughput --nproc 1,2"
        )
    line_styles, sizes = style.arm_styles(trained), sorted(trained["world_size"].unique())
    places = panels_of(trained, apart=["world_size"])
    shown = places[-MOST_COLUMNS:]
    rows_failed, row_in = panel.failing(shown, "arm"), 3.0
    drawing, grid = layout.make(len(shown), len(shown), [row_in + panel.room_in(rows_failed)], sharey=True)
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        panel.steps(axes, sizes, len(shown))
        axes.plot(sizes, sizes, color=style.FAINT, linewidth=1, linestyle=":", zorder=1.5)
        lines = [(line_styles[arm], rows.sort_values("world_size")) for arm, rows in here.groupby("arm", sort=False)]
        for number, (line_style, rows) in enumerate(lines):
            place = panel.dodge(rows["world_size"], number, len(lines), sizes, crowd=len(shown))
            draw_scaling(axes, line_style, rows, place, number)
        panel.failures(axes, [(line_style, rows["world_size"], rows["status"]) for line_style, rows in lines])
        panel.scale(axes, [1.0, *sizes], format.ratio_tick, ratio=True)
        panel.entitle(axes, title, len(shown))
    panel.make_room(grid[0][0], rows_failed, row_in)
    panel.outer_labels(grid, len(shown), "ranks", "throughput over one rank's (x)")
    handles = [line_styles[arm].handle(arm) for arm in trained["arm"].drop_duplicates()]
    note = "percentages: scaling efficiency, the throughput over that of as many ranks alone; dotted: 100 %; 95 % t intervals"
    return layout.finish_figure(
        drawing, "What more ranks give", handles, trained, note, layout.left_out("points", shown, places)
    )


def draw_scaling(axes: Axes, line_style: style.LineStyle, rows: pd.DataFrame, place: Any, number: int) -> None:
    """The line of an arm by its number; one rank is as fast as itself. The labels of each arm stand on a line of their own."""
    sizes = rows["world_size"]
    times, low, high = (
        (sizes * rows[f"scaling_efficiency{bound}"])
        .where(sizes > 1, 1.0 if not bound else np.nan)
        .where(rows["status"].isin(MEASURED))
        for bound in ("", "_lo", "_hi")
    )
    panel.curve(axes, line_style, place, times, low, high, layout.unjudged(rows))
    for x, y, share in zip(place, times, rows["scaling_efficiency"], strict=True):
        if not pd.isna(share):
            axes.annotate(
                f"{share:.0%}",
                (x, y),
                (-6, 5 + LINE * number),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=line_style.colour,
            )


def panels_of(cells: pd.DataFrame, apart: Sequence[str] = ()) -> list[tuple[str, pd.DataFrame]]:
    """A panel per setting and batch size."""
    return [
        (", ".join(filter(None, (title, f"batch {batch}"))), rows)
        for title, here in layout.panels(cells, apart)
        for batch, rows in here.groupby("batch_size")
    ]

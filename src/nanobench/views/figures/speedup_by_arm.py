"""Speedups over the reference arm as a list of names with dots: for runs of many arms."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanobench.analysis.verdict import marked
from nanobench.errors import UserError
from nanobench.records import JUDGED, MEASURED
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.figures import layout, panel, style, tooltips, waterfall
from nanobench.views.figures.layout import CROSS, HOLLOW, UNJUDGED, Launches
from nanobench.views.figures.plot import of_every_arm, plot
from nanobench.views.figures.speedup import interval_note, refuse_without_ratio

LEAST_ARMS = 8
"""From so many arms beside the reference on, names beside dots are easier to read than lines with a legend."""
MOST_NAMES = 40
MOST_PANELS = 2
NAME_LETTERS = 46
"""Letters of a name on one line."""
ROW_IN = 0.19
TWO_LINES_IN = 0.28
MARKS: dict[str, Any] = {
    "faster: the interval is above 1": {"color": style.COLOURS[3], "marker": "^"},
    "no difference is shown": {"color": style.COLOURS[0], "marker": "o"},
    "slower: the interval is below 1": {"color": style.COLOURS[2], "marker": "v"},
    "no interval": {"color": style.COLOURS[4], "marker": "D"},
}
"""What an interval says -> how its ratio is drawn."""


@plot
@of_every_arm
def speedup_by_arm(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Speedup of each arm over the first, a row per arm in the order of the ratios, with intervals; for runs of many arms."""
    number = cells.loc[cells["arm_index"].gt(0), "arm"].nunique()
    if number < LEAST_ARMS:
        needs = f"{LEAST_ARMS} arms or more beside the first, and this run has {number}"
        raise UserError(f"speedup_by_arm needs {needs}; nanobench plot speedup_vs_batch draws fewer")
    refuse_without_ratio("speedup_by_arm", cells)
    shown, panels = layout.at_ends(cells, cells.index[cells["speedup"].notna()], MOST_PANELS)
    arms = in_order(cells, shown[-1][1])
    kept = arms[:MOST_NAMES]
    names = [fill(marked(arm, records(cells[cells["arm"].eq(arm)])), NAME_LETTERS, break_on_hyphens=False) for arm in kept]
    row_in = TWO_LINES_IN if any("\n" in name for name in names) else ROW_IN
    drawing, grid = layout.make(len(shown), len(shown), [row_in * len(kept) + 0.6], sharex=True, sharey=True)
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        panel.entitle(axes, title, len(shown))
        axes.axvline(1.0, color="0.4", linewidth=0.9, zorder=1)
        for row in records(here[here["arm"].isin(kept)]):
            draw_arm(axes, kept.index(row["arm"]), row)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    write_ratios(grid[0, -1], kept, shown[-1][1])
    grid[0, 0].set_yticks(range(len(kept)), names, fontsize=7.5)
    grid[0, 0].set_ylim(len(kept) - 0.4, -0.6)
    waterfall.scale(grid[0, 0], ends([row for _, here in shown for row in records(here) if row["arm"] in kept]), len(shown))
    panel.outer_labels(grid, len(shown), "speedup (x)", "")
    further = len(arms) - len(kept)
    note = f"{format.count(further, 'further arm')} in the table, with smaller ratios or none" if further else ""
    order = f"in the order of {shown[-1][0]}" if len(shown) > 1 else ""
    title = f"Speedup over {layout.reference(cells)}, arm by arm"
    left_out = layout.left_out("panels", shown, panels)
    return layout.finish_figure(
        drawing,
        title,
        handles(shown, kept),
        cells,
        note,
        order,
        interval_note(cells, "bars"),
        left_out,
        status="speedup_status",
    )


def in_order(cells: pd.DataFrame, last: pd.DataFrame) -> list[str]:
    """The arms other than the reference by their ratio in the last panel, the largest first; those without one at the end."""
    ratios = last[last["arm_index"].gt(0)].set_index("arm")["speedup"].astype(float).dropna()
    every = cells[cells["arm_index"].gt(0)].sort_values("arm_index", kind="stable")["arm"].drop_duplicates()
    return sorted(every, key=lambda arm: -ratios.get(arm, 0.0))


def said_by(row: dict[str, Any]) -> str:
    """What the interval of a ratio says."""
    faster, same, slower, single = MARKS
    if row["speedup_lo"] is None:
        return single
    return faster if row["speedup_lo"] > 1 else slower if row["speedup_hi"] < 1 else same


def draw_arm(axes: Axes, place: int, row: dict[str, Any]) -> None:
    """The ratio of one arm with its interval, or a cross with the status of a cell that was not measured."""
    if row["speedup"] is None:
        small: Any = {"fontsize": 7, "color": "0.35", "va": "center", "xycoords": ("axes fraction", "data")}
        axes.annotate(CROSS, (0.01, place), **small)
        axes.annotate("no pair" if row["status"] in MEASURED else row["status"], (0.05, place), **small)
        return
    look = MARKS[said_by(row)]
    if row["speedup_lo"] is not None:
        bounds = [row["speedup_lo"], row["speedup_hi"]]
        axes.plot(bounds, [place, place], color=look["color"], linewidth=1.4, marker="|", markersize=5, zorder=2)
    hollow: Any = {**HOLLOW, "label": UNJUDGED} if row["speedup_status"] not in JUDGED else {}
    (point,) = axes.plot([row["speedup"]], [place], linestyle="", markersize=5, zorder=3, **look, **hollow)
    ratio = format.times(row["speedup"], row["speedup_lo"], row["speedup_hi"])
    tooltips.name(point, [f"{row['arm']} at batch {row['batch_size']}: {ratio}"])


def write_ratios(axes: Axes, kept: Sequence[str], cells: pd.DataFrame) -> None:
    """The ratios of a panel as numbers, right of it."""
    for row in records(cells[cells["arm"].isin(kept) & cells["speedup"].notna()]):
        panel.beyond(axes, kept.index(row["arm"]), format.times(row["speedup"]))


def ends(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The ends of the axis: 1, all ratios, and their intervals within reason."""
    ratios = [1.0, *(row["speedup"] for row in rows if row["speedup"] is not None)]
    bounds = [row[name] for row in rows for name in ("speedup_lo", "speedup_hi") if row[name] is not None]
    reach = np.clip([*ratios, *bounds], min(ratios) / panel.FARTHEST, max(ratios) * panel.FARTHEST)
    low, high = float(reach.min()), float(reach.max())
    margin = max(high / low, waterfall.LEAST_SPAN) ** 0.06
    return low / margin, high * margin


def handles(shown: Sequence[tuple[str, pd.DataFrame]], kept: Sequence[str]) -> list[Line2D]:
    """The legend: what the intervals say that occur."""
    rows = [row for _, here in shown for row in records(here) if row["arm"] in kept and row["speedup"] is not None]
    found = {said_by(row) for row in rows}
    return [Line2D([], [], linestyle="", label=words, **look) for words, look in MARKS.items() if words in found]

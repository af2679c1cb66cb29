"""Each timed repetition at its time, and below what the probes saw."""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanobench.analysis.timeline import moments
from nanobench.errors import UserError
from nanobench.records import JUDGED, MEASURED
from nanobench.results.status import LEAST_ON_CPU, MOST_SPIN_DRIFT
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.by_batch import GHZ, PERCENT, Quantity
from nanobench.views.figures.layout import MOST_COLUMNS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle

MOST_ARMS = 6
LEAST_SPAN = 0.1
"""Share of the median that an axis of times shows at least in both directions, so that little noise looks little."""
SEEN = (
    Quantity("on_cpu_fraction", "main thread\non CPU (%)", PERCENT, LEAST_ON_CPU, zero=False, log=False, reach=(100.0,)),
    Quantity("spin_ratio", "fixed loop,\nfirst = 1", apart=MOST_SPIN_DRIFT, zero=False),
    Quantity("gpu_util", "GPU utilization\n(%)", PERCENT, log=False, reach=(0.0, 100.0)),
    Quantity("clock_sm_hz", "SM clock\n(GHz)", GHZ, zero=False, log=False),
    Quantity("power_w", "power (W)", log=False),
)
INVALID: Any = {"marker": "x", "color": "black", "markersize": 6, "markeredgewidth": 1.5, "linestyle": ""}
UNSETTLED: Any = {"markerfacecolor": "white", "markeredgewidth": 1.0, "linestyle": ""}
MANY = 300
"""Points of a panel from which on each is only a pixel or two."""


@plot
def timeline(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Time of each repetition when it ran, and what the probes saw meanwhile, at the smallest and the largest batch size."""
    seen = moments(cells, launches)
    if seen.empty:
        raise UserError("timeline needs repetitions that say when they began, and this run has none; measure it again")
    shown, panels = layout.at_ends(cells, seen["cell"].unique(), MOST_COLUMNS)
    line_styles = style.arm_styles(cells)
    kept = list(line_styles)[:MOST_ARMS]
    indices = [index for _, rows in shown for index in rows.index]
    here = seen[seen["cell"].isin(indices)]
    probed = [quantity for quantity in SEEN if quantity.known(here)]
    rows_in = [1.25] * len(kept) + [1.05] * len(probed)
    drawing, grid = layout.make(len(rows_in) * len(shown), len(shown), rows_in, sharex="col")
    first = pd.concat([rows[rows["arm"].eq(kept[0])] for _, rows in shown])
    for column, (title, rows) in zip(grid.T, shown, strict=True):
        # The status of the first arm, where it has to be told, takes the right of a second line.
        column[0].set_title(fill(title, 84 // len(shown)) + "\n" * bool(layout.unjudged(first).any()))
        draw_point(column, rows, here[here["cell"].isin(rows.index)], {arm: line_styles[arm] for arm in kept}, probed)
        column[-1].set_xlabel("time in the launch (s)")
    label_rows(grid, kept, probed)
    drawing.align_ylabels(grid[:, 0])
    left_out = layout.left_out("panels", shown, panels), layout.left_out("arms", kept, list(line_styles))
    notes = (*words(here), *left_out, layout.unmeasured_words(cells.drop(indices)))
    handles = [line_styles[arm].handle(arm) for arm in kept] + marks(here)
    return layout.finish_figure(
        drawing, "Each repetition when it ran, and what the machine did meanwhile", handles, cells, *notes
    )


def label_rows(grid: Any, arms: list[str], probed: list[Quantity]) -> None:
    """What the rows of panels show, at the left; their limits, at the right."""
    labels = [f"{fill(arm, 14)}\n(ms per call)" for arm in arms] + [quantity.label for quantity in probed]
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    for axes, quantity in zip(grid[len(arms) :, -1], probed, strict=True):
        say_limit(axes, quantity)


def draw_point(
    column: Iterable[Axes], cells: pd.DataFrame, seen: pd.DataFrame, line_styles: dict[str, LineStyle], probed: list[Quantity]
) -> None:
    """The panels of one point: the repetitions of each arm, then each quantity over all of them."""
    panels = iter(column)
    index_of = dict(zip(cells["arm"], cells.index, strict=True))
    launches = sorted(seen["launch"].unique())
    shades = {
        index_of[arm]: style.shades(line_style.colour, launches) for arm, line_style in line_styles.items() if arm in index_of
    }
    for (arm, line_style), axes in zip(line_styles.items(), panels, strict=False):
        if arm in index_of:
            mine = seen[seen["cell"].eq(index_of[arm]) & seen["kind"].eq("steady")]
            draw_times(axes, cells.loc[index_of[arm]], mine, line_style, shades[index_of[arm]])
        else:
            axes.set_yticks([])
    for axes, quantity in zip(panels, probed, strict=True):
        draw_seen(axes, quantity, seen[seen[quantity.name].notna() & seen["kind"].isin(["steady", "sample"])], shades)
        shade_sustained(axes, seen)


def draw_times(axes: Axes, cell: pd.Series, rows: pd.DataFrame, line_style: LineStyle, shades: dict[int, Any]) -> None:
    """Milliseconds per call of each repetition of one cell, a line per launch, around a thin line at their median."""
    if cell["status"] in MEASURED and cell["status"] not in JUDGED:
        axes.set_title(cell["status"], loc="right", fontsize=8, color=panel.LIMIT_COLOUR)
    if rows.empty:
        panel.say(axes, f"not measured: {cell['status']}" if cell["status"] not in MEASURED else "not known")
        axes.set_yticks([])
        return
    for launch, mine in rows.groupby("launch"):
        points: Any = {"color": shades[launch], "marker": line_style.marker, **dots(len(rows))}
        axes.plot(mine["at_s"], 1e3 * mine["call_s"], linewidth=0.7, **points)
        unsettled = mine[mine["valid"] & ~mine["counts"]]
        axes.plot(unsettled["at_s"], 1e3 * unsettled["call_s"], **{**points, **UNSETTLED})
    invalid = rows[~rows["valid"]]
    axes.plot(invalid["at_s"], 1e3 * invalid["call_s"], **INVALID)
    middle = 1e3 * rows.loc[rows["counts"], "call_s"].median()
    axes.axhline(middle, color=style.FAINT, linewidth=0.7, zorder=1.2)
    ends = [middle * (1 - LEAST_SPAN), middle * (1 + LEAST_SPAN)]
    panel.scale(axes, [*1e3 * rows["call_s"], *ends], format.tick, zero=False)


def draw_seen(axes: Axes, quantity: Quantity, rows: pd.DataFrame, shades: dict[Any, dict[int, Any]]) -> None:
    """A reading over time: a dot in the colour of the arm that ran, and a thin line through each launch."""
    for _, mine in rows.groupby(["launch", "process"]):
        line: Any = {"color": style.FAINT, "linewidth": 0.5, "zorder": 1.5, "rasterized": len(rows) > MANY}
        axes.plot(mine["at_s"], mine[quantity.name] / quantity.unit, **line)
    for (cell, launch), mine in rows[rows["cell"].isin(list(shades))].groupby(["cell", "launch"]):
        points: Any = {"color": shades[cell][launch], "marker": "o", "linestyle": "", **dots(len(rows))}
        axes.plot(mine["at_s"], mine[quantity.name] / quantity.unit, **points)
    if rows.empty:
        panel.say(axes, "not known")
    bounds = list(quantity.reach)
    if quantity.limit is not None:
        bounds.append(quantity.limit / quantity.unit)
        panel.limit(axes, bounds[-1], "")
    if quantity.apart is not None:
        bounds += [1 - quantity.apart, 1 + quantity.apart]
        axes.axhspan(*bounds[-2:], zorder=0.5, **style.GROUND)
    panel.scale(axes, [*rows[quantity.name] / quantity.unit, *bounds], format.tick, log=quantity.log, zero=quantity.zero)


def say_limit(axes: Axes, quantity: Quantity) -> None:
    """The words beside the limit of a quantity."""
    if quantity.apart is not None:
        panel.beyond(axes, 1.0, f"grey: ±{100 * quantity.apart:g} %")
    elif quantity.limit is not None:
        limit = quantity.limit / quantity.unit
        panel.beyond(axes, limit, f"limit {limit:g} %", panel.LIMIT_COLOUR)


def shade_sustained(axes: Axes, seen: pd.DataFrame) -> None:
    """A grey ground where arms ran untimed for the GPU's slow counters."""
    for _, row in seen[seen["kind"].eq("sustained")].iterrows():
        axes.axvspan(row["at_s"], row["at_s"] + row["wall_s"], zorder=0.4, **style.GROUND)


def dots(points: int) -> Any:
    """How points are marked: smaller where there are more, and many as pixels, also in an SVG."""
    size = 4.5 if points < 60 else 3.0 if points < MANY else 1.6
    return {"markersize": size, "markeredgewidth": 0.0, "rasterized": points > MANY}


def marks(seen: pd.DataFrame) -> list[Line2D]:
    """The legend's entries for what is there beside the arms."""
    timed = seen[seen["kind"].eq("steady")]
    found = []
    if not timed["valid"].all():
        found.append(Line2D([], [], **INVALID, label="invalid, does not count"))
    if (timed["valid"] & ~timed["counts"]).any():
        label = "before it settled or set aside, does not count"
        found.append(Line2D([], [], color="0.3", marker="o", **UNSETTLED, label=label))
    return found


def words(seen: pd.DataFrame) -> list[str]:
    """How to read the figure."""
    few, many = seen["launch"].min(), seen["launch"].max()
    reasons = seen.loc[~seen["valid"], "reason"].dropna().value_counts().items()
    said = {
        "grey line: median": True,
        f"pale to dark: launch {few} to {many}": few != many,
        "time from each launch's first timed repetition": True,
        "dots below: in the colour of the arm that ran": True,
        "the limit is one for a cell as a whole": seen["on_cpu_fraction"].notna().any(),
        "grey ground: sustained phase, untimed": seen["kind"].eq("sustained").any(),
        f"invalid: {', '.join(f'{number} x {reason}' for reason, number in reasons)}": not seen["valid"].all(),
    }
    return [sentence for sentence, holds in said.items() if holds]

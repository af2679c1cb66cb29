"""The axes of a panel: curves with bands, plain numbers, and a foot where cells that were not measured are named."""

from collections.abc import Callable, Iterable, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from nanobench.records import MEASURED
from nanobench.views import format
from nanobench.views.figures import layout, tooltips
from nanobench.views.figures.layout import CROSS, HOLLOW, UNJUDGED
from nanobench.views.figures.style import FAINT, LineStyle

LOG_FROM = 8.0
"""From which ratio of largest to smallest value on an axis is logarithmic."""
MOST_TICKS = 64
"""of a batch axis"""
FARTHEST = 3.0
"""How far, as a factor beyond the values, an interval may stretch an axis; what is wider leaves the panel."""
ROW_POINTS = 19
"""Height of one row of failed cells."""
LIMIT_COLOUR = "#B22222"


def entitle(axes: Axes, title: str, columns: int) -> None:
    """The title of a panel, broken where its column ends."""
    axes.set_title(fill(title, 84 // columns))


def outer_labels(grid: Any, panels: int, x: str, y: str) -> None:
    """Labels of the x axis below the lowest panel of each column, of the y axis beside the first panel of each row."""
    columns = grid.shape[1]
    for number, axes in enumerate(grid.flat[:panels]):
        axes.set_xlabel(x if number + columns >= panels else "")
        axes.set_ylabel(y if number % columns == 0 else "")


def curve(axes: Axes, line_style: LineStyle, x: Any, y: Any, low: Any = None, high: Any = None, hollow: Any = None) -> None:
    """A line with its band; a point without neighbours gets a bar for the band that it cannot have.

    `hollow` says of each point whether its marker is; without it, many points share a few markers.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    open_ones = np.zeros(len(x), dtype=bool) if hollow is None else np.asarray(hollow, dtype=bool)
    every: Any = -(-len(x) // 12) if hollow is None else np.flatnonzero(~open_ones).tolist()
    # Nothing of a curve lies outside its axes but halves of markers at the edge: a share of 0 is to be seen.
    style = {"color": line_style.colour, "marker": line_style.marker, "clip_on": False, "zorder": 2.5}
    (line,) = axes.plot(x, y, linestyle=line_style.line, markeredgecolor="white", markeredgewidth=0.6, markevery=every, **style)
    if (open_ones & np.isfinite(y)).any():
        axes.plot(x[open_ones], y[open_ones], linestyle="", **style, **HOLLOW, label=UNJUDGED)
    if low is None or high is None:
        return
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    tooltips.remember(line, low, high)
    axes.fill_between(x, low, high, color=line_style.colour, alpha=0.13, linewidth=0)
    known = np.concatenate(([False], np.isfinite(low), [False]))
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if alone.any():
        bars = np.abs(np.stack([low, high]) - y)[:, alone]
        axes.errorbar(x[alone], y[alone], bars, fmt="none", ecolor=line_style.colour, elinewidth=1.2, capsize=3)


def batches(axes: Axes, line_style: LineStyle, rows: pd.DataFrame, x: Any, y: Any, names: Sequence[str] = ()) -> None:
    """The cells of an arm in the order of their batch sizes, which stand beside the points, or their `names`."""
    hollow = layout.unjudged(rows)
    look: Any = {"color": line_style.colour, "marker": line_style.marker}
    axes.plot(x, y, linestyle=line_style.line, zorder=2.5, **look)
    if hollow.any():
        axes.plot(x[hollow], y[hollow], linestyle="", zorder=2.6, label=UNJUDGED, **look, **HOLLOW)
    style: Any = {"textcoords": "offset points", "fontsize": 7.5, "color": line_style.colour}
    # Lines often end close to the point before: the last label goes to the other side. So does the first under a roof.
    below = {len(rows) - 1, *([0] if names else [])} if len(rows) > 1 else set()
    names = names or [str(size) for size in rows["batch_size"]]
    for number, (place, name) in enumerate(zip(zip(x, y, strict=True), names, strict=True)):
        axes.annotate(name, place, (6, -9) if number in below else (-5, 4), ha="left" if number in below else "right", **style)


def plain_log(axes: Axes, axis: Any) -> None:
    """A logarithmic axis with plain numbers."""
    (axes.set_xscale if axis.axis_name == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format.tick(value)))
    axis.set_minor_locator(NullLocator())


def steps(axes: Axes, values: Iterable[Any], crowd: int) -> None:
    """A log2 x axis with a tick per value measured, labelled where there is room: `crowd` panels share the width. Of more than
    MOST_TICKS values only those with a label have one.
    """
    found = sorted({float(value) for value in values})
    tooltips.STEPS[axes] = found
    axes.set_xscale("log", base=2)
    span = np.log2(found[-1] / found[0]) or 14.0
    axes.set_xlim(found[0] * 2 ** (-0.07 * span), found[-1] * 2 ** (0.07 * span))
    room = (0.04 if found[-1] < 100 else 0.055) * crowd * span
    kept = [found[0]]
    for value in found[1:]:
        if np.log2(value / kept[-1]) >= room:
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(found if len(found) <= MOST_TICKS else kept))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value in kept else ""))
    axes.xaxis.set_minor_locator(NullLocator())


def dodge(x: Any, number: int, of: int, values: Any, crowd: int = 0) -> Any:
    """The place of a line's points: moved apart from other lines' where all stand over one value.

    `crowd`, a number of panels that share the width, moves them by part of a marker in any case, as lines may coincide.
    """
    found = sorted(set(values))
    part = 0.01 * crowd * min(1.0, 2.5 / max(1, of - 1))
    step = 0.12 if len(found) == 1 else part * np.log2(found[-1] / found[0])
    return x * 2 ** (step * (number - (of - 1) / 2))


def is_wide(values: Any) -> bool:
    """Whether values are better shown on a logarithmic axis."""
    known = finite(values)
    return bool(len(known)) and known.min() > 0 and known.max() / known.min() > LOG_FROM


def scale(
    axes: Axes,
    values: Any,
    text: Callable[[float], str],
    bounds: Any = (),
    ratio: bool = False,
    log: bool | None = None,
    zero: bool = True,
) -> None:
    """A y axis over the values, and over their bounds within reason: logarithmic where the range is large, or as `log` says.

    A linear axis of amounts starts at 0 unless `zero` is False; one of ratios does not.
    """
    known = finite(values)
    if not len(known):
        axes.set_yticks([])
        return
    reach = finite(bounds).clip(known.min() / FARTHEST, known.max() * FARTHEST)
    low, high = min([known.min(), *reach]), max([known.max(), *reach])
    zero = zero and not ratio
    if (is_wide([low, high]) if log is None else log) and low > 0:
        axes.set_yscale("log")
        digits = (1.0, 2.0, 5.0) if is_wide([low, high]) else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axes.yaxis.set_major_locator(LogLocator(2, numticks=9) if ratio else LogLocator(10, digits, numticks=9))
        axes.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    else:
        low = min(0.0, low) if zero else low
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.set_ylim(low if zero else low - margin, high + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def say(axes: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="0.4")


def limit(axes: Axes, value: float, words: str) -> None:
    """A thin line at a limit, with words beside the panel."""
    axes.axhline(value, color=LIMIT_COLOUR, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1.2)
    beyond(axes, value, words, LIMIT_COLOUR)


def beyond(axes: Axes, value: float, words: str, colour: str = "0.35") -> None:
    """Words at a value, right of the panel, where no curve runs."""
    place: Any = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(words, (1, value), (3, 0), ha="left", va="center", fontsize=7, color=colour, **place)


def finite(values: Any) -> Any:
    """The values that are known."""
    found = np.asarray(list(values), dtype=float)
    return found[np.isfinite(found)]


def failing(panels: Iterable[tuple[str, pd.DataFrame]], line: str) -> int:
    """How many lines of a panel have a cell that was not measured, at most: `line` is the column that tells lines apart."""
    return max((rows.loc[~rows["status"].isin(MEASURED), line].nunique() for _, rows in panels), default=0)


def failures(axes: Axes, lines: Iterable[tuple[LineStyle, Any, Any]]) -> None:
    """A cross at the foot of the panel for each cell that was not measured: a row per line, the statuses over each stretch."""
    row = 0
    for line_style, x, status in lines:
        stretches: list[list[tuple[Any, str]]] = [[]]
        for cell in zip(x, status, strict=True):
            if cell[1] in MEASURED:
                stretches.append([])
            else:
                stretches[-1].append(cell)
        for stretch in filter(None, stretches):
            whole = len(stretches) == 1
            sides = {id(stretches[0]): "left", id(stretches[-1]): "right"}
            crosses(axes, line_style, stretch, row, "center" if whole else sides.get(id(stretch), "center"))
        row += any(stretches)


def crosses(axes: Axes, line_style: LineStyle, stretch: list[tuple[Any, str]], row: int, side: str) -> None:
    """The crosses of neighbouring cells of one line, with their statuses above; `side` keeps these inside the panel."""
    place: Any = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    style = {"fontsize": 7, "color": line_style.colour, **place}
    height = 2 + ROW_POINTS * row
    for value, _ in stretch:
        axes.annotate(CROSS, (value, 0), (0, height), ha="center", **style)
    words = ", ".join(dict.fromkeys(status for _, status in stretch))
    at, shift = {"left": (stretch[0], -4), "center": (stretch[len(stretch) // 2], 0), "right": (stretch[-1], 4)}[side]
    axes.annotate(words, (at[0], 0), (shift, height + 8), ha=side, **style)


def room_in(rows: int) -> float:
    """Inches that some rows of failed cells take."""
    return rows * ROW_POINTS / 72


def make_room(axes: Axes, rows: int, row_in: float) -> None:
    """Lowers the foot of the y axis by some rows of failed cells, below a line and without ticks.

    `row_in` is the panel's height without them.
    """
    if not rows:
        return
    low, high = axes.get_ylim()
    share = room_in(rows) / (0.8 * row_in)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in axes.get_yticks() if low <= tick <= high]))
    axes.set_ylim(low / (high / low) ** share if axes.get_yscale() == "log" else low - (high - low) * share, high)
    for each in axes.get_shared_y_axes().get_siblings(axes):
        each.axhline(low, color=FAINT, linewidth=0.8, linestyle=":")

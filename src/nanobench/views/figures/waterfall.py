"""What each change multiplies the output by: one bar per factor, each begins where the one above ends."""

import math
from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nanobench.analysis.verdict import marked
from nanobench.analysis.waterfall import BATCH, STEPS, TOGETHER, TRAINING_STEPS, Factor, Waterfall, waterfalls
from nanobench.errors import UserError
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import MOST_PANELS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import Colour

ROW_IN = 0.27
TITLE_IN = 0.75
"""What title, ticks and label of a panel take."""
BETWEEN_IN = 0.09
"""Half the distance between figures of one panel and words of the next."""
BAR: Any = {"height": 0.56, "linewidth": 1.3, "zorder": 2}
BATCH_COLOUR, TOTAL_COLOUR = "#56B4E9", "#949494"
LEAST_SPAN = 1.5
"""Ratio of the ends of an axis, at least: a small factor looks small."""
DIGITS: tuple[tuple[float, ...], ...] = (
    tuple(np.arange(1, 10, 0.1).round(1).tolist()),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
    (1.0,),
)
"""Leading digits that ticks may have, the most first."""
EVEN = (0.05, 0.1, 0.2)
"""Steps between ticks around 1, where factors are small."""
LETTER = 0.02
"""Share of the width of a single panel that a letter of a tick takes."""


@plot
def waterfall(cells: pd.DataFrame, launches: Launches) -> Figure:
    """What each change multiplies the output by, the arms first and the batch first."""
    found = waterfalls(cells, launches)
    if not found:
        arms = ", ".join(STEPS)
        raise UserError(
            f"waterfall needs two arms of {arms} at one batch size, or in training --compile; give --engine uncached,cached"
        )
    ways = [(each, way) for each in found for way in (each.arms_first, each.batch_first) if way]
    shown = (ways if len(ways) <= MOST_PANELS else [(each, each.arms_first) for each in found])[:MOST_PANELS]
    columns, rows = min(2, len(shown)), max(len(bars(each, way)) for each, way in shown)
    drawing, grid = layout.make(len(shown), columns, [ROW_IN * rows + TITLE_IN] * -(-len(shown) // columns), sharex=True)
    drawing.set_layout_engine("constrained", w_pad=BETWEEN_IN)
    colours = {arm: line_style.colour for arm, line_style in style.arm_styles(cells).items()}
    for axes, (each, way) in zip(grid.flat, shown, strict=False):
        draw(axes, bars(each, way), colours)
        axes.set_title(fill(title(each, way, found), 84 // columns))
    factors = [factor for each, way in shown for factor in bars(each, way)]
    scale(grid.flat[0], reach(bars(each, way) for each, way in shown), columns)
    what = "training throughput" if found[0].where["seq_len"] else "output"
    panel.outer_labels(grid, len(shown), f"{what} relative to the first bar's start (x)", "")
    notes = (*words(found, factors), layout.left_out("panels", shown, ways))
    handles = marks(factors, colours, cells)
    return layout.finish_figure(
        drawing, f"What each change multiplies the {what} by", handles, cells, *notes, layout.unmeasured_words(cells)
    )


def bars(found: Waterfall, way: list[Factor]) -> list[Factor]:
    """The factors of one way, and all of them together where they are several."""
    return [*way, found.total] if len(way) > 1 else way


def title(found: Waterfall, way: list[Factor], of: list[Waterfall]) -> str:
    """The setting, where there are several, and the way."""
    differing = [name for name in found.where if len({each.where[name] for each in of}) > 1]
    setting = [layout.word(name, [found.where[name]]) for name in differing]
    batch = f"arms at batch {way[-1].from_batch if way[-1].step == BATCH else way[-1].to_batch}"
    order = f"batch, then {batch}" if way[0].step == BATCH else f"{batch}, then batch" if way[-1].step == BATCH else batch
    return ": ".join(filter(None, (", ".join(setting), order)))


def starts(factors: list[Factor]) -> list[float]:
    """Where each bar begins: at what those above it multiply to; the one of all together at 1."""
    ratios = [1.0 if each.ratio is None or each.step == TOGETHER else each.ratio.value for each in factors]
    products = np.cumprod([1.0, *ratios]).tolist()
    return [1.0 if each.step == TOGETHER else products[n] for n, each in enumerate(factors)]


def draw(axes: Axes, factors: list[Factor], colours: dict[str, Colour]) -> None:
    """The bars of one way from top to bottom, with their intervals, and the figures right of the panel."""
    names, places = [], starts(factors)
    for row, (each, start) in enumerate(zip(factors, places, strict=True)):
        names.append(f"batch {each.from_batch} to {each.to_batch}" if each.step == BATCH else each.step)
        panel.beyond(axes, row, label(each))
        if each.ratio is None:
            continue
        colour, end = colour_of(each, colours), start * each.ratio.value
        axes.barh(row, end - start, left=start, color=colour if each.judged else "white", edgecolor=colour, **BAR)
        if row + 1 < len(factors):
            axes.plot([end, end], [row, row + 1], color=style.FAINT, linewidth=0.7, zorder=1.5)
        if each.ratio.low is not None and each.ratio.high is not None:
            bounds = [start * each.ratio.low, start * each.ratio.high]
            axes.plot(bounds, [row, row], color="black", linewidth=1.1, marker="|", markersize=6, zorder=3)
    axes.axvline(1.0, color="0.4", linewidth=0.9, zorder=1.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def label(factor: Factor) -> str:
    """2.84x [2.48, 3.25]."""
    if factor.ratio is None:
        return format.MISSING
    return format.times(factor.ratio.value, factor.ratio.low, factor.ratio.high)


def colour_of(factor: Factor, colours: dict[str, Colour]) -> Any:
    """A change has the colour of the arm that it leads to."""
    return {BATCH: BATCH_COLOUR, TOGETHER: TOTAL_COLOUR}.get(factor.step, colours[factor.after])


def reach(ways: Iterable[list[Factor]]) -> tuple[float, float]:
    """The ends of the axis: all bars, and their intervals within reason."""
    ends, bounds = [1.0], []
    for factors in ways:
        for each, start in zip(factors, starts(factors), strict=True):
            if each.ratio:
                ends.append(start * each.ratio.value)
                bounds += [start * bound for bound in (each.ratio.low, each.ratio.high) if bound is not None]
    low, high = min(ends), max(ends)
    kept = np.clip([low, high, *bounds], low / panel.FARTHEST, high * panel.FARTHEST)
    low, high = float(kept.min()), float(kept.max())
    spare = max(1.0, LEAST_SPAN / (high / low)) ** 0.5
    margin = (high / low * spare**2) ** 0.04
    return low / spare / (margin if low < 1 else 1.0), high * spare * margin


def scale(axes: Axes, ends: tuple[float, float], columns: int) -> None:
    """A logarithmic axis with as many plain ticks as there is room for."""
    low, high = ends
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [np.arange(math.ceil(low / step) * step, high, step).round(2).tolist() for step in EVEN]
    choices += [[digit * 10.0**power for power in powers for digit in digits] for digits in DIGITS]
    choices += [[10.0**power for power in powers if power % step == 0] for step in range(2, len(powers))]
    inside = [[tick for tick in ticks if low * 0.999 <= tick <= high * 1.001] for ticks in choices]
    letter = LETTER * columns * math.log(high / low)
    fitting = [ticks for ticks in inside if len(ticks) > 1 and min(np.diff(np.log(ticks))) >= letter * longest(ticks)]
    axes.xaxis.set_major_locator(FixedLocator(fitting[0] if fitting else [1.0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_words(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def tick_words(value: float) -> str:
    """0.5x, 2x, 10,000x."""
    return f"{format.tick(value)}x"


def longest(ticks: list[float]) -> int:
    """Letters of the longest tick, and one between two."""
    return 1 + max(len(tick_words(tick)) for tick in ticks)


def words(found: list[Waterfall], factors: list[Factor]) -> list[str]:
    """What the lines mean, and what has no bar."""
    bases = dict.fromkeys(each.ratio.basis for each in factors if each.ratio and each.ratio.low is not None)
    said = {
        "line: 95 % interval over": list(bases),
        "left out, because there is no such arm:": [
            name for name in STEPS | TRAINING_STEPS if all(name in each.left_out for each in found)
        ],
        "no bar for": list(dict.fromkeys(arm for each in found for arm in each.aside)),
    }
    bare = any(each.ratio and each.ratio.low is None for each in factors)
    lines = [f"{head} {', '.join(names)}" for head, names in said.items() if names]
    return [*lines, *["no interval between batch sizes from one launch"] * bare]


def marks(factors: list[Factor], colours: dict[str, Colour], cells: pd.DataFrame) -> list[Line2D]:
    """The legend: to which arm each change leads, and what is hollow."""
    steps = {each.step: each for each in factors if each.step != TOGETHER}
    rows = {arm: records(found) for arm, found in cells.groupby("arm", sort=False)}
    labels = {
        name: name if name == BATCH else f"{name}: to {marked(each.after, rows.get(each.after, ()))}"
        for name, each in steps.items()
    }
    order = sorted(
        steps, key=lambda name: (name == BATCH, list((STEPS | TRAINING_STEPS).values()).index(name) if name != BATCH else 0)
    )
    found = [Line2D([], [], color=colour_of(steps[name], colours), linewidth=7, label=labels[name]) for name in order]
    hollow = [] if all(each.judged for each in factors) else [layout.unjudged_handle(cells, "status", "speedup_status")]
    return [*found, *hollow]

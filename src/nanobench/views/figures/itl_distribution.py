"""How long the gaps between tokens are, as a distribution."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from nanobench.analysis.token_latency import gaps_s
from nanobench.errors import UserError
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import HOLLOW, MOST_PANELS, UNJUDGED, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle

PERCENTILES = (50, 90, 99)
TICKS = (0, 25, 50, 75, 90, 100)


@plot
def itl_distribution(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Share of the gaps between tokens that are at most so long, with percentiles and their intervals."""
    gaps = gaps_s(cells, launches)
    if not gaps:
        fix = "give --new-tokens 16"
        raise UserError(f"itl_distribution needs repetitions with a time per token and 2 new tokens or more; {fix}")
    line_styles = style.arm_styles(cells)
    shown, panels = layout.at_ends(cells, gaps, MOST_PANELS)
    columns, row_in = min(2, len(shown)), 3.2 if len(shown) == 1 else 2.4
    absent = max(int((~here.index.isin(list(gaps))).sum()) for _, here in shown)
    rows_in = [row_in + panel.room_in(absent)] * -(-len(shown) // columns)
    drawing, grid = layout.make(len(shown), columns, rows_in, sharey=True)
    for axes, (title, here) in zip(grid.flat, shown, strict=False):
        panel.entitle(axes, title, columns)
        draw(axes, here, line_styles, {index: 1e3 * gaps[index] for index in here.index if index in gaps})
    panel.make_room(grid.flat[0], absent, row_in)
    panel.outer_labels(grid, len(shown), "gap to the token before (ms)", "gaps up to this (%)")
    indices = [index for _, here in shown for index in here.index]
    here = cells.loc[indices]
    handles = [line_styles[arm].handle(arm) for arm in here["arm"].drop_duplicates()]
    notes = (*words(here[here.index.isin(list(gaps))]), layout.left_out("panels", shown, panels))
    return layout.finish_figure(
        drawing, "Gaps between tokens", handles, here, *notes, layout.unmeasured_words(cells.drop(indices))
    )


def draw(axes: Axes, cells: pd.DataFrame, line_styles: dict[str, LineStyle], gaps_ms: dict[Hashable, Any]) -> None:
    """The distributions of one panel's cells; arms without gaps are named at its foot."""
    every = np.concatenate(list(gaps_ms.values()))
    scale(axes, every)
    absent = []
    for index, cell in cells.iterrows():
        line_style = line_styles[cell["arm"]]
        if index in gaps_ms:
            shares = 100 * np.arange(1, len(gaps_ms[index]) + 1) / len(gaps_ms[index])
            axes.step(gaps_ms[index], shares, where="post", color=line_style.colour, linestyle=line_style.line, linewidth=1.3)
            percentiles(axes, cell, line_style, bool(layout.unjudged(cells.loc[[index]]).any()))
        else:
            words = f"{cell['arm']}: {layout.why_without_gaps(cell)}"
            absent.append((line_style, [float(np.sqrt(every.min() * every.max()))], [words]))
    panel.failures(axes, absent)


def percentiles(axes: Axes, cell: pd.Series, line_style: LineStyle, is_hollow: bool) -> None:
    """The percentiles that a cell knows, with their intervals."""
    for percentile in PERCENTILES:
        value, low, high = (1e3 * float(cell[f"itl_p{percentile}{bound}_s"]) for bound in ("", "_lo", "_hi"))
        if not np.isfinite(value):
            continue
        look: Any = {"color": line_style.colour, "marker": line_style.marker, "linestyle": "", "zorder": 3}
        more: Any = {**HOLLOW, "label": UNJUDGED} if is_hollow else {"markeredgecolor": "white", "markeredgewidth": 0.6}
        axes.plot([value], [percentile], **look, **more)
        if np.isfinite(low) and np.isfinite(high):
            bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(
                [value], [percentile], xerr=bars, fmt="none", ecolor=line_style.colour, elinewidth=1.2, capsize=3, zorder=2.8
            )


def scale(axes: Axes, gaps_ms: Any) -> None:
    """Axes over all gaps, logarithmic where their range is large, and over shares from 0 to 100 %."""
    if panel.is_wide(gaps_ms):
        panel.plain_log(axes, axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format.tick(value)))
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format.tick(value)))
    axes.set_ylim(0, 103)


def words(cells: pd.DataFrame) -> list[str]:
    """Which gaps these are, what the markers show, and which percentiles are not known."""
    positions = cells.groupby("itl_positions", sort=False)["arm"].unique()
    covered = [f"{each} ({', '.join(arms)})" if len(positions) > 1 else str(each) for each, arms in positions.items()]
    missing = {percentile: int(cells[f"itl_p{percentile}_s"].isna().sum()) for percentile in PERCENTILES}
    lacking = [f"p{percentile} of {format.count(number, 'cell')}" for percentile, number in missing.items() if number]
    marks = [f"p{percentile}" for percentile in PERCENTILES if missing[percentile] < len(cells)]
    return [
        f"gaps before new tokens {'; '.join(covered)}",
        *([f"marks: {', '.join(marks)} with distribution-free 95 % intervals"] if marks else []),
        *([f"not known, as there are too few gaps: {', '.join(lacking)}"] if lacking else []),
    ]

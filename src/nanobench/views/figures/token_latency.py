"""Time of each new token, by its position."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanobench.analysis.token_latency import quartiles_s
from nanobench.errors import UserError
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import MOST_PANELS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle


@plot
def token_latency(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Time of each new token, by its position, at the smallest and the largest batch size that the arms have in common."""
    bands_s = quartiles_s(cells, launches)
    if not bands_s:
        raise UserError("token_latency needs repetitions with a time per token and 2 new tokens or more; give --new-tokens 16")
    line_styles = style.arm_styles(cells)
    shown, panels = layout.at_ends(cells, bands_s, MOST_PANELS)
    columns, row_in = min(2, len(shown)), 3.4 if len(shown) == 1 else 2.4
    drawing, grid = layout.make(len(shown), columns, [row_in] * -(-len(shown) // columns), sharex=True)
    bands_ms = {index: 1e3 * bands for index, bands in bands_s.items()}
    log = any(panel.is_wide([gap for i in here.index for gap in bands_ms.get(i, np.empty(0)).flat]) for _, here in shown)
    for axes, (title, here) in zip(grid.flat, shown, strict=False):
        panel.entitle(axes, title, columns)
        gap_panel(axes, here, line_styles, bands_ms, row_in, log)
    panel.outer_labels(grid, len(shown), "position of the new token", "gap to the token before (ms)")
    indices = [index for _, here in shown for index in here.index]
    handles = [line_style.handle(arm) for arm, line_style in line_styles.items()]
    notes = (
        "line: median over calls; band: middle half of the calls",
        layout.left_out("panels", shown, panels),
        layout.unjudged_words(cells.loc[indices]),
        layout.unmeasured_words(cells.drop(indices)),
    )
    return layout.finish_figure(drawing, "Time per token, by its position in the output", handles, cells, *notes)


def gap_panel(
    axes: Axes, cells: pd.DataFrame, line_styles: dict[str, LineStyle], bands_ms: dict[Any, Any], row_in: float, log: bool
) -> None:
    """The quartiles of one panel's cells by position; arms without a trace are named at its foot."""
    middles, ends, absent = [], [], []
    for index, cell in cells.iterrows():
        line_style = line_styles[cell["arm"]]
        if index in bands_ms:
            low, middle, high = bands_ms[index]
            panel.curve(axes, line_style, np.arange(2, len(middle) + 2), middle, low, high)
            middles.extend(middle)
            ends.extend([*low, *high])
        else:
            absent.append((line_style, [cell["new_tokens"] / 2 + 1], [f"{cell['arm']}: {layout.why_without_gaps(cell)}"]))
    panel.scale(axes, middles, format.tick, ends, log=log or None)
    panel.failures(axes, absent)
    panel.make_room(axes, len(absent), row_in)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

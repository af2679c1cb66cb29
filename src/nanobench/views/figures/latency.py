"""What is gained and what is paid: throughput against latency."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import MOST_COLUMNS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle


@plot
def latency_vs_throughput(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Time per output token against output tokens per second, a point per batch size: down and right is better."""
    known = cells[cells["tpot_s"].notna() & cells["output_tok_s"].notna() & cells["status"].isin(MEASURED)]
    if known.empty:
        raise UserError("latency_vs_throughput needs cells that generate two tokens or more")
    line_styles, panels = style.arm_styles(cells), layout.panels(known)
    shown = panels[:MOST_COLUMNS]
    drawing, grid = layout.make(len(shown), len(shown), [3.4], sharex=True, sharey=True)
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        panel.entitle(axes, title, len(shown))
        best = frontier(here)
        axes.step(best["output_tok_s"], 1e3 * best["tpot_s"], where="post", color=style.FAINT, linewidth=3, zorder=1)
        for arm, rows in here.groupby("arm", sort=False):
            line(axes, line_styles[str(arm)], rows.sort_values("batch_size"))
        for axis in (axes.xaxis, axes.yaxis):
            panel.plain_log(axes, axis)
    panel.outer_labels(grid, len(shown), "output (tok/s), all rows", "TPOT (ms)")
    handles = [line_styles[arm].handle(arm) for arm in known["arm"].drop_duplicates()]
    notes = (
        "numbers: batch sizes",
        "bars: 95 % interval of the throughput",
        "grey: no other cell has both a lower TPOT and a higher throughput",
    )
    return layout.finish_figure(
        drawing,
        "Latency against throughput",
        handles,
        cells,
        *notes,
        layout.left_out("settings", shown, panels),
        layout.unmeasured_words(cells),
    )


def frontier(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of which no other has both a lower time per token and a higher throughput, by throughput."""
    by_rate = cells.sort_values(["output_tok_s", "tpot_s"], ascending=[False, True])
    best = by_rate["tpot_s"].cummin()
    kept = by_rate[by_rate["tpot_s"].eq(best) & ~by_rate["tpot_s"].duplicated()]
    return kept.sort_values("output_tok_s")


def line(axes: Axes, line_style: LineStyle, rows: pd.DataFrame) -> None:
    """The cells of an arm by batch size, with the intervals of their throughput."""
    x, y = rows["output_tok_s"].to_numpy(float), 1e3 * rows["tpot_s"].to_numpy(float)
    bars = [x - rows["output_tok_s_lo"].to_numpy(float), rows["output_tok_s_hi"].to_numpy(float) - x]
    axes.errorbar(x, y, xerr=bars, fmt="none", ecolor=line_style.colour, elinewidth=1.2, capsize=3, zorder=2.4)
    panel.batches(axes, line_style, rows, x, y)

"""Faulty methods of published scripts: what each would publish, over our figure with its interval."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nanobench.analysis.audit import Found, Row
from nanobench.errors import UserError
from nanobench.views import format
from nanobench.views.audit import figure as text_of
from nanobench.views.figures import layout
from nanobench.views.figures.style import COLOURS, STYLE

ROW_IN = 0.3
PUBLISHED, OURS = COLOURS[2], COLOURS[1]


def draw(rows: Sequence[Row], where: str, folder: Path) -> list[Path]:
    """The figure as PNG and SVG in a folder. Raises UserError where no method has a factor."""
    with mpl.rc_context(STYLE):
        return layout.save(published_over_ours(rows, where), folder, "audit")


def published_over_ours(rows: Sequence[Row], where: str) -> Figure:
    """Each published figure relative to ours, which is 1 with its interval. `where` names model, shape and device."""
    known = [row for row in rows if row.factor is not None]
    if not known:
        raise UserError("the figure of audit needs a method with a reliable figure beside it; the table says why there is none")
    drawing, grid = layout.make(1, 1, [ROW_IN * len(known) + 0.6])
    axes = grid.flat[0]
    axes.axvline(1.0, color="0.4", linewidth=0.9, zorder=1)
    for place, row in enumerate(known):
        value, low, high = row.ours.value or 1.0, row.ours.low, row.ours.high
        if low is not None and high is not None:
            axes.plot([low / value, high / value], [place, place], color=OURS, linewidth=3, marker="|", markersize=9, zorder=2)
        inside = row.found is Found.SMALL
        axes.plot([row.factor], [place], "D", color=PUBLISHED, markerfacecolor="white" if inside else PUBLISHED, zorder=3)
        words = f"{text_of(row.published, row.specimen.unit)} for {text_of(row.ours.value, row.specimen.unit)}"
        axes.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), fontsize=7.5, color="0.35", va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format.ratio_tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("published / ours (x)")
    axes.set_yticks(range(len(known)), [f"{row.specimen.name}: {row.specimen.publishes}" for row in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    handles = [
        Line2D([], [], color=PUBLISHED, marker="D", linestyle="", label="published"),
        Line2D([], [], color=PUBLISHED, marker="D", linestyle="", markerfacecolor="white", label="within our interval"),
        Line2D([], [], color=OURS, linewidth=3, label="ours, 95 % interval"),
    ]
    return layout.finish(drawing, "What faulty methods publish", handles, [where])

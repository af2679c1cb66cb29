"""Two recorded runs: how each cell changed, with its interval, and the difference below which nothing is said."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from nanobench.analysis import compare as analysis
from nanobench.analysis.compare import DELTA, KINDS, Change, Comparison, Row
from nanobench.errors import UserError
from nanobench.views import compare as words
from nanobench.views import format
from nanobench.views.figures import layout, panel, tooltips
from nanobench.views.figures.style import GROUND, STYLE

MARKS = {
    Change.FASTER: ("#009E73", "^"),
    Change.SLOWER: ("#D55E00", "v"),
    Change.SAME: ("#555555", "o"),
    Change.AMBIGUOUS: ("#E69F00", "D"),
}
"""Change -> its colour and marker."""
TITLES = {"throughput": "throughput of NEW over BASE", "speedup": "speedup over the first arm, of NEW over BASE"}
MOST_ROWS = 40
ROW_IN = 0.24
WIDE = 2
"""Ratio of the ends of an axis from which on its ticks are those of a log scale."""


def draw(found: Comparison, base: str, new: str, folder: Path) -> list[Path]:
    """The figure as PNG and SVG in a folder. Raises UserError where the runs have no ratio in common."""
    with mpl.rc_context(STYLE):
        return layout.save(compare_forest(found, base, new), folder, "compare_forest")


def compare_forest(found: Comparison, base: str, new: str) -> Figure:
    """The ratio of NEW to BASE in each cell, throughputs and speedups apart."""
    known = [row for row in found.rows if row.ratio is not None]
    kinds = {kind: [row for row in known if row.kind == kind] for kind in KINDS}
    panels = [(kind, rows[:MOST_ROWS]) for kind, rows in kinds.items() if rows]
    if not panels:
        raise UserError("compare_forest needs a cell that is reliable in both runs; nanobench compare says why there is none")
    drawing, grid = layout.make(len(panels), 1, [ROW_IN * len(rows) + 0.6 for _, rows in panels], sharex=True)
    delta, counts = DELTA[found.relation], words.counted(found)
    for axes, (kind, rows) in zip(grid.flat, panels, strict=False):
        forest(axes, rows, labels(rows, analysis.varying(found.rows)), delta)
        panel.entitle(axes, f"{TITLES[kind]}: {counts[kind]}", 1)
    grid.flat[len(panels) - 1].set_xlabel("NEW / BASE (x), above 1: NEW is faster")
    changes = dict.fromkeys(row.change for _, rows in panels for row in rows)
    handles = [
        Line2D([], [], color=MARKS[each][0], marker=MARKS[each][1], linestyle="", label=words.words(each)) for each in changes
    ]
    band = Patch(**GROUND, label=f"within {format.percent(delta)}: nothing is said")
    lines = [
        f"BASE {base}  |  NEW {new}",
        f"{words.RELATIONS[found.relation]}; bars are 95 % intervals",
        *words.adjustment(found),
        left_out(found, panels),
    ]
    return layout.finish(drawing, "What changed from BASE to NEW", [*handles, band], lines)


def left_out(found: Comparison, panels: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """How many of the rows that the titles count have no line in the figure; empty where all have one."""
    bare = sum(row.ratio is None for row in found.rows)
    further = len(found.rows) - bare - sum(len(rows) for _, rows in panels)
    parts = [f"{bare} without a ratio, as not comparable"] if bare else []
    parts += [f"{further} for which there is no room"] if further else []
    return f"in the table alone: {'; '.join(parts)}" if parts else ""


def labels(rows: Sequence[Row], varying: Iterable[str]) -> list[str]:
    """What tells the cells apart: the arm, and the fields that differ."""
    names = {name: name.removesuffix("_size").replace("_", " ") for name in varying}
    settings = [[f"{words} {getattr(row.point, name)}" for name, words in names.items()] for row in rows]
    return [", ".join([row.arm.label, *setting]) for row, setting in zip(rows, settings, strict=True)]


def forest(axes: Axes, rows: Sequence[Row], names: list[str], delta: float) -> None:
    """One line per cell, from top to bottom."""
    axes.axvspan(1 / (1 + delta), 1 + delta, zorder=0, **GROUND)
    axes.axvline(1.0, color="0.4", linewidth=0.9, zorder=1)
    for place, row in enumerate(rows):
        colour, marker = MARKS[row.change]
        low, high, ratio = (float(value or 1) for value in (row.low, row.high, row.ratio))
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, marker="|", markersize=6, zorder=2)
        (point,) = axes.plot([ratio], [place], color=colour, marker=marker, linestyle="", zorder=3)
        tooltips.name(point, [f"{names[place]}: {words.words(row.change)}, {words.ratio_text(words.flat(row))}"])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if high < WIDE * low else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")

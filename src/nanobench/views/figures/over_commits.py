"""The headline ratio of each run of a folder, from the oldest run to the newest."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nanobench.analysis.history import Line
from nanobench.errors import UserError
from nanobench.views import format
from nanobench.views.figures import layout, panel
from nanobench.views.figures.style import COLOURS, LINES, MARKERS, STYLE, LineStyle

MOST_LABELS = 24
MOST_SERIES = 7


def draw(lines: Sequence[Line], folder: Path) -> list[Path]:
    """The figure as PNG and SVG in a folder. Raises UserError where no run has a reliable ratio."""
    with mpl.rc_context(STYLE):
        return layout.save(over_commits(lines), folder, "over_commits")


def over_commits(lines: Sequence[Line]) -> Figure:
    """The headline ratio of each run, a series for runs of the same command, model and machine."""
    known = [line for line in lines if line.speedup is not None]
    if not known:
        raise UserError("over_commits needs a run with a reliable ratio; nanobench history lists the runs")
    series = {title: list(own) for title, own in groupby(sorted(known, key=title_of), key=title_of)}
    shown = dict(list(series.items())[:MOST_SERIES])
    drawing, grid = layout.make(1, 1, [3.6])
    axes, handles = grid.flat[0], []
    for number, (title, own) in enumerate(shown.items()):
        look = LineStyle(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], LINES[number % len(LINES)])
        places = [known.index(line) for line in own]
        for place, line in zip(places, own, strict=True):
            if line.speedup_lo is not None and line.speedup_hi is not None:
                axes.plot([place, place], [line.speedup_lo, line.speedup_hi], color=look.colour, linewidth=1.2, marker="_")
        axes.plot(places, [line.speedup for line in own], color=look.colour, marker=look.marker, linestyle=look.line)
        handles.append(look.handle(title))
    bounds = [bound for line in known for bound in (line.speedup_lo, line.speedup_hi) if bound is not None]
    panel.scale(axes, [line.speedup for line in known], format.ratio_tick, bounds, ratio=True)
    axes.set_ylabel("speedup over the first arm (x)")
    axes.set_xlabel("runs, oldest first (day, commit)")
    every = -(-len(known) // MOST_LABELS)
    axes.set_xticks(range(0, len(known), every), [label(line) for line in known[::every]], rotation=40, ha="right")
    left_out = layout.left_out("series", list(shown), list(series))
    note = "bars are 95 % intervals; runs of different times are not compared by them"
    return layout.finish(drawing, "Headline speedup, run by run", handles, ["; ".join(filter(None, (note, left_out)))])


def title_of(line: Line) -> str:
    """What the runs of a series have in common."""
    return f"{line.headline}, {line.model} ({line.command}, {line.machine})"


def label(line: Line) -> str:
    """The day of a run and its commit."""
    return f"{line.started_at[:10]} {(line.commit or '')[:7]}".rstrip()

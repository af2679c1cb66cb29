"""The cells on the measured limits of their machine: how much a step multiplies per byte that it moves, and how quickly."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.results.store import records
from nanobench.views import format, step_parts
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import MOST_COLUMNS, Launches
from nanobench.views.figures.plot import plot

GIGA = 1e9
LIMITS = ["limit_flops_per_s", "limit_bytes_per_s"]
ROOF: Any = {"color": "0.2", "linewidth": 1.6, "linestyle": "-"}
MARGIN = 1.6
"""By which factor the axes reach beyond the points."""


@plot
def roofline(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Achieved FLOP/s of a decode step against its FLOP per byte, under the limits that the calibration of the run measured."""
    known = cells[cells["flops_per_byte"].notna() & cells["step_flops_per_s"].notna()]
    if known.empty:
        needs = "cells that generate, with an engine and a model whose costs are known"
        raise UserError(f"roofline needs {needs}; the bytes of a training step are not counted")
    known = known[known[LIMITS].notna().all(axis=1)]
    if known.empty:
        raise UserError("roofline needs the limits of the machine and this run has none; measure with --calibration auto")
    line_styles, panels = style.arm_styles(cells), layout.panels(known)
    shown = panels[:MOST_COLUMNS]
    drawing, grid = layout.make(len(shown), len(shown), [3.6], sharex=True, sharey=True)
    ends = reach(known)
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        panel.entitle(axes, title, len(shown))
        for axis in (axes.xaxis, axes.yaxis):
            panel.plain_log(axes, axis)
        roof(axes, here, ends[0])
        for arm, rows in here.sort_values("batch_size").groupby("arm", sort=False):
            x, y = rows["flops_per_byte"], rows["step_flops_per_s"] / GIGA
            panel.batches(axes, line_styles[str(arm)], rows, x.to_numpy(float), y.to_numpy(float), list(names(rows)))
        axes.set(xlim=ends[0], ylim=ends[1])
    panel.outer_labels(grid, len(shown), "arithmetic intensity (FLOP/byte)", "achieved (GFLOP/s)")
    handles = [line_styles[arm].handle(arm) for arm in known["arm"].drop_duplicates()]
    handles.append(Line2D([], [], **ROOF, label="measured limits"))
    layout.finish_figure(
        drawing,
        "Decode steps on the roofline of this machine",
        handles,
        cells,
        *notes(cells, known),
        layout.left_out("settings", shown, panels),
        layout.unmeasured_words(cells),
    )
    return layout.foot(drawing, [step_parts.sentence(records(cells))])


def limits_of(cells: pd.DataFrame) -> list[tuple[float, float]]:
    """The limits under which cells were measured, FLOP/s and B/s, each pair once."""
    return list(cells[LIMITS].astype(float).drop_duplicates().itertuples(index=False, name=None))


def reach(known: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes: all points, and the limits."""
    x, y = known["flops_per_byte"].astype(float), known["step_flops_per_s"].astype(float) / GIGA
    ridges = [flops_per_s / bytes_per_s for flops_per_s, bytes_per_s in limits_of(known)]
    tops = [flops_per_s / GIGA for flops_per_s, _ in limits_of(known)]
    low, high = min(x.min(), *ridges), max(x.max(), *ridges)
    return (low / MARGIN, high * MARGIN), (y.min() / MARGIN, max(y.max(), *tops) * MARGIN)


def roof(axes: Axes, here: pd.DataFrame, ends: tuple[float, float]) -> None:
    """The limits of one panel, with their numbers where no point can be."""
    texts = []
    for flops_per_s, bytes_per_s in limits_of(here):
        x = np.array([ends[0], flops_per_s / bytes_per_s, ends[1]])
        axes.plot(x, np.minimum(x * bytes_per_s, flops_per_s) / GIGA, zorder=1.5, **ROOF)
        texts.append(f"read {format.rate(bytes_per_s, 'B/s')}, matmul {format.rate(flops_per_s, 'FLOP/s')}")
    axes.text(0.02, 0.98, "\n".join(texts), transform=axes.transAxes, ha="left", va="top", fontsize=8, color="0.2")


def names(rows: pd.DataFrame) -> Iterator[str]:
    """64 M: the batch size of each cell, and the letter of what binds it."""
    for row in records(rows):
        yield f"{row['batch_size']} {step_parts.LETTERS.get(row['bound_by'] or '', '')}".rstrip()


def notes(cells: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """How to read the figure, and which measured cells are not in it."""
    roofs = np.minimum(known["flops_per_byte"] * known["limit_bytes_per_s"], known["limit_flops_per_s"])
    above = int((known["step_flops_per_s"] > roofs).sum())
    missing = int((cells["status"].isin(MEASURED) & ~cells.index.isin(known.index)).sum())
    letters = step_parts.letters(records(known))
    return [
        "numbers: batch sizes",
        f"letters: the largest predicted part of a step, which need not be what the line shows: {letters}" if letters else "",
        "bytes: weights and cache that a step moves, without activations",
        f"{format.count(above, 'cell')} above the limits, which are those of main memory and of large matmuls" if above else "",
        f"left out: {format.count(missing, 'cell')} without a known cost or limit" if missing else "",
    ]

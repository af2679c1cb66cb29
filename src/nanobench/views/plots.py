"""The figures by name: PLOTS holds a function of cells and raw rows for each; the functions stand in figures/."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from nanobench import errors
from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.views.figures import layout, style
from nanobench.views.figures.by_batch import throughput_ttft_memory_vs_batch, utilization_vs_batch
from nanobench.views.figures.layout import Launches
from nanobench.views.figures.speedup import speedup_vs_batch, speedup_vs_length
from nanobench.views.figures.timeline import timeline
from nanobench.views.figures.token_latency import token_latency
from nanobench.views.figures.training import compile_breakeven, scaling_vs_ranks, training_vs_batch
from nanobench.views.figures.waterfall import waterfall

Plot = Callable[[pd.DataFrame, Launches], Figure]
PLOTS: dict[str, Plot] = {
    function.__name__: function
    for function in (
        speedup_vs_batch,
        speedup_vs_length,
        throughput_ttft_memory_vs_batch,
        token_latency,
        utilization_vs_batch,
        timeline,
        waterfall,
        training_vs_batch,
        compile_breakeven,
        scaling_vs_ranks,
    )
}


def draw_all(cells: pd.DataFrame, launches: Launches, folder: Path) -> list[Path]:
    """Every figure that the data allows, as PNG and SVG in `folder`."""
    paths = []
    for name in PLOTS:
        try:
            paths += draw(name, cells, launches, folder)
        except UserError:
            continue
    return paths


def draw(name: str, cells: pd.DataFrame, launches: Launches, folder: Path) -> list[Path]:
    """One figure as PNG and SVG in `folder`. Raises UserError where the name is unknown or the data does not allow it."""
    return layout.save(figure(name, cells, launches), folder, name)


def figure(name: str, cells: pd.DataFrame, launches: Launches) -> Figure:
    """One figure. Raises UserError where the name is unknown or the data does not allow it."""
    if name not in PLOTS:
        raise errors.unknown("plot", name, PLOTS)
    if not cells["status"].isin(MEASURED).any():
        raise UserError(f"{name} needs a measured cell and this run has none; nanobench report says why")
    with mpl.rc_context(style.STYLE):
        return PLOTS[name](cells.reset_index(drop=True), launches)

"""Throughput and memory over the batch sizes that a search tried, with its knee, its recommendation and what failed."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanobench.views import format
from nanobench.views.figures import layout, panel
from nanobench.views.figures.layout import AXIS
from nanobench.views.figures.style import COLOURS, LineStyle

PLACES = {
    "knee_batch_size": ("knee", "--"),
    "batch_size": ("recommended", "-"),
    "failed_batch_size": ("runs out of memory", ":"),
}
"""What a vertical line marks, and how it is drawn."""


def throughput_memory_vs_batch(found: Mapping[str, Any], title: str) -> Figure:
    """Tokens per second and peak memory of every batch size that fits; `found` is autobatch's answer."""
    curve = found["curve"]
    batches = [each["batch_size"] for each in curve]
    unit, name = (1024**3, "GiB") if max(each["peak_bytes"] for each in curve) >= 1024**3 else (1024**2, "MiB")
    drawing, grid = layout.make(2, 1, [2.1, 1.7], sharex=True)
    line_style = LineStyle(COLOURS[1], "o", "-")
    amounts = (
        ("tokens/s", [each["tok_s"] for each in curve]),
        (f"peak memory ({name})", [e["peak_bytes"] / unit for e in curve]),
    )
    for axes, (label, values) in zip(grid.flat, amounts, strict=True):
        panel.curve(axes, line_style, batches, values)
        bounds = [found["memory_limit_bytes"] / unit] if "memory" in label and found["memory_limit_bytes"] else []
        panel.scale(axes, values, format.tick, bounds)
        axes.set_ylabel(label)
        for limit in bounds:
            panel.limit(axes, limit, "limit")
    drawing.align_ylabels(grid[:, 0])
    places = {key: found[key] for key in PLACES if found[key] is not None}
    panel.steps(grid[1, 0], [*batches, *places.values()], 1)
    grid[1, 0].set_xlabel(AXIS["batch_size"])
    for axes in grid.flat:
        mark(axes, places)
    handles = [LineStyle("0.3", "", PLACES[key][1]).handle(f"{PLACES[key][0]}: {value}") for key, value in places.items()]
    bold = {"size": 11, "weight": "bold"}
    drawing.legend(
        handles=handles, loc="outside upper left", ncols=3, title=f"Batch sizes of {title}", alignment="left",
        title_fontproperties=bold,
    )  # fmt: skip
    share = f"{found['margin']:.0%}"
    tried = "a process per batch size, two full steps or calls, then some that are timed for half a second"
    foot = f"{tried}; recommended: at most {share} of the largest"
    drawing.supxlabel(foot, x=0.012, ha="left", fontsize=7.5, color="0.35")
    return drawing


def mark(axes: Axes, places: dict[str, int]) -> None:
    """A vertical line at each place."""
    for key, value in places.items():
        axes.axvline(value, color="0.3", linewidth=1.0, linestyle=PLACES[key][1], zorder=1)

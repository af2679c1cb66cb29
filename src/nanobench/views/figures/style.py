"""The style of all figures: fonts, colours, and one line style per arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "svg.hashsalt": "nanobench",
}
# Okabe and Ito's colours, without the yellow that white paper swallows; the reference comes first and is grey.
COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^DvPX<>"
"""Two more than colours: the first 63 arms differ in colour or marker."""
Colour = str | tuple[float, ...]
LINES: tuple[Any, ...] = ("-", "-", (0, (9, 1.5)), "-.", ":", (0, (5, 1.2, 1, 1.2, 1, 1.2)))
"""Lines of arms, the reference first. Most runs compare two arms, and a dashed line would look like a prediction there: their
markers and shades differ. Plain dashes are those of predictions."""
PREDICTED: Any = {"linestyle": (0, (3, 2)), "linewidth": 1.1, "marker": ""}


@dataclass(frozen=True)
class LineStyle:
    """How one line is drawn."""

    colour: Any
    marker: str
    line: Any

    def handle(self, label: str, timestamped: bool = True) -> Line2D:
        """The line's entry in a legend."""
        return Line2D([], [], color=self.colour, marker=self.marker if timestamped else "", linestyle=self.line, label=label)


def arm_styles(cells: pd.DataFrame) -> dict[str, LineStyle]:
    """One line style per arm, in the order of the arms: the same in every figure of a run."""
    arms = cells.sort_values("arm_index", kind="stable")["arm"].drop_duplicates()
    several = len(LINES) - 1
    return {
        arm: LineStyle(COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)], LINES[n and 1 + (n - 1) % several])
        for n, arm in enumerate(arms)
    }


def batch_styles(batches: Sequence[int]) -> dict[int, LineStyle]:
    """One line style per batch size: the colour deepens as the batch grows."""
    shades = mpl.colormaps["viridis_r"](np.linspace(0.15, 1.0, len(batches)))
    return {batch: LineStyle(tuple(shades[n]), MARKERS[n % len(MARKERS)], "-") for n, batch in enumerate(batches)}


def shades(colour: Any, launches: Sequence[int]) -> dict[int, Any]:
    """A colour per launch, from pale to full."""
    full = np.array(mpl.colors.to_rgb(colour))
    strengths = np.linspace(0.4, 1.0, len(launches)) if len(launches) > 1 else [1.0]
    return {launch: tuple(1 - strength * (1 - full)) for launch, strength in zip(launches, strengths, strict=True)}

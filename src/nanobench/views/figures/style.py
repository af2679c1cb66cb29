"""The style of all figures: fonts, colours, and one line style per arm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from nanobench.views.html.colours import contrast

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
SEEN = 3.0
"""Contrast with the ground that graphics need (WCAG 2.2, 1.4.11)."""
FAINT = "0.58"
"""The palest grey with this contrast, on white and, after its change, on a dark ground."""
GROUND: Any = {"facecolor": "0.92", "edgecolor": FAINT, "linewidth": 0.6, "linestyle": ":"}
"""A grey ground between two limits, with edges that are seen."""
LEAST_RANGE, DARKER = 0.1, 0.65
"""Launches differ by this much in some part of their colours, at least; else the last has the colour times DARKER."""


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
    """A colour per launch, from pale to full; the palest is still seen. A colour that is pale itself ends darker."""
    full = np.array(mpl.colors.to_rgb(colour))
    palest = next((mixed for mixed in tints(full) if contrast(mpl.colors.to_hex(mixed), "#ffffff") >= SEEN), full)
    deepest = full if np.abs(full - palest).max() > LEAST_RANGE else DARKER * full
    shares = np.linspace(0.0, 1.0, len(launches)) if len(launches) > 1 else [1.0]
    return {launch: tuple(palest + share * (deepest - palest)) for launch, share in zip(launches, shares, strict=True)}


def tints(full: Any) -> Iterator[Any]:
    """A colour mixed with white, from pale to full."""
    yield from (1 - strength * (1 - full) for strength in np.linspace(0.4, 1.0, 31))

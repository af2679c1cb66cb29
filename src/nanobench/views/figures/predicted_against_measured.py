"""Whether predictions are right: each cell's measured step over its predicted one."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.cell_table import namer
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import HOLLOW, UNJUDGED, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle

BAND = 1.2
"""The factor that a prediction may be wrong by, without a name for the cell."""
WORST = 5
"""Cells outside the band that are named."""
LABEL = 0.055
"""Share of the height of the panel that a label takes."""


@plot
def predicted_against_measured(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Measured against predicted time of a step, a point per cell; within the band predictions are right to a factor of 1.2."""
    known = predicted(cells)
    if known.empty:
        whys = "; ".join(cells["prediction_note"].dropna().unique()[:2]) or "it has no calibration"
        raise UserError(f"predicted_against_measured needs predictions and this run has none: {whys}; see nanobench explain")
    drawing, grid = layout.make(1, 1, [4.2])
    axes = grid[0, 0]
    ends = ground(axes, known)
    line_styles = style.arm_styles(cells)
    for arm, rows in known.groupby("arm", sort=False):
        points(axes, line_styles[str(arm)], rows)
    label_worst(axes, known, cells, ends)
    unit = "ms per token" if known["seq_len"].eq(0).all() else "ms per step"
    axes.set(xlim=ends, ylim=ends, xlabel=f"predicted ({unit})", ylabel=f"measured ({unit})")
    handles: list[Any] = [marker_of(line_styles[arm], arm) for arm in known["arm"].drop_duplicates()]
    handles += [
        Line2D([], [], color="0.3", **style.PREDICTED, label="as predicted"),
        Patch(**style.GROUND, label=f"within {BAND}x"),
    ]
    return layout.finish_figure(drawing, "Predicted against measured time of a step", handles, cells, *notes(cells, known))


def predicted(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with a measured and a predicted time, in `step_ms` and `by_ms`: of a decode step, of the call for a single
    token, or of an optimizer step.
    """
    single, trains = cells["new_tokens"].eq(1), cells["seq_len"].gt(0)
    step_s = cells["tpot_s"].where(~single, cells["e2e_s"]).where(~trains, cells["step_s"]).astype(float)
    by_s = cells["predicted_tpot_s"].where(~single, cells["predicted_e2e_s"])
    by_s = by_s.where(~trains, cells["predicted_step_s"]).astype(float)
    found = cells.assign(step_ms=1e3 * step_s, by_ms=1e3 * by_s, times=step_s / by_s)
    return found[found["step_ms"].gt(0) & found["by_ms"].gt(0)]


def ground(axes: Axes, known: pd.DataFrame) -> tuple[float, float]:
    """The line on which a prediction is right, with its band; returns the ends of both axes."""
    every = panel.finite([*known["step_ms"], *known["by_ms"]])
    ends = float(every.min() / 1.5), float(every.max() * 1.5)
    span = np.array(ends)
    for axis in (axes.xaxis, axes.yaxis):
        panel.plain_log(axes, axis)
    axes.fill_between(span, span / BAND, span * BAND, zorder=0.5, **style.GROUND)
    axes.plot(span, span, color="0.3", zorder=1.2, **style.PREDICTED)
    return ends


def points(axes: Axes, line_style: LineStyle, rows: pd.DataFrame) -> None:
    """The cells of one arm, with the uncertainty of their predictions as bars."""
    x, y, hollow = rows["by_ms"].to_numpy(float), rows["step_ms"].to_numpy(float), layout.unjudged(rows)
    factor = 1 + rows["prediction_uncertainty"].fillna(0.0).to_numpy(float)
    axes.errorbar(x, y, xerr=[x - x / factor, x * factor - x], fmt="none", ecolor=line_style.colour, elinewidth=0.8, alpha=0.6)
    look: Any = {"color": line_style.colour, "marker": line_style.marker, "linestyle": "", "zorder": 2.5}
    axes.plot(x[~hollow], y[~hollow], markeredgecolor="white", markeredgewidth=0.6, **look)
    if hollow.any():
        axes.plot(x[hollow], y[hollow], label=UNJUDGED, **look, **HOLLOW)


def label_worst(axes: Axes, known: pd.DataFrame, cells: pd.DataFrame, ends: tuple[float, float]) -> None:
    """The names of the cells that are farthest outside the band, right of the panel, from bottom to top."""
    name_of = namer(records(cells))
    off = np.abs(np.log(known["times"]))
    worst = known.loc[off[off > np.log(BAND)].nlargest(WORST).index].sort_values("step_ms")
    low, high = np.log(ends)
    place = -LABEL
    for number, (_, row) in enumerate(worst.iterrows()):
        place = max(place + LABEL, float((np.log(row["step_ms"]) - low) / (high - low)))
        place = min(place, 1 - LABEL * (len(worst) - 1 - number))
        text = f"{name_of(row.to_dict())}: {format.times(float(row['times']))}"
        line: Any = {"arrowstyle": "-", "color": style.FAINT, "linewidth": 0.6, "linestyle": ":", "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            text, (row["by_ms"], row["step_ms"]), (1.02, place), textcoords="axes fraction", fontsize=7.5, color="0.25",
            va="center", annotation_clip=False, arrowprops=line,
        )  # fmt: skip


def marker_of(line_style: LineStyle, arm: str) -> Line2D:
    """The legend's entry of an arm whose points no line joins."""
    return Line2D([], [], color=line_style.colour, marker=line_style.marker, linestyle="", label=arm)


def notes(cells: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """How to read the figure, and which measured cells are not in it."""
    missing = cells[cells["status"].isin(MEASURED) & ~cells.index.isin(known.index)]
    why = "; ".join(missing["prediction_note"].dropna().unique()[:2])
    outside = int((np.abs(np.log(known["times"])) > np.log(BAND)).sum())
    more = f", the worst {WORST} named" if outside > WORST else ""
    return [
        "above the dashed line: slower than predicted",
        "bars: as far as the limits of the calibration leave the prediction open",
        f"{outside} of {format.count(len(known), 'cell')} outside the band{more}",
        f"no prediction for {format.count(len(missing), 'cell')}: {why}" if len(missing) else "",
        layout.unmeasured_words(cells),
    ]

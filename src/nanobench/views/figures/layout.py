"""What all figures share: a colour, marker and line per arm, panels per setting, title, legend and footer."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanobench.analysis.verdict import LOSSY, SYNTHETIC, THROUGHPUTS, mark_of, stated, why_unreliable
from nanobench.records import JUDGED, MEASURED, LaunchRecord
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.cell_table import varying
from nanobench.views.figures import tooltips
from nanobench.views.figures.style import STYLE

Launches = list[LaunchRecord]
"""What raw files hold of a run."""
WORDS = {
    "prompt_len": "prompt {}",
    "new_tokens": "{} new tokens",
    "threads": "{} threads",
    "batch_size": "batch {}",
    "seq_len": "sequence {}",
    "data": "data {}",
    "grad_accum": "{} accumulated",
    "world_size": "{} ranks",
    "shared_prompt": "shared prompt {}",
}
AXIS = {"batch_size": "batch size (rows)", "prompt_len": "prompt length (tokens)", "new_tokens": "new tokens (per row)"}
CROSS = "×"
"""Stands for a cell that was not measured."""
HOLLOW: Any = {"markerfacecolor": "white", "markeredgewidth": 1.3}
UNJUDGED = "_unjudged"
"""Label of the hollow markers: these cells are shown, but excluded from conclusions."""
MOST_PANELS = 6
MOST_ARMS = 12
"""A figure of a run with more arms shows the fastest of them."""
MOST_COLUMNS = 4
WIDTH_IN = 8.0
FOOTER_WORDS = 130
LEGEND_ROW_IN = 0.19
LEGEND_WORDS = 106
"""Letters that fit into a row of the legend."""
HANDLE_WORDS = 10
"""Letters that would fit where an entry of the legend has its line and its distance to the next."""


def reference(cells: pd.DataFrame) -> str:
    """The name of the arm that ratios refer to."""
    names = cells.loc[cells["arm_index"] == 0, "arm"]
    return str(names.iloc[0]) if len(names) else "the reference"


def panels(cells: pd.DataFrame, apart: Iterable[str] = ()) -> list[tuple[str, pd.DataFrame]]:
    """The settings, each with what distinguishes it and its cells; fields in `apart` do not split them."""
    names = [name for name in varying(records(cells)) if name not in apart]
    if not names:
        return [("", cells)]
    groups = cells.groupby(names, sort=False)
    return [(", ".join(word(n, [v]) for n, v in zip(names, values, strict=True)), rows) for values, rows in groups]


def word(name: str, values: Iterable[Any]) -> str:
    """Values of a field as titles and footers write them, never broken over two lines."""
    known = list(values)
    text = WORDS.get(name, "{}").format(", ".join(map(str, known)))
    return (text.removesuffix("s") if known == [1] else text).replace(" ", "\N{NO-BREAK SPACE}")


def at_ends(cells: pd.DataFrame, known: Collection[Any], most: int) -> tuple[list[tuple[str, pd.DataFrame]], list[Any]]:
    """Panels at the smallest and the largest batch size of each setting: those to show, and those that there are.

    `known` holds the indices of the cells that have something to show. Where both ends are too many, it's the largest alone.
    """
    pairs = [common_batches(title, here, known) for title, here in panels(cells)]
    if sum(map(len, pairs)) > most:
        pairs = [pair[-1:] for pair in pairs]
    found = [panel for pair in pairs for panel in pair]
    return found[:most], found


def common_batches(title: str, cells: pd.DataFrame, known: Collection[Any]) -> list[tuple[str, pd.DataFrame]]:
    """The cells at the smallest and the largest batch size of those at which the most arms are known."""
    arms_at = {batch: rows.index.isin(list(known)).sum() for batch, rows in cells.groupby("batch_size")}
    common = [batch for batch, arms in arms_at.items() if arms and arms == max(arms_at.values())]
    ends = sorted({common[0], common[-1]}) if common else []
    words = [(", ".join(filter(None, (title, f"batch {batch}"))), batch) for batch in ends]
    return [(name, cells[cells["batch_size"].eq(batch)].sort_values("arm_index")) for name, batch in words]


def unjudged(cells: pd.DataFrame, status: str = "status") -> Any:
    """Of each cell whether it is shown, but excluded from conclusions; `status` is the column that decides."""
    return (cells[status].isin(MEASURED) & ~cells[status].isin(JUDGED)).to_numpy()


def unjudged_words(cells: pd.DataFrame) -> str:
    """The cells that are excluded from conclusions, with their statuses; empty where there are none."""
    found = cells[unjudged(cells)].groupby(["status", "arm"], sort=False)["batch_size"].unique()
    words = [f"{arm} at batch {', '.join(map(str, sorted(batches)))} ({status})" for (status, arm), batches in found.items()]
    return f"excluded from conclusions: {'; '.join(words)}" if words else ""


def unmeasured_words(cells: pd.DataFrame) -> str:
    """The arms that have cells without a measurement, with the statuses; empty where there are none."""
    failed = cells[~cells["status"].isin(MEASURED)].groupby("arm", sort=False)["status"].unique()
    words = [f"{arm} {', '.join(statuses)}" for arm, statuses in failed.items()]
    return f"not measured elsewhere: {'; '.join(words)}" if words else ""


def why_without_gaps(cell: pd.Series) -> str:
    """Why a cell has no time per token."""
    return "no time per token" if cell["status"] in MEASURED else str(cell["status"])


def make(panels: int, columns: int, rows_in: Sequence[float], **shared: Any) -> tuple[Figure, Any]:
    """A figure with a grid of panels, row by row; surplus panels are removed."""
    figure = Figure(figsize=(WIDTH_IN, 1.3 + sum(rows_in)), layout="constrained")
    grid = figure.subplots(len(rows_in), columns, squeeze=False, height_ratios=rows_in, **shared)
    for axes in grid.flat[panels:]:
        axes.remove()
    for axes in grid.flat[max(0, panels - columns) : panels]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return figure, grid


def finish_figure(
    figure: Figure, title: str, handles: list[Line2D], cells: pd.DataFrame, *notes: str, status: str = "status"
) -> Figure:
    """Title and legend above the panels, what was run and how to read it below; `status` decides what is hollow."""
    handles = [labelled(handle, cells) for handle in handles]
    if any(line.get_label() == UNJUDGED for axes in figure.axes for line in axes.lines):
        handles = [*handles, unjudged_handle(cells, status)]
        why = why_unjudged(cells, status)
        notes = (*notes, f"hollow because of: {why}" if why else "")
    if any(text.get_text() == CROSS for axes in figure.axes for text in axes.texts):
        notes = (*notes, f"{CROSS} not measured, with its status")
    return finish(figure, title, handles, [run_words(cells), "; ".join(filter(None, notes))])


def labelled(handle: Line2D, cells: pd.DataFrame) -> Line2D:
    """An entry of the legend; that of an arm whose output is not the model's says so."""
    other = cells[cells["gate"].isin((LOSSY, SYNTHETIC))] if "gate" in cells else cells[:0]
    marks = {row["arm"]: mark_of(row) for _, row in other.iterrows()}
    if mark := marks.get(handle.get_label()):
        handle.set_label(f"{handle.get_label()} ({mark})")
    return handle


def finish(figure: Figure, title: str, handles: Sequence[Any], lines: Iterable[str]) -> Figure:
    """Title and legend above the panels, and lines of text below."""
    # As the legend's title: constrained layout would lay a suptitle over a legend that stands outside the panels.
    words = [HANDLE_WORDS + len(str(handle.get_label())) for handle in handles]
    columns = len(words) if sum(words) <= LEGEND_WORDS else max(1, LEGEND_WORDS // max(words))
    width_in, height_in = figure.get_size_inches()
    figure.set_size_inches(width_in, height_in + LEGEND_ROW_IN * ((len(words) - 1) // columns))
    bold = {"size": 11, "weight": "bold"}
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, title=title, alignment="left", title_fontproperties=bold
    )
    return foot(figure, lines)


def foot(figure: Figure, lines: Iterable[str]) -> Figure:
    """Lines of text below the panels, after those that are there."""
    below = [figure.get_supxlabel(), *(fill(line, FOOTER_WORDS) for line in lines)]
    figure.supxlabel("\n".join(filter(None, below)), x=0.012, ha="left", fontsize=7.5, color="0.35", linespacing=1.4)
    return figure


def unjudged_handle(cells: pd.DataFrame, *columns: str) -> Line2D:
    """The legend's entry for hollow markers, by the columns of statuses that decide."""
    found = dict.fromkeys(status for name in columns for status in cells.loc[unjudged(cells, name), name])
    statuses = " or ".join(found)
    return Line2D(
        [], [], color="0.3", marker="o", linestyle="", **HOLLOW, label=f"hollow: {statuses}, excluded from conclusions"
    )


def why_unjudged(cells: pd.DataFrame, status: str) -> str:
    """What made cells or ratios unreliable, by the column of statuses that decides; empty where that is not known."""
    return why_unreliable(cells[unjudged(cells, status)], status)


def run_words(cells: pd.DataFrame) -> str:
    """Model, dtype, device, lengths and launches of all cells shown."""
    launches = cells.loc[cells["status"].isin(MEASURED), "launches_ok"]
    few, many = (launches.min(), launches.max()) if len(launches) else (0, 0)
    count = format.count(many, "launch") if few == many else f"{few} to {many} launches"
    return "  |  ".join([*(word(name, cells[name].drop_duplicates()) for name in stated(cells)), count])


def most_arms(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The cells of as many arms as a figure can distinguish, the reference and the fastest; and how many there are beside."""
    reference, *others = cells.sort_values("arm_index", kind="stable")["arm"].drop_duplicates()
    if len(others) < MOST_ARMS:
        return cells, ""
    best = cells[list(THROUGHPUTS)].astype(float).max(axis=1).groupby(cells["arm"]).max().fillna(0.0)
    kept = {reference, *sorted(others, key=lambda arm: -best[arm])[: MOST_ARMS - 1]}
    hidden = len(others) + 1 - len(kept)
    note = f"{hidden} of {len(others) + 1} arms are not in this figure: the slowest, and those without a number"
    return cells[cells["arm"].isin(kept)], note


def left_out(what: str, shown: list[Any], of: list[Any]) -> str:
    """How much is shown where not all fits; empty where all is shown."""
    return "" if len(shown) == len(of) else f"{len(shown)} of {len(of)} {what} shown"


def evenly(values: list[int], most: int) -> list[int]:
    """At most so many of the values, first and last among them."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[n] for n in chosen]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes PNG and SVG. In the SVG each point has a tooltip."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], dpi=150, metadata={"Date": None})
        tooltips.add(figure, paths[1])
    return paths

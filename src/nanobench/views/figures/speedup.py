"""Speedups over the reference arm, by batch size and by length."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nanobench.analysis.verdict import marked
from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.results.store import records
from nanobench.views import format
from nanobench.views.figures import layout, panel, style
from nanobench.views.figures.layout import AXIS, MOST_PANELS, Launches
from nanobench.views.figures.plot import plot
from nanobench.views.figures.style import LineStyle

MOST_LINES = 5


@plot
def speedup_vs_batch(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Speedup of each arm over the first, by batch size, with intervals."""
    refuse_without_ratio("speedup_vs_batch", cells)
    line_styles, panels = style.arm_styles(cells), layout.panels(cells)
    shown = panels[:MOST_PANELS]
    columns = len(shown) if len(shown) < 4 else -(-len(shown) // 2)
    drawing = ratio_panels(cells, shown, columns, "batch_size", "arm", line_styles)
    handles = [
        line_style.handle(arm if n else f"{arm} (reference)", timestamped=n > 0)
        for n, (arm, line_style) in enumerate(line_styles.items())
    ]
    title = f"Speedup over {layout.reference(cells)}, by batch size"
    notes = (interval_note(cells), layout.left_out("settings", shown, panels))
    return layout.finish_figure(drawing, title, handles, cells, *notes, status="speedup_status")


@plot
def speedup_vs_length(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Speedup of each arm over the first, by prompt length or new tokens, a line per batch size."""
    counts = cells[["prompt_len", "new_tokens"]].nunique()
    if counts.max() < 2:
        raise UserError("speedup_vs_length needs several lengths; measure with --prompt-len or --new-tokens as a list: 64,256")
    refuse_without_ratio("speedup_vs_length", cells)
    length = str(counts.idxmax())
    batches = sorted(cells["batch_size"].unique().tolist())
    kept = layout.evenly(batches, MOST_LINES)
    arms = [arm for arm in style.arm_styles(cells) if arm != layout.reference(cells)]
    panels = [
        (
            ", ".join(filter(None, (marked(arm, records(cells[cells["arm"].eq(arm)])), title))),
            explained(here[here["batch_size"].isin(kept)], arm, ["batch_size", length]),
        )
        for title, here in layout.panels(cells, apart=[length])
        for arm in arms
    ]
    shown = panels[: max(1, MOST_PANELS // len(arms)) * len(arms)][: 2 * MOST_PANELS]
    columns = min(len(shown), 3) if len(arms) in (1, 3) or len(arms) > 4 else 2
    line_styles = style.batch_styles(kept)
    drawing = ratio_panels(cells, shown, columns, length, "batch_size", line_styles)
    title = f"Speedup over {layout.reference(cells)}, by {AXIS[length].partition(' (')[0]}"
    handles = [line_style.handle(f"batch {batch}") for batch, line_style in line_styles.items()]
    notes = (interval_note(cells), layout.left_out("panels", shown, panels), layout.left_out("batch sizes", kept, batches))
    return layout.finish_figure(drawing, title, handles, cells, *notes, status="speedup_status")


def ratio_panels(
    cells: pd.DataFrame,
    shown: list[tuple[str, pd.DataFrame]],
    columns: int,
    x: str,
    line: str,
    line_styles: dict[Any, LineStyle],
) -> Figure:
    """Panels of speedups over a length or batch size, with shared axes: a curve for each value of the column `line`."""
    crosses, row_in = panel.failing(shown, line), 3.4 if len(shown) == 1 else 2.4
    rows_in = [row_in + panel.room_in(crosses)] * -(-len(shown) // columns)
    drawing, grid = layout.make(len(shown), columns, rows_in, sharex=True, sharey=True)
    for axes, (title, here) in zip(grid.flat, shown, strict=False):
        panel.entitle(axes, title, columns)
        axes.axhline(1.0, color=style.COLOURS[0], linewidth=1.2, zorder=1.5)
        lines = [(line_styles[value], rows.sort_values(x)) for value, rows in here.groupby(line, sort=False)]
        arms = [(line_style, rows) for line_style, rows in lines if rows["speedup"].notna().any()]
        for number, (line_style, rows) in enumerate(arms):
            place = panel.dodge(rows[x], number, len(arms), cells[x])
            bounds = rows["speedup_lo"], rows["speedup_hi"]
            panel.curve(axes, line_style, place, rows["speedup"], *bounds, hollow=layout.unjudged(rows, "speedup_status"))
        panel.failures(axes, [(line_style, rows[x], rows["status"]) for line_style, rows in lines])
        panel.steps(axes, cells[x], columns)
        panel.scale(axes, [*cells["speedup"], 1.0], format.ratio_tick, [*cells["speedup_lo"], *cells["speedup_hi"]], ratio=True)
    panel.make_room(grid.flat[0], crosses, row_in)
    panel.outer_labels(grid, len(shown), AXIS[x], "speedup (x)")
    return drawing


def refuse_without_ratio(name: str, cells: pd.DataFrame) -> None:
    """Raises UserError where no cell has a speedup."""
    if cells["speedup"].notna().any():
        return
    if cells["arm"].nunique() < 2:
        raise UserError(f"{name} needs two arms or more and this run has only {cells['arm'].iloc[0]}; give --engine a list")
    raise UserError(
        f"{name} needs a ratio, and no arm was measured beside {layout.reference(cells)}; nanobench report says why"
    )


def explained(cells: pd.DataFrame, arm: str, place: list[str]) -> pd.DataFrame:
    """The cells of one arm; where the reference failed and so left no ratio, the status says that."""
    reference = cells[cells["arm_index"].eq(0)].set_index(place)["status"]
    mine = cells[cells["arm"].eq(arm)].set_index(place)
    missing = mine["status"].isin(MEASURED) & mine["speedup"].isna()
    causes = ("reference " + reference).reindex(mine.index).fillna("no pair")
    return mine.assign(status=mine["status"].where(~missing, causes)).reset_index()


def interval_note(cells: pd.DataFrame, shape: str = "band") -> str:
    """What the bands are, or the bars."""
    bases = cells["speedup_basis"].dropna().unique()
    if cells["speedup_lo"].isna().all():
        return "no intervals: one pair per cell"
    wider = ", wider where the arms may have been slowed differently" if cells["speedup_widening"].gt(0).any() else ""
    return f"{shape}: 95 % t interval over {' or '.join(bases)}{wider}"

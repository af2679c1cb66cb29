"""The figures: PLOTS holds one function per figure. Where the data does not allow a figure it raises UserError and says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanobench import lookup
from nanobench.analysis import latency
from nanobench.errors import UserError
from nanobench.schema import MEASURED
from nanobench.views import panel, sheet
from nanobench.views.sheet import Look

Rows = list[dict[str, Any]]
Plot = Callable[[pd.DataFrame, Rows], Figure]
PLOTS: dict[str, Plot] = {}
AXIS = {"batch_size": "batch size (rows)", "prompt_len": "prompt length (tokens)", "new_tokens": "new tokens (per row)"}
MOST_PANELS = 6
MOST_COLUMNS = 4
MOST_LINES = 5


def plot(function: Plot) -> Plot:
    """Makes a function a figure that can be named."""
    PLOTS[function.__name__] = function
    return function


def draw_all(cells: pd.DataFrame, raw_rows: Rows, folder: Path) -> list[Path]:
    """Every figure that the data allows, as PNG and SVG in `folder`."""
    paths = []
    for name in PLOTS:
        try:
            paths += draw(name, cells, raw_rows, folder)
        except UserError:
            continue
    return paths


def draw(name: str, cells: pd.DataFrame, raw_rows: Rows, folder: Path) -> list[Path]:
    """One figure as PNG and SVG in `folder`. Raises UserError where the name is unknown or the data does not allow it."""
    return sheet.save(figure(name, cells, raw_rows), folder, name)


def figure(name: str, cells: pd.DataFrame, raw_rows: Rows) -> Figure:
    """One figure. Raises UserError where the name is unknown or the data does not allow it."""
    if name not in PLOTS:
        raise lookup.unknown("plot", name, PLOTS)
    if not cells["status"].isin(MEASURED).any():
        raise UserError(f"{name} needs a measured cell and this run has none; nanobench report says why")
    with mpl.rc_context(sheet.STYLE):
        return PLOTS[name](cells.reset_index(drop=True), raw_rows)


@plot
def speedup_vs_batch(cells: pd.DataFrame, raw_rows: Rows) -> Figure:
    """Speedup of each arm over the first, by batch size, with intervals."""
    refuse_without_ratio("speedup_vs_batch", cells)
    looks, panels = sheet.arm_looks(cells), sheet.panels(cells)
    shown = panels[:MOST_PANELS]
    columns = len(shown) if len(shown) < 4 else -(-len(shown) // 2)
    drawing = ratio_panels(cells, shown, columns, "batch_size", "arm", looks)
    handles = [look.handle(arm if n else f"{arm} (reference)", marked=n > 0) for n, (arm, look) in enumerate(looks.items())]
    title = f"Speedup over {sheet.reference(cells)}, by batch size"
    return sheet.frame(drawing, title, handles, cells, interval_note(cells), sheet.left_out("settings", shown, panels))


@plot
def speedup_vs_length(cells: pd.DataFrame, raw_rows: Rows) -> Figure:
    """Speedup of each arm over the first, by prompt length or new tokens, a line per batch size."""
    counts = cells[["prompt_len", "new_tokens"]].nunique()
    if counts.max() < 2:
        raise UserError("speedup_vs_length needs several lengths; measure with --prompt-len or --new-tokens as a list: 64,256")
    refuse_without_ratio("speedup_vs_length", cells)
    length = str(counts.idxmax())
    batches = sorted(cells["batch_size"].unique().tolist())
    kept = sheet.evenly(batches, MOST_LINES)
    arms = [arm for arm in sheet.arm_looks(cells) if arm != sheet.reference(cells)]
    panels = [
        (", ".join(filter(None, (arm, title))), explained(here[here["batch_size"].isin(kept)], arm, ["batch_size", length]))
        for title, here in sheet.panels(cells, apart=[length])
        for arm in arms
    ]
    shown = panels[: max(1, MOST_PANELS // len(arms)) * len(arms)][: 2 * MOST_PANELS]
    columns = min(len(shown), 3) if len(arms) in (1, 3) or len(arms) > 4 else 2
    looks = sheet.batch_looks(kept)
    drawing = ratio_panels(cells, shown, columns, length, "batch_size", looks)
    title = f"Speedup over {sheet.reference(cells)}, by {AXIS[length].partition(' (')[0]}"
    handles = [look.handle(f"batch {batch}") for batch, look in looks.items()]
    notes = (interval_note(cells), sheet.left_out("panels", shown, panels), sheet.left_out("batch sizes", kept, batches))
    return sheet.frame(drawing, title, handles, cells, *notes)


def ratio_panels(
    cells: pd.DataFrame, shown: list[tuple[str, pd.DataFrame]], columns: int, x: str, line: str, looks: dict[Any, Look]
) -> Figure:
    """Panels of speedups over a length or batch size, with shared axes: a curve for each value of the column `line`."""
    crosses, row_in = panel.failing(shown, line), 3.4 if len(shown) == 1 else 2.4
    rows_in = [row_in + panel.room_in(crosses)] * -(-len(shown) // columns)
    drawing, grid = sheet.make(len(shown), columns, rows_in, sharex=True, sharey=True)
    for axes, (title, here) in zip(grid.flat, shown, strict=False):
        panel.entitle(axes, title, columns)
        axes.axhline(1.0, color=sheet.COLOURS[0], linewidth=1.2, zorder=1.5)
        lines = [(looks[value], rows.sort_values(x)) for value, rows in here.groupby(line, sort=False)]
        arms = [(look, rows) for look, rows in lines if rows["speedup"].notna().any()]
        for number, (look, rows) in enumerate(arms):
            place = panel.beside(rows[x], number, len(arms), cells[x])
            panel.curve(axes, look, place, rows["speedup"], rows["speedup_lo"], rows["speedup_hi"])
        panel.failures(axes, [(look, rows[x], rows["status"]) for look, rows in lines])
        panel.steps(axes, cells[x], columns)
        panel.scale(axes, [*cells["speedup"], 1.0], panel.times, [*cells["speedup_lo"], *cells["speedup_hi"]], ratio=True)
    panel.make_room(grid.flat[0], crosses, row_in)
    panel.outer_labels(grid, len(shown), AXIS[x], "speedup (x)")
    return drawing


def refuse_without_ratio(name: str, cells: pd.DataFrame) -> None:
    """Raises UserError where no cell has a speedup."""
    if cells["speedup"].notna().any():
        return
    if cells["arm"].nunique() < 2:
        raise UserError(f"{name} needs two arms or more and this run has only {cells['arm'].iloc[0]}; give --engine a list")
    raise UserError(f"{name} needs a ratio, and no arm was measured beside {sheet.reference(cells)}; nanobench report says why")


def explained(cells: pd.DataFrame, arm: str, place: list[str]) -> pd.DataFrame:
    """The cells of one arm; where the reference failed and so left no ratio, the status says that."""
    reference = cells[cells["arm_index"].eq(0)].set_index(place)["status"]
    mine = cells[cells["arm"].eq(arm)].set_index(place)
    missing = mine["status"].isin(MEASURED) & mine["speedup"].isna()
    causes = ("reference " + reference).reindex(mine.index).fillna("no pair")
    return mine.assign(status=mine["status"].where(~missing, causes)).reset_index()


@plot
def throughput_ttft_memory_vs_batch(cells: pd.DataFrame, raw_rows: Rows) -> Figure:
    """Output tokens per second, time to first token and peak memory of each arm, by batch size."""
    looks, panels = sheet.arm_looks(cells), sheet.panels(cells)
    shown = panels[:MOST_COLUMNS]
    crosses, row_in = panel.failing(shown, "arm"), 1.9
    rows_in = [row_in + panel.room_in(crosses), row_in, row_in]
    drawing, grid = sheet.make(3 * len(shown), len(shown), rows_in, sharex=True, sharey="row")
    bytes_name, bytes_per = ("GiB", 1024**3) if cells["peak_memory_bytes"].max() >= 1024**3 else ("MiB", 1024**2)
    quantities = (
        ("output_tok_s", "output (tok/s)", 1.0),
        ("ttft_s", "TTFT (ms)", 1e-3),
        ("peak_memory_bytes", f"peak memory ({bytes_name})", bytes_per),
    )
    for column, (title, here) in zip(grid.T, shown, strict=True):
        lines = [(looks[str(arm)], rows.sort_values("batch_size")) for arm, rows in here.groupby("arm", sort=False)]
        panel.entitle(column[0], title, len(shown))
        panel.failures(column[0], [(look, rows["batch_size"], rows["status"]) for look, rows in lines])
        for axes, (name, _, unit) in zip(column, quantities, strict=True):
            for number, (look, rows) in enumerate(lines):
                place = panel.beside(rows["batch_size"], number, len(lines), cells["batch_size"])
                panel.curve(axes, look, place, rows[name] / unit)
            panel.steps(axes, cells["batch_size"], len(shown))
            panel.scale(axes, cells[name] / unit, panel.plain)
        column[-1].set_xlabel(AXIS["batch_size"])
    for axes, (_, label, _) in zip(grid[:, 0], quantities, strict=True):
        axes.set_ylabel(label)
    panel.make_room(grid[0, 0], crosses, row_in)
    handles = [look.handle(arm) for arm, look in looks.items()]
    title = "Throughput, time to first token and peak memory, by batch size"
    return sheet.frame(drawing, title, handles, cells, sheet.left_out("settings", shown, panels))


@plot
def token_latency(cells: pd.DataFrame, raw_rows: Rows) -> Figure:
    """Time of each new token, by its position, at the smallest and the largest batch size that the arms have in common."""
    bands_s = latency.quartiles_s(cells, raw_rows)
    if not bands_s:
        raise UserError("token_latency needs repetitions with a time per token and 2 new tokens or more; give --new-tokens 16")
    looks = sheet.arm_looks(cells)
    panels = [pair for title, here in sheet.panels(cells) for pair in common_batches(title, here, bands_s)]
    if len(panels) > MOST_PANELS:
        panels = [pair for title, here in sheet.panels(cells) for pair in common_batches(title, here, bands_s)[-1:]]
    shown = panels[:MOST_PANELS]
    columns, row_in = min(2, len(shown)), 3.4 if len(shown) == 1 else 2.4
    drawing, grid = sheet.make(len(shown), columns, [row_in] * -(-len(shown) // columns), sharex=True)
    bands_ms = {index: 1e3 * bands for index, bands in bands_s.items()}
    log = any(panel.is_wide([gap for i in here.index for gap in bands_ms.get(i, np.empty(0)).flat]) for _, here in shown)
    for axes, (title, here) in zip(grid.flat, shown, strict=False):
        panel.entitle(axes, title, columns)
        gap_panel(axes, here, looks, bands_ms, row_in, log)
    panel.outer_labels(grid, len(shown), "position of the new token", "gap to the token before (ms)")
    elsewhere = cells.drop([index for _, here in shown for index in here.index])
    handles = [look.handle(arm) for arm, look in looks.items()]
    notes = (
        "line: median over calls; band: middle half of the calls",
        sheet.left_out("panels", shown, panels),
        unmeasured(elsewhere),
    )
    return sheet.frame(drawing, "Time per token, by its position in the output", handles, cells, *notes)


def common_batches(title: str, cells: pd.DataFrame, traced: dict[Any, Any]) -> list[tuple[str, pd.DataFrame]]:
    """The cells at the smallest and the largest batch size of those at which the most arms have a trace."""
    arms_at = {batch: rows.index.isin(list(traced)).sum() for batch, rows in cells.groupby("batch_size")}
    common = [batch for batch, arms in arms_at.items() if arms and arms == max(arms_at.values())]
    ends = sorted({common[0], common[-1]}) if common else []
    words = [(", ".join(filter(None, (title, f"batch {batch}"))), batch) for batch in ends]
    return [(name, cells[cells["batch_size"].eq(batch)].sort_values("arm_index")) for name, batch in words]


def gap_panel(
    axes: Axes, cells: pd.DataFrame, looks: dict[str, Look], bands_ms: dict[Any, Any], row_in: float, log: bool
) -> None:
    """The quartiles of one panel's cells by position; arms without a trace are named at its foot."""
    middles, ends, absent = [], [], []
    for index, cell in cells.iterrows():
        look = looks[cell["arm"]]
        if index in bands_ms:
            low, middle, high = bands_ms[index]
            panel.curve(axes, look, np.arange(2, len(middle) + 2), middle, low, high)
            middles.extend(middle)
            ends.extend([*low, *high])
        else:
            absent.append((look, [cell["new_tokens"] / 2 + 1], [f"{cell['arm']}: {cell['status']}"]))
    panel.scale(axes, middles, panel.plain, ends, log=log)
    panel.failures(axes, absent)
    panel.make_room(axes, len(absent), row_in)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def unmeasured(cells: pd.DataFrame) -> str:
    """The arms that have cells without a measurement, with the statuses; empty where there are none."""
    failed = cells[~cells["status"].isin(MEASURED)].groupby("arm", sort=False)["status"].unique()
    words = [f"{arm} {', '.join(statuses)}" for arm, statuses in failed.items()]
    return f"not measured elsewhere: {'; '.join(words)}" if words else ""


def interval_note(cells: pd.DataFrame) -> str:
    """What the bands are."""
    bases = cells["speedup_basis"].dropna().unique()
    if cells["speedup_lo"].isna().all():
        return "no intervals: one pair per cell"
    return f"band: 95 % t interval over {' or '.join(bases)}"

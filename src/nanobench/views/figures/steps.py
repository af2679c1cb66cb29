"""Training: what it reaches and holds over batch sizes, and after how many steps compiling has paid."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nanobench.errors import UserError
from nanobench.knee import NEAR_BEST, knee
from nanobench.views import panel, sheet
from nanobench.views.figures.over_batch import Quantity, stack
from nanobench.views.sheet import MOST_COLUMNS


def training_vs_batch(cells: pd.DataFrame, raw_rows: list[dict[str, Any]]) -> Figure:
    """Tokens per second, those that carry loss among them, and peak memory of training steps, by batch size."""
    trained = trains(cells, "training_vs_batch")
    bytes_name, bytes_per = ("GiB", 1024**3) if trained["peak_memory_bytes"].max() >= 1024**3 else ("MiB", 1024**2)
    quantities = [Quantity("train_tok_s", "training (tok/s)")]
    if trained["padding_fraction"].max() > 0:
        quantities.append(Quantity("useful_tok_s", "with loss (tok/s)"))
    quantities.append(Quantity("peak_memory_bytes", f"peak memory ({bytes_name})", bytes_per))
    title = "Training: throughput and peak memory, by batch size"
    return stack(trained, quantities, 1.9, title, knees(trained))


def trains(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """The cells that train. Raises UserError where none does."""
    found = cells[cells["seq_len"].gt(0)]
    if found["train_tok_s"].notna().any():
        return found
    raise UserError(f"{name} needs cells that train and this run has none; measure some with nanobench train-throughput")


def knees(cells: pd.DataFrame) -> str:
    """From which batch size on an arm gains little, in words; empty where fewer than three were measured."""
    words = []
    for title, here in sheet.panels(cells):
        for arm, rows in here.dropna(subset=["train_tok_s"]).groupby("arm", sort=False):
            if len(rows) > 2:
                found = knee(dict(zip(rows["batch_size"], rows["train_tok_s"], strict=True)))
                words.append(f"{arm} at {found}" + (f" ({title})" if title else ""))
    return f"knee, the smallest batch within {NEAR_BEST:.0%} of the best: {', '.join(words)}" if words else ""


def compile_breakeven(cells: pd.DataFrame, raw_rows: list[dict[str, Any]]) -> Figure:
    """Seconds of training, compiling included, over steps: where the lines cross, compiling has paid."""
    trained = trains(cells, "compile_breakeven")
    paid = trained[trained["breakeven_steps"].notna()]
    if paid.empty:
        raise UserError("compile_breakeven needs an arm that compiling made faster and this run has none")
    looks = sheet.arm_looks(trained)
    places = [(title, here) for title, here in panels_of(trained) if here["breakeven_steps"].notna().any()]
    shown = places[-MOST_COLUMNS:]
    drawing, grid = sheet.make(len(shown), len(shown), [2.8])
    for axes, (title, here) in zip(grid[0], shown, strict=True):
        last = 2.5 * here["breakeven_steps"].max()
        steps = np.linspace(0, last, 50)
        for row in here.dropna(subset=["step_s"]).to_dict("records"):
            start_s = 0.0 if pd.isna(row["compile_s"]) else row["compile_s"]
            panel.curve(axes, looks[row["arm"]], steps, start_s + steps * row["step_s"])
            if not pd.isna(row["breakeven_steps"]):
                axes.axvline(row["breakeven_steps"], color=looks[row["arm"]].colour, linewidth=0.9, linestyle=":")
                axes.annotate(
                    f"{row['breakeven_steps']:,.0f}", (row["breakeven_steps"], 0.02), xycoords=axes.get_xaxis_transform(),
                    textcoords="offset points", xytext=(3, 0), fontsize=7, color="0.35",
                )  # fmt: skip
        panel.entitle(axes, title, len(shown))
        axes.set_xlim(0, last)
        axes.set_ylim(0, None)
    panel.outer_labels(grid, len(shown), "steps", "time with compiling (s)")
    handles = [look.handle(arm, marked=False) for arm, look in looks.items()]
    title = "When compiling has paid: seconds of training over steps"
    note = "dotted: steps to break even, from the cold compile time and the mean step"
    return sheet.frame(drawing, title, handles, trained, note, sheet.left_out("points", shown, places))


def panels_of(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A panel per setting and batch size."""
    return [
        (", ".join(filter(None, (title, f"batch {batch}"))), rows)
        for title, here in sheet.panels(cells)
        for batch, rows in here.groupby("batch_size")
    ]

"""Does `nanobench tune` find what the full grid finds, and how much sooner? Both over the same settings of two models.

    python tests/bench/tune_against_grid.py DIR

Prints a table in Markdown. DIR keeps the runs; one that is there is not measured again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from nanobench.records import MEASURED
from nanobench.results import finder, store
from nanobench.views import format

MODELS = ("gpt2-nano", "gpt2-mini")
SHARED = ["--batch", "1,8,32", "--engine", "cached,cached-cat,uncached", "--compile-mode", "off,default", "--threads", "1,2"]
PLANNED = ["--calibration", "off", "--no-plot", "--max-minutes", "planned"]
"""Of the sweep: five launches, and no further ones for disturbed or imprecise points."""


def nanobench(*words: str) -> str:
    """The output of a command."""
    command = [sys.executable, "-m", "nanobench", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout


def name(row: "pd.Series | dict") -> str:
    """A setting in words."""
    compiled = "" if row["compile_mode"] == "off" else f" {row['compile_mode']}"
    return f"{row['engine']}{compiled}, batch {row['batch_size']}, {row['threads']} threads"


def main() -> None:
    """Measures both, and prints the table."""
    top = Path(sys.argv[1]).resolve()
    top.mkdir(parents=True, exist_ok=True)
    print("| model | | minutes | fastest | tok/s | next |\n|---|---|--:|---|---|---|")
    for model in MODELS:
        tuned, grid = top / f"{model}-tune", top / f"{model}-grid"
        answer = top / f"{model}.json"
        if not answer.exists():
            answer.write_text(nanobench("tune", "--model", model, *SHARED, "--out", str(tuned), "--json").splitlines()[-1])
        if not (grid / "cells.parquet").exists() or store.Run(grid).info().finished_at is None:
            nanobench("kv-sweep", "--model", model, *SHARED, *PLANNED, "--out", str(grid))
        found = json.loads(answer.read_text())
        winner, ratio = found["winner"], format.times(found["ratio"], found["low"], found["high"])
        behind, minutes = f"{ratio} as fast as {name(found['runner_up'])}", found["wall_s"] / 60
        print(f"| {model} | tune | {minutes:.1f} | {name(winner)} | {winner['output_tok_s']:.0f} | {behind} |")
        cells = finder.load(grid)
        cells = cells[cells["status"].isin(MEASURED)].sort_values("output_tok_s", ascending=False)
        best, second = cells.iloc[0], cells.iloc[1]
        interval = f"{best.output_tok_s:.0f} [{best.output_tok_s_lo:.0f}, {best.output_tok_s_hi:.0f}]"
        behind = f"{name(second)}: {second.output_tok_s:.0f} [{second.output_tok_s_lo:.0f}, {second.output_tok_s_hi:.0f}]"
        info = store.Run(grid).info()
        minutes = (info.planned_s or info.wall_s) / 60
        print(f"| {model} | full grid | {minutes:.1f} | {name(best)} | {interval} | {behind} |")


if __name__ == "__main__":
    main()

"""int8 and int4 weights compared with packed float32 and bfloat16 over batch sizes, with their divergence from the float model.

python tests/bench/quantised_weights.py DIR [MODEL [BATCHES [LAUNCHES [OPTION ...]]]]    an hour for gpt2 at batch 1 to 64

Each dtype is a point of its own, so a ratio across dtypes is one of two cells of the same launch number, and not of pairs.
Ratios to float weights in the same dtype come from pairs.
"""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd

import nanobench
from nanobench.results import derive
from nanobench.results.cell import Cell
from nanobench.results.metrics.formulas import rate
from nanobench.results.store import Run
from nanobench.stats import intervals

DEFAULTS = ("gpt2", "1-64*2", "5")
"""Model, batch sizes and launches."""
WEIGHTS = ("float", "int8", "int4")
DTYPES = ("float32", "bfloat16")


def measure(folder: Path, model: str, batches: str, launches: str, more: list[str]) -> None:
    """The sweep, with more options of kv-sweep; one that is in the folder already is continued."""
    asked = ["--resume", str(folder)] if (folder / "run.json").exists() else ["--out", str(folder)]
    sweep = ["--model", model, "--batch", batches, "--launches", launches, "--engine", "cached", "--max-minutes", "planned"]
    kinds = ["--dtype", ",".join(DTYPES), "--weights", ",".join(WEIGHTS), "--no-plot"]
    subprocess.run([sys.executable, "-m", "nanobench", "kv-sweep", *sweep, *kinds, *asked, *more], check=True)


def log_rates(cell: Cell) -> dict[int, float]:
    """Launch -> log of its tokens per second."""
    return {launch: math.log(rate("tokens")(found)) for launch, found in cell.untimestamped_by_launch.items()}


def ratio(cell: Cell, base: Cell | None) -> str:
    """The throughput of a cell over that of another, launch by launch."""
    if base is None:
        return "–"
    mine, theirs = log_rates(cell), log_rates(base)
    logs = [[mine[launch] - theirs[launch]] for launch in mine if launch in theirs]
    if not logs:
        return "–"
    found = intervals.ratio(logs)
    bounds = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}x{bounds}"


def paired(row: pd.Series) -> str:
    """The ratio to float weights in the same dtype, from pairs."""
    if pd.isna(row["speedup"]):
        return "–"
    bounds = "" if pd.isna(row["speedup_lo"]) else f" [{row['speedup_lo']:.2f}, {row['speedup_hi']:.2f}]"
    return f"{row['speedup']:.2f}x{bounds}"


def main() -> None:
    """Measures and prints a row per batch size, dtype and kind of weights."""
    folder = Path(sys.argv[1])
    given = sys.argv[2:5]
    model, batches, launches = [*given, *DEFAULTS[len(given) :]]
    measure(folder, model, batches, launches, sys.argv[5:])
    run = Run(folder)
    made = derive.cells_of(run.read_raw(), run.info().machine)
    cells = {(each.point.batch_size, each.point.dtype, each.arm.weights): each for each in made}
    rows = nanobench.load(folder).sort_values(["batch_size", "dtype", "arm_index"], ascending=[True, False, True])
    print("| batch | dtype | weights | tok/s | over float | over packed float32 | over bfloat16 | KL, nats | status |")
    print("|--:|---|---|--:|--:|--:|--:|--:|---|")
    for _, row in rows.iterrows():
        batch, dtype, weights = row["batch_size"], row["dtype"], row["weights"]
        cell = cells[batch, dtype, weights]
        over = [ratio(cell, cells.get((batch, other, "float"))) for other in DTYPES]
        kl = "–" if pd.isna(row["kl_nats"]) else f"{row['kl_nats']:.2g}"
        rate_text = "–" if pd.isna(row["output_tok_s"]) else f"{row['output_tok_s']:,.0f}"
        print(f"| {batch} | {dtype} | {weights} | {rate_text} | {paired(row)} | {' | '.join(over)} | {kl} | {row['status']} |")
    print()
    subprocess.run([sys.executable, "-m", "nanobench", "explain", str(folder)], check=True)


if __name__ == "__main__":
    main()

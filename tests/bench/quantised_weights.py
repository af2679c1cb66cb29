"""int8 and int4 weights compared with float weights in bfloat16 and in float32 over batch sizes, and their divergence.

python tests/bench/quantised_weights.py DIR [MODEL [BATCHES [LAUNCHES [OPTION ...]]]]    half an hour for gpt2 at batch 1 to 64

Two sweeps: float weights in both dtypes, and all kinds of weights in bfloat16. torch's kernels for quantised weights are made
for bfloat16 on a CPU; in float32 they take 8 to 50 times as long as float weights, so they are not measured.
Ratios to bfloat16 come from pairs. Those to float32 are their products with the ratio of the two dtypes in the same launch
number: a dtype is a point of its own, and has no pairs with another one.
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
from nanobench.views import format

DEFAULTS = ("gpt2", "1,4,16,64", "5")
"""Model, batch sizes and launches."""
SHORT = ["--engine", "cached", "--prompt-len", "8"]
"""With short prompts nearly all of the time is decoding."""
SWEEPS = {
    "dtypes": [*SHORT, "--dtype", "float32,bfloat16"],
    "weights": [*SHORT, "--dtype", "bfloat16", "--weights", "float,int8,int4"],
}


def measure(folder: Path, kinds: list[str], model: str, batches: str, launches: str, more: list[str]) -> None:
    """A sweep, with more options of kv-sweep; one that is in the folder already is continued."""
    started = (folder / "run.json").exists()
    sweep = ["--model", model, "--batch", batches, "--launches", launches, "--max-minutes", "planned", "--out", str(folder)]
    asked = ["--resume", str(folder)] if started else [*sweep, *kinds, *more]
    subprocess.run([sys.executable, "-m", "nanobench", "kv-sweep", *asked, "--no-plot"], check=True)


def cells_of(folder: Path) -> dict[tuple[int, str, str], Cell]:
    """(batch, dtype, weights) -> its cell."""
    run = Run(folder)
    made = derive.cells_of(run.read_raw(), run.info().machine)
    return {(each.point.batch_size, each.point.dtype, each.arm.weights): each for each in made}


def log_ratios(cell: Cell, base: Cell) -> dict[int, float]:
    """Launch -> log of the tokens per second of a cell over those of another."""
    mine, theirs = (
        {launch: math.log(rate("tokens")(found)) for launch, found in each.untimestamped_by_launch.items()}
        for each in (cell, base)
    )
    return {launch: mine[launch] - theirs[launch] for launch in mine if launch in theirs}


def product(first: dict[int, float], second: dict[int, float]) -> str:
    """The product of two ratios, with its interval over launches."""
    logs = [[first[launch] + second[launch]] for launch in first if launch in second]
    if not logs:
        return format.MISSING
    found = intervals.ratio(logs)
    return format.times(found.value, found.low, found.high)


def line(row: pd.Series, dtypes: dict[tuple[int, str, str], Cell], weights: dict[tuple[int, str, str], Cell]) -> str:
    """A row of the table."""
    batch, kind = row["batch_size"], row["weights"]
    of_dtype = log_ratios(dtypes[batch, "bfloat16", "float"], dtypes[batch, "float32", "float"])
    of_weights = log_ratios(weights[batch, "bfloat16", kind], weights[batch, "bfloat16", "float"])
    paired = format.MISSING if kind == "float" else format.times(row["speedup"], row["speedup_lo"], row["speedup_hi"])
    kl = format.MISSING if pd.isna(row["kl_nats"]) else f"{row['kl_nats']:.2g}, {row['top1_agreement']:.0%}"
    cost = f"{row['output_tok_s']:,.0f} | {paired} | {product(of_weights, of_dtype)}"
    return f"| {batch} | {kind} | {cost} | {kl} | {row['status']} |"


def main() -> None:
    """Measures, prints a row per batch size and kind of weights, and what `explain` says."""
    top = Path(sys.argv[1])
    given = sys.argv[2:5]
    asked = [*given, *DEFAULTS[len(given) :]]
    for name, kinds in SWEEPS.items():
        measure(top / name, kinds, *asked, sys.argv[5:])
    dtypes, weights = cells_of(top / "dtypes"), cells_of(top / "weights")
    rows = nanobench.load(top / "weights").sort_values(["batch_size", "arm_index"])
    print(
        "| batch | weights, bfloat16 | tok/s | over bfloat16 [95 %] | over packed float32 [95 %] | KL in nats, top-1 | status |"
    )
    print("|--:|---|--:|--:|--:|--:|---|")
    for _, row in rows.iterrows():
        print(line(row, dtypes, weights))
    print()
    subprocess.run([sys.executable, "-m", "nanobench", "explain", str(top / "weights")], check=True)


if __name__ == "__main__":
    main()

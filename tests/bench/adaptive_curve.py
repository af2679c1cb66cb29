"""How many of 24 batch sizes an adaptive sweep measures, and how far the curve that it interpolates is from the truth.

    python tests/bench/adaptive_curve.py [RUNS] [FOLDER]       about two minutes for 50 simulated curves per family

Prints tables in Markdown. Nothing is measured: tests/curve_families.py makes the curves and their noise. With FOLDER, two more:
the curves of each recorded run below it, swept again from half of their batch sizes; and curves of several models that are
predicted from the measured limits of that run's machine.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

import curve_families as families
from nanobench.results.cell import Cell, make_cells
from nanobench.results.store import Run
from nanobench.roofline.prediction import Operations, predict
from nanobench.stats import curve
from nanobench.stats.curve import Known

FIRST_SEED = 10_000
"""Other curves than those that the constants were chosen with."""
TOLERANCE = 0.015
MODELS = {
    name: {"n_layer": layers, "n_head": heads, "n_kv_head": heads, "n_embd": width, "vocab_size": vocabulary}
    for name, layers, heads, width, vocabulary in (
        ("2 x 64", 2, 2, 64, 256),
        ("4 x 256", 4, 4, 256, 4096),
        ("6 x 384", 6, 6, 384, 256),
        ("4 x 512", 4, 8, 512, 8192),
        ("24 x 256", 24, 4, 256, 4096),
    )
}
CANDIDATES = {"1, 5, 9, ..., 93": families.EVERY_FOURTH, "1, 2, 3, ..., 24": families.EVERY}


def row(name: str, noise: float, candidates: tuple[int, ...], most: int | None, runs: int) -> str:
    """One line of a table."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + runs):
        random = np.random.default_rng(seed)
        truth = families.FAMILIES[name](random)
        found.append(families.swept(truth, noise, random, candidates, TOLERANCE, most))
    measured = np.array([len(each.measured) for each in found])
    deviation = np.array([each.deviation for each in found])
    covered = np.mean([each.covered for each in found])
    reach, full = (np.median([getattr(each, key) for each in found]) for key in ("reach", "full"))
    middle, high = np.percentile(deviation, (50, 95))
    counts = f"{measured.mean():.1f} ({measured.max()})"
    within = np.mean(deviation <= math.log(1.03))
    return f"| {name} | {counts} | {middle:.1%} | {high:.1%} | {within:.0%} | {covered:.0%} | {reach:.1%} | {full:.1%} |"


def recorded(folder: Path) -> None:
    """Sweeps recorded curves again: what would have been measured, and how far the rest is from what was."""
    print("\n| recorded curve | batch sizes | measured | largest deviation | within its interval |\n|---|--:|--:|--:|--:|")
    for path in sorted(folder.rglob("cells.parquet")):
        cells = pd.read_parquet(path)
        for (model, arm), rows in cells[cells["speedup"].notna()].groupby(["model", "arm"]):
            columns = (rows[name] for name in ("batch_size", "speedup", "speedup_lo", "speedup_hi"))
            every = {size: Known.of(*values) for size, *values in zip(*columns, strict=True)}
            if len(every) > curve.LEAST:
                half = len(every) - len(every) // 2
                print(again(f"{path.parent.name}: {model}, {arm}", every, half))


def again(name: str, every: dict[int, Known], most: int | None) -> str:
    """One line of a table: a curve whose values are known at all candidates, swept again."""
    known: dict[int, Known] = {}
    while (size := curve.next_size([known], list(every), TOLERANCE, most)) is not None:
        known[size] = every[size]
    made = curve.interpolate(known, [size for size in every if size not in known])
    deviation = max(abs(math.log(each.value) - every[size].log) for size, each in made.items())
    inside = sum(each.low <= math.exp(every[size].log) <= each.high for size, each in made.items())
    return f"| {name} | {len(every)} | {len(known)} | {deviation:.1%} | {inside} of {len(made)} |"


def predicted(folder: Path) -> None:
    """Curves that are predicted from measured limits, which differ with the number of rows: less smooth than formulas."""
    print("\n| predicted curve | batch sizes | measured | largest deviation | within its interval |\n|---|--:|--:|--:|--:|")
    for path in sorted(folder.rglob("raw")):
        run = Run(path.parent)
        cells = make_cells(run.read_raw(), run.info().machine)
        firsts = {index: cell for index in (1, 0) for cell in cells if cell.arm_index == index and cell.prediction}
        if set(firsts) != {0, 1} or cells[0].point.trains:
            continue
        for model, sizes in MODELS.items():
            times = {index: seconds_of(cell, sizes) for index, cell in firsts.items()}
            for candidates in CANDIDATES.values():
                logs = {size: [math.log(times[index](size)) for index in (0, 1)] for size in candidates}
                speedups = {size: Known(slow - fast) for size, (slow, fast) in logs.items()}
                rates = {size: Known(math.log(size) - fast) for size, (_, fast) in logs.items()}
                for most in (None, 6):
                    limit = f"at most {most} measured" if most else "no limit"
                    where = f"{path.parent.name}: {model}, up to {candidates[-1]}, {limit}"
                    print(again(f"{where}, speedup", speedups, most))
                    print(again(f"{where}, tok/s cached", rates, most))


def seconds_of(cell: Cell, sizes: dict[str, int]) -> Callable[[int], float]:
    """Batch size -> predicted seconds of a call of that arm, for a model of other sizes."""
    shape, limits = replace(cell.shape, **sizes), cell.machine.limits_of_run(cell.point)
    layers = shape.n_layer / cell.shape.n_layer
    counts = Operations(cell.first("operations_prefill") * layers, cell.first("operations_per_step") * layers)
    return lambda size: predict(shape, replace(cell.point, batch_size=size), cell.kv_access, limits, counts).call.total_s


def main() -> None:
    """Prints the tables."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for noise in (0.0, 0.005, 0.01, 0.02):
        for words, candidates in CANDIDATES.items():
            for most in (None, 6):
                print(f"\nBatch sizes {words}; noise {noise:.1%}; {f'at most {most} measured' if most else 'no limit'}\n")
                print("| curve | measured of 24 (most) | largest deviation, median | 95 % of runs | runs within 3 % ", end="")
                print("| intervals contain the truth | widest half-width, median | full sweep |")
                print("|---|--:|--:|--:|--:|--:|--:|--:|")
                for name in families.FAMILIES:
                    print(row(name, noise, candidates, most, runs), flush=True)
    if len(sys.argv) > 2:
        recorded(Path(sys.argv[2]))
        predicted(Path(sys.argv[2]))


if __name__ == "__main__":
    main()

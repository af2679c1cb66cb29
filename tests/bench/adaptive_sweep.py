"""Is the curve of an adaptive sweep that of a full one, and at which share of its time? Real sweeps over three models.

    python tests/bench/adaptive_sweep.py DIR         about an hour

For each model a full sweep over 27 batch sizes and an adaptive one over the same candidates. Prints a table in Markdown. DIR
keeps the runs; one that is finished there is not measured again.
"""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd

from nanobench.analysis.interpolated import curve
from nanobench.results import finder, store

MODELS = {
    "gpt2-nano": ["--new-tokens", "32"],
    "gpt2-mini": ["--prompt-len", "16", "--new-tokens", "8"],
    "nanochat-nano": ["--new-tokens", "32"],
}
BATCHES = "1,2,3,4,6,8-92+4"
SHARED = ["--batch", BATCHES, "--max-seconds", "2", "--calibration", "off", "--no-plot"]
SHARED += ["--max-minutes", "planned"]


def measured(folder: Path, options: list[str]) -> store.Run:
    """A finished sweep."""
    run = store.Run(folder)
    if not (folder / "run.json").exists():
        command = [sys.executable, "-m", "nanobench", "kv-sweep", "--out", str(folder), *options]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return run


def main() -> None:
    """Measures and compares."""
    folder = Path(sys.argv[1])
    print(
        "| model | candidates | full, min | adaptive, min | share of time | measured | largest deviation | median | overlap |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for model, options in MODELS.items():
        full = measured(folder / f"{model}-full", [*SHARED, *options, "--model", model])
        few = measured(folder / f"{model}-adaptive", [*SHARED, *options, "--model", model, "--adaptive"])
        whole = finder.load(full.folder).query("arm_index == 1").set_index("batch_size")
        sizes = [point.batch_size for point in few.info().plan.points]
        found = curve(finder.load(few.folder), sizes).query("arm_index == 1").set_index("batch_size")
        both = whole.join(found, rsuffix="_few")
        deviations = (both["speedup_few"].astype(float) / both["speedup"].astype(float)).map(lambda ratio: abs(math.log(ratio)))
        overlap = both["speedup_lo_few"].le(both["speedup_hi"]) & both["speedup_hi_few"].ge(both["speedup_lo"])
        minutes = [run.info().wall_s / 60 for run in (full, few)]
        print(
            f"| {model} | {len(sizes)} | {minutes[0]:.1f} | {minutes[1]:.1f} | {minutes[1] / minutes[0]:.0%} "
            f"| {int(found['measured'].sum())} | {math.expm1(deviations.max()):.1%} | {math.expm1(deviations.median()):.1%} "
            f"| {int(overlap.sum())} of {len(both)} |",
            flush=True,
        )
        print(pd.DataFrame({"full": both["speedup"], "adaptive": both["speedup_few"]}).round(2).to_string(), file=sys.stderr)


if __name__ == "__main__":
    main()

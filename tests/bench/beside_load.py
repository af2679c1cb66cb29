"""Do conclusions hold on a busy machine? Sweeps, A/A contrasts and a known delay: idle and beside other programs.

    python tests/bench/beside_load.py sweep DIR [RUNS]     default sweeps, RUNS (3) idle and beside each load, by turns
    python tests/bench/beside_load.py same DIR             40 A/A contrasts beside each load
    python tests/bench/beside_load.py delay DIR            10 contrasts of an arm that is 5 % slower, on one thread

The loads: a busy loop on one core; and `stress-ng --vm 1 --vm-bytes 1G` (Debian: apt-get install stress-ng). Prints tables in
Markdown. DIR keeps the runs; one that is finished there is not measured again.
"""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from nanobench.records import JUDGED
from nanobench.results import finder, store

LOADS = {"busy loop": [sys.executable, "-c", "while True: pass"], "memory": ["stress-ng", "--vm", "1", "--vm-bytes", "1G"]}
COPY, UNDELAYED, DELAYED = (f"nanobench.worker.selftest_engines:{name}" for name in ("uncached_copy", "undelayed", "delayed_5"))
SMALL = ["--model", "gpt2-nano", "--calibration", "off", "--no-plot", "--max-minutes", "planned"]
SAME = [*SMALL, "--engine", f"uncached,{COPY}", "--batch", "1,2,4,8", "--prompt-len", "4-40+4", "--new-tokens", "2"]
SAME += ["--launches", "3", "--max-seconds", "0.5"]
DELAY = [*SMALL, "--engine", f"{UNDELAYED},{DELAYED}", "--batch", "1,2,4,8,16", "--prompt-len", "8,24", "--new-tokens", "4"]
DELAY += ["--max-seconds", "1.2", "--threads", "1"]


@contextmanager
def beside(name: str) -> Iterator[None]:
    """A load that runs meanwhile; none for `idle`."""
    load = subprocess.Popen(LOADS[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if name in LOADS else None
    try:
        yield
    finally:
        if load:
            load.terminate()
            load.wait()


def measured(folder: Path, load: str, options: list[str]) -> pd.DataFrame:
    """The cells of a sweep beside a load."""
    if not (folder / "run.json").exists() or store.Run(folder).info().finished_at is None:
        own = ["--resume", str(folder)] if (folder / "run.json").exists() else ["--out", str(folder), *options]
        with beside(load):
            subprocess.run([sys.executable, "-m", "nanobench", "kv-sweep", *own], check=True, stdout=sys.stderr)
    return finder.load(folder)


def ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that have a ratio or should have one."""
    return cells[cells["arm_index"].gt(0)]


def sweeps(folder: Path, runs: int) -> None:
    """Default sweeps by turns, and a line per sweep: what is concluded, and whether it agrees with the idle ones."""
    loads = ("idle", *LOADS)
    found = {
        (load, n): measured(folder / f"{load.replace(' ', '-')}-{n}", load, []) for n in range(1, runs + 1) for load in loads
    }
    idle = pd.concat([ratios(found["idle", n]) for n in range(1, runs + 1)])
    truth = idle.groupby("batch_size")["speedup"].agg(lambda values: math.exp(values.astype(float).map(math.log).mean()))
    print("| load | run | minutes | concluded | contains the idle estimate | widest ratio interval | stable absolute figures |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for (load, n), cells in sorted(found.items()):
        info, mine = store.Run(folder / f"{load.replace(' ', '-')}-{n}").info(), ratios(cells)
        expected = mine["batch_size"].map(truth)
        inside = mine.speedup_lo.le(expected) & mine.speedup_hi.ge(expected)
        width = ((mine.speedup_hi - mine.speedup_lo) / 2 / mine.speedup).max()
        concluded = mine["speedup_status"].isin(JUDGED) & (mine.speedup_lo.gt(1) | mine.speedup_hi.lt(1))
        stable = int(cells["status"].isin(JUDGED).sum())
        shares = f"{concluded.sum()} of {len(mine)} | {sum(inside)} of {len(inside)} | {width:.0%} | {stable} of {len(cells)}"
        print(f"| {load} | {n} | {info.wall_s / 60:.1f} | {shares} |")
    print("\n| batch | " + " | ".join(f"{load} {n}" for load, n in sorted(found)) + " |")
    print("|--:|" + "---|" * len(found))
    for size in truth.index:
        rows = [ratios(found[key]).set_index("batch_size").loc[size] for key in sorted(found)]
        print(f"| {size} | " + " | ".join(f"{r.speedup:.3g} [{r.speedup_lo:.3g}, {r.speedup_hi:.3g}]" for r in rows) + " |")


def contrasts(folder: Path, kind: str, options: list[str]) -> None:
    """A line per load: how many contrasts are significant, and in which direction they point."""
    print(
        "| load | contrasts | significant | estimate below 1 | median estimate | median half-width |\n|---|--:|--:|--:|--:|--:|"
    )
    for load in LOADS:
        mine = ratios(measured(folder / f"{kind}-{load.replace(' ', '-')}", load, options)).dropna(subset=["speedup"])
        significant = int((mine.speedup_lo.gt(1) | mine.speedup_hi.lt(1)).sum())
        half = ((mine.speedup_hi - mine.speedup_lo) / 2 / mine.speedup).median()
        below = int(mine.speedup.lt(1).sum())
        print(f"| {load} | {len(mine)} | {significant} | {below} | {mine.speedup.median():.3f} | {half:.1%} |")


def main() -> None:
    """Measures what the arguments ask for, and prints its table."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "sweep":
        sweeps(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    else:
        contrasts(folder, what, {"same": SAME, "delay": DELAY}[what])


if __name__ == "__main__":
    main()

"""How long does it take to load many recorded runs, and how much memory? 1,000 runs of 100 cells, 100,000 in all.

    python tests/bench/many_runs.py DIR [RUNS]

Writes the runs into DIR, where they are missing: one run of 100 cells, whose folder is copied. Take a new DIR after each change
of the code: cells that other code stored are derived again, which takes minutes. Each measurement is a process of
its own. Prints a table in Markdown.
"""

import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from nanobench.records import ArmRecord, LaunchRecord
from nanobench.results import derive, store
from nanobench.results.run_info import finished_event
from nanobench.schema import Trial

POINTS, LAUNCHES = 50, 5
TASKS = {
    "all cells and columns": "nanobench.load({folder!r})",
    "four columns of one batch size": (
        "nanobench.load({folder!r}, columns=['run', 'arm', 'batch_size', 'speedup'], filters=[('batch_size', '==', 8)])"
    ),
}


def make(folder: Path, runs: int) -> None:
    """Writes the runs that are missing."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from test_compare import info
    from test_status import ARM, CPU, OK, REFERENCE, STILL, timed

    first = store.Run(folder / "run-0000")
    if not first.cells.exists():
        shutil.rmtree(first.folder, ignore_errors=True)
        about = info()
        first = store.create(first.folder, replace(about, description=replace(about.description, state={})))
        for size in range(1, POINTS + 1):
            for number in range(1, LAUNCHES + 1):
                point = replace(CPU, batch_size=size)
                trial = Trial(point=point, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
                arms = ((REFERENCE, 1.0), (ARM, 0.5))
                records = [ArmRecord(arm=arm, repetitions=tuple(timed([s] * len(STILL))), outcome=OK) for arm, s in arms]
                first.write_raw(trial, [LaunchRecord.of(trial, 0, record) for record in records])
        first.append(finished_event("2026-01-01T10:10:00+00:00"))
        first.write_cells(derive.derive(first.read_raw(), first.info().machine))
    for number in range(1, runs):
        target = folder / f"run-{number:04d}"
        if not target.exists():
            shutil.copytree(first.folder, target)


def measured(code: str) -> tuple[float, float, int]:
    """Seconds, GiB and rows of one expression in a process of its own; its imports are not counted as time."""
    script = "import resource, time, nanobench, pandas, pyarrow.parquet; from nanobench.results import store\n"
    script += f"start = time.perf_counter()\nfound = {code}\n"
    script += "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(found))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, kib, rows = done.stdout.split()
    return float(seconds), float(kib) / 2**20, int(rows)


def main() -> None:
    """Makes the runs and measures."""
    folder, runs = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, runs)
    print("| task | rows | seconds | peak memory |\n|---|--:|--:|--:|")
    for name, code in TASKS.items():
        seconds, gib, rows = measured(code.format(folder=str(folder)))
        print(f"| {name} | {rows:,} | {seconds:.1f} | {gib:.2f} GiB |", flush=True)
    start = time.perf_counter()
    chosen = [str(folder / f"run-{number:04d}") for number in range(3)]
    subprocess.run(
        [sys.executable, "-m", "nanobench", "report", *chosen], cwd=folder.parent, check=True, stdout=subprocess.DEVNULL
    )
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"| report of three runs | | {time.perf_counter() - start:.1f} | {gib:.2f} GiB |")


if __name__ == "__main__":
    main()

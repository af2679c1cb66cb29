"""How long does the control process take for a plan of 10,000 cells: the plan, each trial, --resume, and the report?

    python tests/bench/large_plan.py DIR [POINTS]

The workers answer from a script at once, so what is timed is the control process alone. A plan has POINTS (5,000) batch sizes
and two arms, and one launch of each point. Prints a line per step, and the time of a trial for each fifth of the sweep.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
import scripted_sweep
from nanobench.schema import Plan
from nanobench.sweep.progress import Progress

PARTS = 5
LENGTHS = 10
"""Prompt lengths of the plan of the dry run: an option takes 1,000 values."""


def timed_sweep(folder: Path, planned: Plan) -> list[float]:
    """Runs what is missing. Returns when each trial ended, in seconds from the start."""
    start, ends = time.monotonic(), list[float]()

    def watch(progress: Progress) -> None:
        if progress.report is None:
            ends.append(time.monotonic() - start)

    scripted_sweep.sweep(folder, planned, watch=watch)
    return ends


def command(*words: str) -> float:
    """Seconds of a command."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "nanobench", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    """Prints a line per step."""
    folder, points = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    folder.mkdir(parents=True)
    planned = scripted_sweep.plan(range(1, points + 1), launches=1)
    axes = ("--batch", f"1-{points // LENGTHS}+1", "--prompt-len", f"1-{LENGTHS}+1", "--launches", "1", "--model", "gpt2-nano")
    dry = command("kv-sweep", *axes, "--yes", "--dry-run")
    print(f"plan of {2 * points:,} cells, --dry-run: {dry:.1f} s", flush=True)
    ends = timed_sweep(folder / "run", planned)
    size = points // PARTS
    for part in range(PARTS):
        begin, end = ends[part * size - 1] if part else 0.0, ends[(part + 1) * size - 1]
        print(f"trials {part * size + 1:,} to {(part + 1) * size:,}: {1e3 * (end - begin) / size:.1f} ms each")
    print(f"sweep of {len(ends):,} trials: {ends[-1]:.0f} s, {1e3 * ends[-1] / len(ends):.1f} ms per trial", flush=True)
    start = time.monotonic()
    timed_sweep(folder / "run", planned)
    print(f"--resume of the finished sweep: {time.monotonic() - start:.1f} s", flush=True)
    print(f"report: {command('report', str(folder / 'run')):.1f} s")
    print(f"memory of this process: {psutil.Process().memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

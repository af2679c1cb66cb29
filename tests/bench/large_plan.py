"""How long does the control process take for a plan of 10,000 cells: the plan, each trial, --resume, and the report?

    python tests/bench/large_plan.py DIR [POINTS]

The workers answer from a script at once, so what is timed is the control process alone. A plan has POINTS (5,000) batch sizes
and two arms, and one launch of each point. Prints a line per step, and the time of a trial for each fifth of the sweep.
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
from kills import TEMPLATE, Script

from nanobench.results import store
from nanobench.schema import Arm, Plan
from nanobench.sweep import session
from nanobench.sweep.runner import Progress, Sweep

ARMS = (Arm(engine="uncached"), Arm(engine="cached"))
PARTS = 5


def plan(points: int) -> Plan:
    """One launch of each batch size."""
    template = TEMPLATE.info().plan
    made = tuple(replace(template.points[0], batch_size=1 + number) for number in range(points))
    same = {"identities": (), "check": False, "calibration": "off", "extra_launches": False, "max_minutes": None}
    return replace(template, points=made, arms=ARMS, launches=1, **same)


def sweep(folder: Path, planned: Plan) -> list[float]:
    """Runs what is missing. Returns when each trial ended, in seconds from the start."""
    start, ends = time.monotonic(), list[float]()
    run, info = store.Run(folder), TEMPLATE.info()
    if not run.info_file.exists():
        run = store.create(folder, replace(info, plan=planned, wall_s=0.0, finished_at=None, planned_s=None, stopped=None))

    def watch(progress: Progress) -> None:
        if progress.report is None:
            ends.append(time.monotonic() - start)

    session.finish(Sweep(run, planned, info.description, lambda launch: Script(), session.keeping_time(run, watch)))
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
    dry = command("kv-sweep", "--batch", f"1-{points}+1", "--launches", "1", "--yes", "--dry-run", "--model", "gpt2-nano")
    print(f"plan of {2 * points:,} cells, --dry-run: {dry:.1f} s", flush=True)
    ends = sweep(folder / "run", plan(points))
    size = points // PARTS
    for part in range(PARTS):
        begin, end = ends[part * size - 1] if part else 0.0, ends[(part + 1) * size - 1]
        print(f"trials {part * size + 1:,} to {(part + 1) * size:,}: {1e3 * (end - begin) / size:.1f} ms each")
    print(f"sweep of {len(ends):,} trials: {ends[-1]:.0f} s, {1e3 * ends[-1] / len(ends):.1f} ms per trial", flush=True)
    start = time.monotonic()
    sweep(folder / "run", plan(points))
    print(f"--resume of the finished sweep: {time.monotonic() - start:.1f} s", flush=True)
    print(f"report: {command('report', str(folder / 'run')):.1f} s")
    print(f"memory of this process: {psutil.Process().memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

"""Does a killed sweep lose or repeat anything? Kills at seeded random moments, each followed by a resume.

    python tests/bench/kills.py DIR scripted [KILLS] [SEED]    sweeps of 30 trials whose workers answer from a script (200)
    python tests/bench/kills.py DIR real [KILLS] [SEED]        a small sweep of the command line, or one of its workers (10)

After the last resume of a sweep, each trial must be there exactly once, no temporary file may be left, and with scripted
workers the table must equal that of a sweep that nobody killed. Prints how many kills each sweep took, and what was wrong.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
import scripted_sweep
from nanobench.results import store
from scripted_sweep import forked

BATCHES, LAUNCHES = (1, 2, 4, 8, 16, 32), 5
MARK = "NANOBENCH_KILLS"
REAL = ["kv-sweep", "--model", "gpt2-nano", "--batch", "1,2,4", "--launches", "4", "--max-seconds", "0.2", "--new-tokens", "4"]
REAL += ["--calibration", "off", "--no-plot", "--max-minutes", "planned"]


def killed(work: Callable[[], None], after_s: float) -> bool:
    """Kills a process after so many seconds; False if it had ended before. Raises AssertionError if it ended badly."""
    pid = forked(work)
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, "a sweep failed"
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def scripted(folder: Path, kills: int, drawn: random.Random) -> None:
    """Sweeps until so many kills have hit."""
    plan = scripted_sweep.plan(BATCHES, LAUNCHES)
    unbroken, hit, number = folder / "unbroken", 0, 0
    start = time.monotonic()
    assert os.waitpid(forked(lambda: scripted_sweep.sweep(unbroken, plan)), 0)[1] == 0
    whole_s = time.monotonic() - start
    while hit < kills:
        number, before = number + 1, hit
        mine = folder / f"sweep-{number}"
        while killed(lambda mine=mine: scripted_sweep.sweep(mine, plan), drawn.uniform(0, whole_s)):
            hit += 1
        checked = forked(lambda mine=mine: scripted_sweep.refuse_damage(mine, plan, unbroken))
        assert os.waitpid(checked, 0)[1] == 0, f"{mine} is damaged"
        print(f"sweep {number}: {hit - before} kills, whole", flush=True)
    print(f"{hit} kills over {number} sweeps of {len(BATCHES) * LAUNCHES} trials: each trial once, no file left, equal tables")


def real(folder: Path, kills: int, drawn: random.Random) -> None:
    """A sweep of the command line, killed as a whole or in one of its workers; then to its end."""
    out, hit, number = folder / "real", 0, 0
    mine = {**os.environ, MARK: str(os.getpid())}
    while True:
        number += 1
        words = ["--resume", str(out)] if (out / "run.json").exists() else ["--out", str(out)]
        line = [sys.executable, "-m", "nanobench", *(REAL if words[0] == "--out" else REAL[:1]), *words]
        with open(folder / f"{number}.log", "w") as log:
            process = subprocess.Popen(line, env=mine, stdout=log, stderr=log)
            if hit >= kills:
                break
            try:
                process.wait(timeout=drawn.uniform(3, 25))
            except subprocess.TimeoutExpired:
                workers = psutil.Process(process.pid).children(recursive=True)
                victim = drawn.choice([process.pid, *(each.pid for each in workers)])
                os.kill(victim, signal.SIGKILL)
                hit += 1
                print(f"kill {hit}: {'the command' if victim == process.pid else 'a worker'}", flush=True)
                if victim != process.pid:
                    process.terminate()
                process.wait(timeout=60)
    code = process.wait()
    time.sleep(1)
    left = [each.pid for each in psutil.process_iter() if mark_of(each) == mine[MARK] and each.pid != os.getpid()]
    launches = store.Run(out).read_raw()
    seen = [(each.point.batch_size, each.launch, each.arm.label) for each in launches]
    parts = [path.name for path in out.rglob("*.part")]
    print(f"{hit} kills, then exit code {code}; {len(seen)} launches of arms, {len(set(seen))} different (24 planned)")
    print(f"statuses {sorted({str(each.outcome.status) for each in launches})}; left: processes {left}, files {parts}")


def mark_of(process: psutil.Process) -> str | None:
    """The mark in a process's environment."""
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


if __name__ == "__main__":
    where, kind = Path(sys.argv[1]).resolve(), sys.argv[2]
    where.mkdir(parents=True)
    number_of_kills = int(sys.argv[3]) if len(sys.argv) > 3 else {"scripted": 200, "real": 10}[kind]
    {"scripted": scripted, "real": real}[kind](where, number_of_kills, random.Random(sys.argv[4] if len(sys.argv) > 4 else "1"))

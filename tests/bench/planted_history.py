"""Do `nanobench bisect` and `nanobench compare` find what is planted in a history? Real processes, small models.

    python tests/bench/planted_history.py bisect DIR     16 commits: one computes something else, a later one is 20 % slower
    python tests/bench/planted_history.py compare DIR    the same code in two runs, and a run whose passes take 5 % longer

Prints what the commands said, and their exit codes. DIR keeps the runs.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from ab_truth import MODEL, OPTIONS, git

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import OTHER

COMMITS, WRONG, SLOW, SHARE = 16, 8, 11, 0.2
"""The wrong commit lies where the search looks first."""
SWEEP = ["--model", "planted:build", "--batch", "8", "--prompt-len", "16", "--new-tokens", "16", "--threads", "1"]
SWEEP += ["--launches", "16", "--target-ci", "0.01", "--calibration", "off", "--no-plot"]


def history(folder: Path) -> Path:
    """A repository with a first commit and 16 after it."""
    top = folder / "history"
    if not (top / ".git").exists():
        top.mkdir(parents=True)
        git(top, "init", "-q")
        for number in range(COMMITS + 1):
            text = MODEL.format(share=SHARE if number >= SLOW else 0.0) + (OTHER if number == WRONG else "")
            (top / "planted.py").write_text(f"{text}# commit {number}\n")
            git(top, "add", ".")
            git(top, "commit", "-qm", f"commit {number}" + " (slow)" * (number == SLOW) + " (wrong)" * (number == WRONG))
    return top


def nanobench(*words: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a folder; `path` comes first where Python searches for modules."""
    search = os.pathsep.join(filter(None, [str(path) if path else "", os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "nanobench", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True)


def bisect(folder: Path) -> None:
    """Searches the planted history."""
    options = [*(word for word in OPTIONS if word != "--json"), "--threshold", "10%"]
    start = time.monotonic()
    done = nanobench("bisect", f"HEAD~{COMMITS}", "HEAD", *options, "--out", str(folder / "bisect"), folder=history(folder))
    print(done.stdout + done.stderr)
    print(f"exit code {done.returncode}, {(time.monotonic() - start) / 60:.1f} min")


def compare(folder: Path) -> None:
    """Two runs of the same code and one of slower code, and what compare says of them."""
    for name, share in (("first", 0.0), ("again", 0.0), ("slower", 0.05)):
        code = folder / f"code-{name}"
        code.mkdir(parents=True, exist_ok=True)
        (code / "planted.py").write_text(MODEL.format(share=share))
        if not (folder / name / "cells.parquet").exists():
            done = nanobench("kv-sweep", *SWEEP, "--out", str(folder / name), folder=folder, path=code)
            print(name, "exit code", done.returncode, done.stderr[-300:], flush=True)
    for name in ("again", "slower"):
        done = nanobench("compare", "first", name, folder=folder)
        print(f"\nnanobench compare first {name}\n{done.stdout}{done.stderr}exit code {done.returncode}")


if __name__ == "__main__":
    kinds = {"bisect": bisect, "compare": compare}
    where = Path(sys.argv[2]).resolve()
    where.mkdir(parents=True, exist_ok=True)
    kinds[sys.argv[1]](where)

"""Runs fuzzed command lines as real processes, and prints each that breaks a promise.

The promises: exit code 0, 1 or 2; no traceback; nothing written that was not requested; output within ten seconds; no process
left. tests/fuzz.py makes the command lines. tests/test_fuzz.py runs them within one process.
"""

import argparse
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzz

SRC = Path(fuzz.__file__).parents[1] / "src"
CODES = (0, 1, 2)
SILENCE_S = 10.0
MOST_S = 120.0
MARK = "NANOBENCH_FUZZ"


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    text: str
    silence_s: float
    """the longest time without output"""
    seconds: float


def run(words: tuple[str, ...], folder: Path, mark: str) -> Ended:
    """Runs a command line in a folder; kills it after MOST_S."""
    own = {"HOME": folder, "TMPDIR": folder / "tmp", "NANOBENCH_CACHE": folder / "cache", "NANOBENCH_LOCKS": folder / "locks"}
    # What matplotlib keeps about fonts is not nanobench's.
    own["MPLCONFIGDIR"] = Path(tempfile.gettempdir()) / "fuzz-matplotlib"
    paths = f"{SRC}{os.pathsep}{Path(fuzz.__file__).parent}"
    environment = {**os.environ, **{name: str(path) for name, path in own.items()}, "PYTHONPATH": paths, MARK: mark}
    command = [sys.executable, "-m", "nanobench", *map(os.fsencode, words)]
    start = last = time.monotonic()
    screen, terminal = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    text, silence = b"", 0.0
    while (chunk := shown(screen)) != b"":
        silence = max(silence, time.monotonic() - last)
        if chunk:
            text, last = text + chunk, time.monotonic()
        if time.monotonic() - start > MOST_S:
            process.kill()
    os.close(screen)
    return Ended(process.wait(), text.decode(errors="replace"), silence, time.monotonic() - start)


def shown(screen: int) -> bytes | None:
    """What appears on a terminal within a second; None if nothing does, and b"" after its last process has ended."""
    if not select.select([screen], [], [], 1.0)[0]:
        return None
    try:
        return os.read(screen, 65536)
    except OSError:
        return b""


def left(mark: str) -> list[str]:
    """The command lines of the processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def complaints(case: fuzz.Case, ended: Ended, elsewhere: set[str], running: list[str]) -> Iterator[str]:
    """What is wrong with how a process ended."""
    if ended.code not in CODES:
        yield f"ended with {ended.code}"
    if "Traceback" in ended.text:
        yield f"printed a traceback: {ended.text[-2000:]}"
    if ended.silence_s > SILENCE_S:
        yield f"printed nothing for {ended.silence_s:.1f} s"
    if elsewhere:
        yield f"wrote {sorted(elsewhere)}"
    if running:
        yield f"left {running}"


def check(seed: int, number: int) -> tuple[int, fuzz.Case, Ended, list[str]]:
    """One case, and its complaints."""
    case, mark = fuzz.case(seed, number, processes=True), uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch) / "here"
        fuzz.prepare(folder)
        (folder / "tmp").mkdir()
        (folder / fuzz.CONFIG).write_bytes(case.config)
        before = fuzz.tree(Path(scratch))
        ended = run(case.words, folder, mark)
        allowed = {"here"} if "." in case.writes else {f"here/{part}" for part in (*case.writes, "cache", "locks")}
        new = fuzz.tree(Path(scratch)) - before
        elsewhere = {path for path in new if not any(path == each or path.startswith(f"{each}/") for each in allowed)}
    return number, case, ended, list(complaints(case, ended, elsewhere, left(mark)))


def main() -> None:
    """Prints the complaints and the number of each exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    codes, longest, silence, broken = Counter[int](), 0.0, 0.0, 0
    numbers = range(arguments.first, arguments.first + arguments.count)
    with ThreadPoolExecutor(arguments.at_once) as pool:
        for number, case, ended, wrong in pool.map(lambda number: check(arguments.seed, number), numbers):
            codes[ended.code] += 1
            longest, silence, broken = max(longest, ended.seconds), max(silence, ended.silence_s), broken + bool(wrong)
            for each in wrong:
                print(f"case {number}, {case.words!a}: {each}", flush=True)
    print(f"{arguments.count} command lines, {broken} with a complaint; exit codes {dict(sorted(codes.items()))}")
    print(f"longest {longest:.1f} s, longest without output {silence:.1f} s")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()

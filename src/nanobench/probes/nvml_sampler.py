"""Samples taken ten times a second by a process of its own, and the parent's end of that process.

The samples are lines of JSON in a file: what was written stays readable however either process ends.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVERY_S = 0.1
PATIENCE_S = 5.0
"""How long the process may take to end: a driver that hangs must not hold up a sweep."""


def take_samples(read: Callable[[], dict[str, Any]], out: Path, every_s: float) -> None:
    """Appends what `read` gives, with the Unix time, to `out` every `every_s` seconds until standard input closes."""
    start, tick = time.monotonic(), 0
    while not closed(sys.stdin.fileno(), start + tick * every_s - time.monotonic()):
        append(out, {"started_at": time.time(), **read()})
        tick = next_tick(tick, time.monotonic() - start, every_s)


def append(out: Path, line: dict[str, Any]) -> None:
    """Adds a line to a file in one piece."""
    with out.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def next_tick(tick: int, elapsed_s: float, every_s: float) -> int:
    """The number of the next sample: ticks that went by during a slow one are left out, so that the schedule never drifts."""
    return max(tick + 1, int(elapsed_s / every_s) + 1)


def closed(descriptor: int, timeout_s: float) -> bool:
    """Whether the other end of a pipe is gone; waits up to `timeout_s` seconds for that."""
    ready, _, _ = select.select([descriptor], [], [], max(0.0, timeout_s))
    return bool(ready) and not os.read(descriptor, 4096)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of samples; one that was cut off is left out. No file, no lines."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class SamplingProcess:
    """`python -m nanobench.probes.nvml` at work. It raises nothing: `trouble` says why samples are missing."""

    def __init__(self, device: str, out: Path, every_s: float = EVERY_S) -> None:
        """Starts it. A session of its own keeps Ctrl-C from it, the pipe ends it whenever this process does."""
        self.out = out
        self.trouble: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        try:
            out.unlink(missing_ok=True)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nanobench.probes.nvml", device, str(out), "--every", str(every_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self.trouble = f"the sampling process did not start: {error.strerror}"

    def look(self) -> None:
        """Puts it into `trouble` if the process has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            self.trouble = self.trouble or describe_exit(self.process.returncode)

    def close(self) -> list[dict[str, Any]]:
        """Ends the process, removes its file and gives the lines that it wrote."""
        self.look()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            try:
                if self.process.wait(PATIENCE_S):
                    self.trouble = self.trouble or describe_exit(self.process.returncode)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.trouble = "the sampling process did not end and was killed"
        self.process = None
        lines = read_lines(self.out)
        with contextlib.suppress(OSError):
            self.out.unlink()
        return lines


def describe_exit(code: int) -> str:
    """The end of a sampling process, in words."""
    return f"the sampling process ended with {f'signal {-code}' if code < 0 else f'status {code}'}"

"""The sampling process, which takes ten samples per second, and its parent's handle of it.

The samples are lines of JSON in a file, which stays readable if either process crashes.
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

from nanobench.records import JsonObject

EVERY_S = 0.1
EXIT_TIMEOUT_S = 5.0
"""The process is killed if it takes longer to end: a driver that hangs must not stop a sweep."""


def take_samples(read: Callable[[], JsonObject], out: Path, every_s: float) -> None:
    """Appends the result of `read` and the Unix time to `out` every `every_s` seconds, until standard input closes."""
    start, tick = time.monotonic(), 0
    while not closed(sys.stdin.fileno(), start + tick * every_s - time.monotonic()):
        append(out, {"started_at": time.time(), **read()})
        tick = next_tick(tick, time.monotonic() - start, every_s)


def append(out: Path, line: JsonObject) -> None:
    """Appends a line to a file with a single write."""
    with out.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def next_tick(tick: int, elapsed_s: float, every_s: float) -> int:
    """The number of the next sample: ticks missed during a slow sample are skipped, so that the schedule does not drift."""
    return max(tick + 1, int(elapsed_s / every_s) + 1)


def closed(descriptor: int, timeout_s: float) -> bool:
    """Whether the other end of a pipe is closed; waits up to `timeout_s` seconds for that."""
    ready, _, _ = select.select([descriptor], [], [], max(0.0, timeout_s))
    return bool(ready) and not os.read(descriptor, 4096)


def read_lines(path: Path) -> list[JsonObject]:
    """The samples in a file; incomplete lines are skipped. Empty if there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    samples = []
    for line in lines:
        try:
            samples.append(json.loads(line))
        except ValueError:
            continue
    return samples


class SamplingProcess:
    """A running `python -m nanobench.probes.nvml`. No method raises: `error` says why samples are missing."""

    def __init__(self, device: str, out: Path, every_s: float = EVERY_S) -> None:
        """Starts the process in a session of its own, without Ctrl-C. It ends with this process, because the pipe closes."""
        self.out = out
        self.error: str | None = None
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
            self.error = f"the sampling process did not start: {error.strerror}"

    def check_alive(self) -> None:
        """Sets `error` if the process has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            self.error = self.error or describe_exit(self.process.returncode)

    def close(self) -> list[JsonObject]:
        """Ends the process, removes its file and returns the lines that it wrote."""
        self.check_alive()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            try:
                if self.process.wait(EXIT_TIMEOUT_S):
                    self.error = self.error or describe_exit(self.process.returncode)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.error = "the sampling process did not end in time and was killed"
        self.process = None
        lines = read_lines(self.out)
        with contextlib.suppress(OSError):
            self.out.unlink()
        return lines


def describe_exit(code: int) -> str:
    """A message with the exit code or signal of the sampling process."""
    return f"the sampling process ended with {f'signal {-code}' if code < 0 else f'status {code}'}"

"""The contract that every executor meets, and the parent's end of a worker process."""

import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Ended:
    """How a worker ended: its record, or why there is none."""

    record: dict[str, Any] | None
    timed_out: bool = False
    reason: str | None = None
    failure: dict[str, str] | None = None
    """status and reason that one of several ranks left behind"""
    killed: bool = False
    """by SIGKILL, and not for its time: as the kernel does where memory runs out"""
    running: int | None = None
    """index of the arm that ran when the worker died; None if none had begun"""


class Executor(Protocol):
    """Runs requests, each in a process of its own."""

    def run(self, request: dict[str, Any], folder: Path, log: Path, timeout_s: float, progress: Progress) -> Ended:
        """Blocks until the request is answered, the process died or `timeout_s` seconds passed. Raises nothing for those."""
        ...

    def close(self) -> None:
        """Ends whatever still runs."""
        ...


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--max-restarts=0")


def start(arguments: list[str], seed: int, cache: Path, log: Path, ranks: int = 1) -> subprocess.Popen[bytes]:
    """A worker process whose hash seed and address layout follow from `seed`, with its inductor cache in the run's folder;
    where it has several ranks torchrun starts and watches them.
    """
    generator = random.Random(seed)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(generator.randrange(2**32)),
        "NANOBENCH_PADDING": "x" * generator.randrange(4096),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        # Ranks of one machine meet on its loopback, whatever its name resolves to.
        **({"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")} if ranks > 1 and sys.platform == "linux" else {}),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as errors:
        launcher = [] if ranks == 1 else [*TORCHRUN, f"--nproc-per-node={ranks}"]
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "nanobench.worker", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )


@dataclass
class Line:
    """The parent's end of the channel to a worker: lines of JSON, read with a deadline."""

    process: subprocess.Popen[bytes]
    buffer: bytes = field(default=b"")

    def __post_init__(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.to_worker, self.from_worker = self.process.stdin.fileno(), self.process.stdout.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """One line; a worker that is gone is noticed by the next `receive`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.to_worker, json.dumps(message).encode() + b"\n")

    def receive(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None once the worker closed the channel. Raises TimeoutError at `deadline` (monotonic seconds)."""
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.from_worker], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(self.from_worker, 65536)
            if not chunk:
                return None
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)


def follow(line: Line, folder: Path, log: Path, timeout_s: float, progress: Progress) -> Ended:
    """Listens to a worker until it ends, answering each report once `progress` has shown it; kills it at the time limit."""
    deadline, pid, timed_out, code = time.monotonic() + timeout_s, line.process.pid, False, None
    while True:
        try:
            message = line.receive(deadline)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            timed_out, deadline = True, time.monotonic() + 60.0
            continue
        if message is None:
            code = line.process.wait()
            break
        if "started" in message:
            pid = message["started"]
        elif "report" in message:
            progress(message["report"])
            line.send({"seen": True})
        elif "exit" in message:
            code = message["exit"]
            break
    return ended(folder, log, code, timed_out, timeout_s)


def ended(folder: Path, log: Path, code: int, timed_out: bool, timeout_s: float) -> Ended:
    """Reads what the worker left behind."""
    try:
        return Ended(record=json.loads((folder / "record.json").read_text()))
    except FileNotFoundError:
        pass
    reason = f"no answer within {timeout_s:g} s" if timed_out else death_of_rank(log) or death(code)
    try:
        running = int((folder / "running").read_text())
    except (FileNotFoundError, ValueError):
        running = None
    killed = code == -signal.SIGKILL and not timed_out
    try:
        failure = json.loads((folder / "failure.json").read_text())
    except FileNotFoundError:
        failure = None
    return Ended(None, timed_out, reason, failure, killed, running)


def death_of_rank(log: Path) -> str | None:
    """The first of several ranks that ended, and how, by torchrun's summary at the end of the log; None without one."""
    tail = log.read_text(errors="replace")[-4000:] if log.exists() else ""
    found = re.search(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)", tail[tail.rfind("Root Cause") :])
    return f"rank {found[1]}: {death(int(found[2]))}" if found and "Root Cause" in tail else None


def death(code: int) -> str:
    """What an exit code says, in words."""
    if code >= 0:
        return f"worker ended with exit code {code}; see its log"
    name = signal.Signals(-code).name
    hint = " (the kernel's out-of-memory killer, or somebody's hand)" if name == "SIGKILL" else ""
    return f"worker killed by {name}{hint}"

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from nanobench.records import JsonObject, Status

Progress = Callable[[JsonObject], JsonObject | None]
"""Takes a report of a worker and returns the answer; None where the worker only has to know that it was seen."""
MOST_OF_A_LINE = 200
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Skip)\b")
"""How the line of a traceback begins that names what was raised."""
START_TIMEOUT_S = 300.0
"""How long a worker may take to load torch and send its first message; the time limit of a request starts then."""


@dataclass(frozen=True)
class WorkerResult:
    """How a worker ended: its record, or why there is none."""

    record: JsonObject | None
    status: Status = Status.OK
    reason: str | None = None
    killed: bool = False
    """by SIGKILL, and not for its time: as the kernel does where memory runs out"""
    running: int | None = None
    """index of the arm that ran when the worker died; None if none had begun"""


class Executor(Protocol):
    """Runs requests, each in a process of its own. One that runs several side by side has a method `at_once` too, see below."""

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """Blocks until the request is answered, the process died or `timeout_s` seconds passed since its first message.

        Raises nothing for those.
        """
        ...

    def close(self) -> None:
        """Ends whatever still runs. Called by another thread than `run` where several requests run side by side."""
        ...


def at_once(executor: Executor, device: str) -> int:
    """How many trials on a device an executor runs side by side, without a GPU or a core that two of them share.

    One, unless the executor has a method `at_once(device)` that says more.
    """
    most = getattr(executor, "at_once", None)
    return 1 if most is None else max(1, most(device))


@dataclass(frozen=True)
class Interpreter:
    """What runs a worker: a Python, and variables of its environment."""

    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)


OWN = Interpreter()
"""That of this process."""


def start(arguments: list[str], seed: int, cache: Path, log: Path, interpreter: Interpreter = OWN) -> subprocess.Popen[bytes]:
    """A worker process whose hash seed and address layout follow from `seed`, with its inductor cache in the run's folder."""
    generator = random.Random(seed)
    # Some launchers of jobs name every process a rank; here only torchrun does, and for its own.
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment = {
        **inherited,
        **interpreter.variables,
        "PYTHONHASHSEED": str(generator.randrange(2**32)),
        "NANOBENCH_PADDING": "x" * generator.randrange(4096),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        # The worker ends when this process has ended.
        "NANOBENCH_LAUNCHER": str(os.getpid()),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as errors:
        return subprocess.Popen(
            [interpreter.python, "-m", "nanobench.worker", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a worker that still runs and everything that it started, and waits for its end."""
    if process.poll() is None:
        kill_with_descendants(process.pid)
    process.wait()


def kill_with_descendants(pid: int) -> None:
    """Kills a process and everything that it started: ranks have sessions of their own, so no process group holds them all."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass
class WorkerPipe:
    """The parent's end of the channel to a worker: lines of JSON, read with a deadline."""

    process: subprocess.Popen[bytes]
    buffer: bytes = field(default=b"")

    def __post_init__(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.to_worker, self.from_worker = self.process.stdin.fileno(), self.process.stdout.fileno()

    def send(self, message: JsonObject) -> None:
        """One line; a worker that is gone is noticed by the next `receive`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.to_worker, json.dumps(message).encode() + b"\n")

    def receive(self, deadline: float) -> JsonObject | None:
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


def follow(line: WorkerPipe, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
    """Listens to a worker until it ends, answering each report once `progress` has shown it; kills it at the time limit, which
    counts from the worker's first message.
    """
    deadline, pid, timed_out, started = time.monotonic() + START_TIMEOUT_S, line.process.pid, None, False
    while True:
        try:
            message = line.receive(deadline)
        except TimeoutError:
            kill_with_descendants(pid)
            limit = f"no answer within {timeout_s:g} s" if started else f"no start within {START_TIMEOUT_S:g} s"
            timed_out = timed_out or limit
            deadline = time.monotonic() + 60.0
            continue
        if message is None:
            code = line.process.wait()
            break
        if not started and timed_out is None:
            started, deadline = True, time.monotonic() + timeout_s
        if "started" in message:
            pid = message["started"]
        elif "report" in message:
            line.send(progress(message["report"]) or {"seen": True})
        elif "exit" in message:
            code = message["exit"]
            break
    return result(folder, log, code, timed_out)


def result(folder: Path, log: Path, code: int, timed_out: str | None) -> WorkerResult:
    """Reads what the worker left behind. `timed_out` says which time limit it exceeded, if it did."""
    record = read_json(folder / "record.json")
    if record is not None:
        return WorkerResult(record)
    running = read_json(folder / "running")
    if timed_out:
        return WorkerResult(None, Status.TIMEOUT, timed_out, running=running)
    failure = read_json(folder / "failure.json")
    rank, code = (first_failed_rank(log) if code > 0 else None) or (None, code)
    # Out of memory is never the echo of another rank's death, and what was killed left nothing else to say.
    if failure is not None and (code >= 0 or failure["status"] == Status.OOM):
        return WorkerResult(None, Status(failure["status"]), failure["reason"], running=running)
    # The last lines of a log with several ranks are torchrun's summary.
    reason = describe_exit(code, last_line(log)) if rank is None else f"rank {rank}: {describe_exit(code)}"
    return WorkerResult(None, Status.ERROR, reason, killed=code == -signal.SIGKILL, running=running)


def read_json(path: Path) -> Any:
    """What a worker wrote there; None if nothing, or nothing whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def last_line(log: Path) -> str:
    """The last exception of a log, else its last line; cut to MOST_OF_A_LINE characters, empty for an empty log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    raised = [line for line in lines if EXCEPTION.match(line)]
    return next(iter([*raised[-1:], *lines[-1:]]), "")[:MOST_OF_A_LINE]


def first_failed_rank(log: Path) -> tuple[str, int] | None:
    """The rank whose failure ended the others, and its exit code, from the summary that torchrun writes at the end of a log.

    None without a summary. A rank that a signal killed comes first, because its peers only lost a connection; torchrun ends
    the other ranks with SIGTERM.
    """
    text = log.read_text(errors="replace").rstrip() if log.exists() else ""
    if "Failures:" not in text or not text.endswith("=" * 20):
        return None
    deaths = re.findall(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)", text[text.rfind("Failures:") :])
    by_signal = [(rank, int(code)) for rank, code in deaths if int(code) < 0 and int(code) != -signal.SIGTERM]
    return next(iter(by_signal), None) or (deaths[-1][0], int(deaths[-1][1])) if deaths else None


def describe_exit(code: int, said: str = "") -> str:
    """What an exit code says, in words, with what the log says last."""
    if code >= 0:
        return f"worker ended with exit code {code}; " + (f"its log says: {said}" if said else "see its log")
    name = signal.Signals(-code).name
    hint = " (the kernel's OOM killer, or a manual kill)" if name == "SIGKILL" else ""
    return f"worker killed by {name}{hint}"

"""This machine: a fork server per round of launches, or a process of its own per trial; one trial at a time, or per GPU."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from nanobench.records import JsonObject
from nanobench.sweep.executors.base import OWN, Executor, Interpreter, Progress, WorkerPipe, WorkerResult, end, follow, start


class Local:
    """With 'forkserver' the trials of a round share the hash seed and the address layout of their server; another round has
    another server.
    """

    def __init__(self, isolation: str, seed: int, cache: Path, interpreter: Interpreter = OWN) -> None:
        self.isolation, self.seed, self.cache, self.interpreter = isolation, seed, cache, interpreter
        self.server: WorkerPipe | None = None
        self.launch = 1
        """the round of the server"""
        self.spawned: subprocess.Popen[bytes] | None = None

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("record.json", "failure.json", "running"):
            (folder / name).unlink(missing_ok=True)
        trial = folder / "trial.json"
        trial.write_text(json.dumps(request))
        ranks = ranks_of(request)
        if self.isolation == "spawn" or ranks > 1:
            self.seed += 1
            process = start(
                [str(trial), str(folder), "--channel", f"--ranks={ranks}"], self.seed, self.cache, log, self.interpreter
            )
            return self.finish(WorkerPipe(process), folder, log, timeout_s, progress)
        server = self.server_of(request, log)
        server.send({"request": str(trial), "out": str(folder), "log": str(log)})
        return follow(server, folder, log, timeout_s, progress)

    def server_of(self, request: JsonObject, log: Path) -> WorkerPipe:
        """The fork server of the round that a request names; the one that is there if it names none."""
        launch = request.get("launch") or request.get("trial", {}).get("launch") or self.launch
        if self.server is not None and launch != self.launch:
            end(self.server.process)
        if self.server is None or self.server.process.poll() is not None:
            self.launch = launch
            self.server = WorkerPipe(start(["--serve"], self.seed + launch, self.cache, log, self.interpreter))
        return self.server

    def finish(self, pipe: WorkerPipe, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """Follows a process that answers one request, and ends with it."""
        self.spawned = pipe.process
        try:
            return follow(pipe, folder, log, timeout_s, progress)
        finally:
            end(pipe.process)

    def close(self) -> None:
        """See Executor.close. Another thread may be waiting in `run`: it finds that its worker has died."""
        for process in (self.spawned, self.server.process if self.server else None):
            if process is not None:
                end(process)
        self.server = self.spawned = None


class PerGpu:
    """Meets Executor. Each GPU has workers of its own, which see no other one."""

    def __init__(self, workers: Sequence[Executor]) -> None:
        self.workers = workers
        self.free: SimpleQueue[Executor] = SimpleQueue()
        for each in workers:
            self.free.put(each)

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run. Waits until a GPU is free."""
        worker = self.free.get()
        try:
            return worker.run(request, folder, log, timeout_s, progress)
        finally:
            self.free.put(worker)

    def at_once(self, device: str) -> int:
        """See base.at_once: a trial on the CPU would share its cores with another one."""
        return len(self.workers) if device == "cuda" else 1

    def close(self) -> None:
        """See Executor.close."""
        for each in self.workers:
            each.close()


def ranks_of(request: JsonObject) -> int:
    """How many processes answer a request together."""
    trial = request.get("trial") or request.get("batch_trial")
    return trial["point"]["world_size"] if trial else 1


def build(isolation: str, seed: int, cache: Path, interpreter: Interpreter = OWN, pinned: Sequence[str] = ()) -> Executor:
    """An executor on this machine. `seed` decides the hash seeds and the paddings of the environment.

    With some GPUs in `pinned`, named as in CUDA_VISIBLE_DEVICES, it runs a worker on each of them at once.
    """
    if not pinned:
        return Local(isolation, seed, cache, interpreter)
    return PerGpu([Local(isolation, seed, cache, seeing(gpu, interpreter)) for gpu in pinned])


def seeing(gpu: str, interpreter: Interpreter) -> Interpreter:
    """The same interpreter, whose workers see one GPU."""
    return replace(interpreter, variables={**interpreter.variables, "CUDA_VISIBLE_DEVICES": gpu})

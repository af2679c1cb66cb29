"""This machine: a fork server per round of launches, or a process of its own per trial."""

import json
from pathlib import Path

from nanobench.records import JsonObject
from nanobench.sweep.executors.base import OWN, Executor, Interpreter, Progress, WorkerPipe, WorkerResult, end, follow, start


class Local:
    """With 'forkserver' the children of one Local share hash seed and address layout: make one Local per round."""

    def __init__(self, isolation: str, seed: int, cache: Path, interpreter: Interpreter = OWN) -> None:
        self.isolation, self.seed, self.cache, self.interpreter = isolation, seed, cache, interpreter
        self.server: WorkerPipe | None = None

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
        if self.server is None or self.server.process.poll() is not None:
            self.server = WorkerPipe(start(["--serve"], self.seed, self.cache, log, self.interpreter))
        self.server.send({"request": str(trial), "out": str(folder), "log": str(log)})
        return follow(self.server, folder, log, timeout_s, progress)

    def finish(self, pipe: WorkerPipe, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """Follows a process that answers one request, and ends with it."""
        try:
            return follow(pipe, folder, log, timeout_s, progress)
        finally:
            end(pipe.process)

    def close(self) -> None:
        """See Executor.close."""
        if self.server is not None:
            end(self.server.process)
            self.server = None


def ranks_of(request: JsonObject) -> int:
    """How many processes answer a request together."""
    trial = request.get("trial") or request.get("batch_trial")
    return trial["point"]["world_size"] if trial else 1


def build(isolation: str, seed: int, cache: Path, interpreter: Interpreter = OWN) -> Executor:
    """An executor on this machine. `seed` decides the hash seed and the padding of the environment."""
    return Local(isolation, seed, cache, interpreter)

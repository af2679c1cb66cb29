"""What a job does on its node: it answers one request there as `local` does. What is kept of it comes back as one document."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from nanobench.records import JsonObject, Status
from nanobench.schema import Trial
from nanobench.sweep import output_check
from nanobench.sweep.executors import local
from nanobench.sweep.executors.base import Interpreter, WorkerResult

LOG = "log"
NODE = "NANOBENCH_NODE"
"""Environment variable with the name of a node, which is not always its host name; read by `probes/environment.py`."""


class Lost(Exception):
    """A job ended without an answer. The message names the job and says how it ended."""

    def __init__(self, reason: str, status: Status = Status.ERROR, again: bool = True, running: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.running = status, running
        self.again = again
        """whether another attempt may do better"""


# On the node
def answer(request: JsonObject, folder: Path, timeout_s: float, seed: int, cache: Path, node: str) -> JsonObject:
    """Answers a request with a worker of this machine. The outputs of a trial are checked at once, because they are here."""
    log = folder / LOG
    executor = local.build("spawn", seed, cache, Interpreter(variables={NODE: node}))
    try:
        result = executor.run(request, folder, log, timeout_s, lambda report: None)
        if "trial" in request:
            result = output_check.after(executor, Trial.from_json(request["trial"]), result, folder, log, timeout_s)
    finally:
        executor.close()
    traces = {path.name: path.read_text() for path in folder.glob("trace-*.json")}
    return {**vars(result), "log": text_of(log), "traces": traces}


def text_of(path: Path) -> str:
    """A file's text; empty where there is no file."""
    return path.read_text(errors="replace") if path.exists() else ""


# In the control process
def device_of(request: JsonObject) -> str:
    """The device that a request needs."""
    for name in ("trial", "batch_trial"):
        if name in request:
            return request[name]["point"]["device"]
    if "check" in request:
        return request["check"]["trial"]["point"]["device"]
    known = request.get("describe") or request.get("calibrate") or {"device": "cpu"}
    return known["device"]


def receive(document: JsonObject, folder: Path, log: Path) -> WorkerResult:
    """The result in a document of `answer`. Its log is added to `log`, and its traces are written into `folder`."""
    note(log, document["log"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in document["traces"].items():
        (folder / Path(name).name).write_text(text)
    known = {name: document[name] for name in ("record", "reason", "killed", "running")}
    return WorkerResult(status=Status(document["status"]), **known)


def note(log: Path, text: str) -> None:
    """Adds a text to a log."""
    if text:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(text if text.endswith("\n") else text + "\n")


def with_retries(send: Callable[[], WorkerResult], retries: int, log: Path) -> WorkerResult:
    """The result of the first job that gives one. If a job is lost it is sent again, so many times; then its loss is the
    result. The log names each lost job.
    """
    losses = 0
    while True:
        try:
            return send()
        except Lost as lost:
            losses += 1
            again = lost.again and losses <= retries
            note(log, f"{lost}{'; it is sent again' if again else ''}")
            if not again:
                reason = f"{lost} (attempt {losses} of {retries + 1})" if losses > 1 else str(lost)
                return WorkerResult(None, lost.status, reason, running=lost.running)


def write_whole(path: Path, document: JsonObject) -> None:
    """Writes a document whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document))
    part.rename(path)


def remove(folder: Path) -> None:
    """Removes a folder, and the folders around it that are empty then: those that were made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    for each in (folder.parent, folder.parent.parent):
        try:
            each.rmdir()
        except OSError:
            return

"""The measuring process: one trial in a fresh process. `python -m nanobench.worker trial.json out/` writes `out/record.json`.

With `--serve` it imports torch once and forks a child for each request on standard input: a fork takes 0.03 s, an import
about 2 s. With `--channel` a single run uses the same channel to its parent. The worker reports over the channel between
repetitions and waits for the answer, so the parent never updates its display during a repetition.
"""

import argparse
import faulthandler
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO

from nanobench.worker import lifetime

if __name__ == "__main__":
    # Before torch is imported: that takes seconds, in which the process that started this one may end.
    lifetime.end_with_launcher()

from nanobench.models import _sdpa as sdpa
from nanobench.probes import memory
from nanobench.records import JsonObject
from nanobench.training import distributed
from nanobench.worker.arms import Report
from nanobench.worker.requests import answer


class Channel:
    """Lines of JSON to the parent and back. The parent answers a report after it has updated its display."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[str]) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    def send(self, message: JsonObject) -> None:
        """Writes one line and flushes it."""
        self.outgoing.write(json.dumps(message) + "\n")
        self.outgoing.flush()

    def report(self, progress: JsonObject) -> JsonObject | None:
        """Sends the progress of the trial and waits for the parent's answer; None once the parent is gone."""
        self.send({"report": progress})
        line = self.incoming.readline()
        return json.loads(line) if line else None


def run(request_path: Path, out: Path, report: Report) -> None:
    """Answers one request file with `out/record.json`, which is written completely or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    record = answer(json.loads(request_path.read_text()), out, report)
    if not distributed.current_world().is_rank_zero:
        return
    # A plug-in's message may have half of a surrogate pair, which no file of text and no terminal takes.
    (out / "record.part").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8", errors="replace")
    (out / "record.part").rename(out / "record.json")


def serve(channel: Channel) -> None:
    """Forks a child for each request. The server itself uses no device and runs no kernel, so each child starts clean."""
    while line := channel.incoming.readline():
        request = json.loads(line)
        if "request" not in request:
            continue
        redirect_output(Path(request["log"]))
        preload(Path(request["request"]))
        server, child = os.getpid(), os.fork()
        if child == 0:
            lifetime.end_with_parent(server)
            run(Path(request["request"]), Path(request["out"]), channel.report)
            sys.stdout.flush()
            os._exit(0)
        channel.send({"started": child})
        _, status = os.waitpid(child, 0)
        channel.send({"exit": os.waitstatus_to_exitcode(status)})


def preload(request_path: Path) -> None:
    """Imports what a trial needs into the server, once for all children: dynamo takes a second."""
    request = json.loads(request_path.read_text())
    trial = request.get("trial") or request.get("batch_trial")
    if trial and (trial["point"]["seq_len"] or any(arm["compile_mode"] != "off" for arm in trial["arms"])):
        importlib.import_module("torch._dynamo")


def redirect_output(log: Path) -> None:
    """Redirects the output of the model's code to the worker's log, away from the channel."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def main() -> None:
    """The command line of the worker."""
    parser = argparse.ArgumentParser(prog="python -m nanobench.worker", description=__doc__)
    parser.add_argument("request", type=Path, nargs="?", help="request file, for example trial.json")
    parser.add_argument("out", type=Path, nargs="?", help="folder that receives record.json")
    parser.add_argument("--channel", action="store_true", help="report on standard output, wait for answers on standard input")
    parser.add_argument("--serve", action="store_true", help="fork a child per request read from standard input")
    parser.add_argument("--ranks", type=int, default=1, help="number of processes (ranks) that answer the request together")
    arguments = parser.parse_args()
    faulthandler.enable()
    if arguments.ranks > 1:
        os.environ[lifetime.LAUNCHER] = str(os.getpid())
        return distributed.launch(arguments.ranks, [str(arguments.request), str(arguments.out), "--channel"])
    memory.keep_freed()
    sdpa.avoid_cudnn()
    if not distributed.current_world().is_rank_zero:
        os.dup2(2, 1)
        return run(arguments.request, arguments.out, lambda progress: None)
    if not (arguments.serve or arguments.channel):
        return run(arguments.request, arguments.out, lambda progress: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Unbuffered: the server and its child read the same pipe in turns.
    channel = Channel(os.fdopen(0, "rb", buffering=0), os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    if arguments.serve:
        return serve(channel)
    # The time limit of the parent starts here: it does not include the import of torch.
    channel.send({"ready": True})
    run(arguments.request, arguments.out, channel.report)
    return None


if __name__ == "__main__":
    main()

"""Stands for `python -m nanobench.worker` in tests of executors: it keeps the protocol of a worker, and loads no torch.

What it does follows from the request: {"play": {"do": ..., "say": ...}}.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PLAYS = ("answer", "fail", "hang", "die", "exit")


def play(request_path, out):
    """Answers one request, or does not."""
    what = json.loads(request_path.read_text())["play"]
    print(f"a worker plays {what['do']}", file=sys.stderr, flush=True)
    (out / "trace-0.json").write_text("{}")
    if what["do"] == "answer":
        machine = {"node": os.environ.get("NANOBENCH_NODE") or "here", "facts": {"cpu": "fake"}}
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        seed = os.environ.get("PYTHONHASHSEED")
        record = {"say": what.get("say"), "server": os.getppid(), "seed": seed, "gpu": gpu, "machine": machine}
        time.sleep(what.get("takes_s", 0.0))
        (out / "record.json").write_text(json.dumps(record))
    (out / "running").write_text("1")
    if what["do"] == "fail":
        (out / "failure.json").write_text(json.dumps({"status": "oom", "reason": "out of memory"}))
        sys.exit(1)
    if what["do"] == "hang":
        (Path(what["say"])).write_text(str(os.getpid()))
        time.sleep(600)
    if what["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(3 if what["do"] == "exit" else 0)


def main():
    """As the command line of the worker."""
    words = sys.argv[3:]
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(message):
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    if words != ["--serve"]:
        send({"ready": True})
        return play(Path(words[0]), Path(words[1]))
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 2)
            try:
                play(Path(request["request"]), Path(request["out"]))
            except SystemExit as ended:
                os._exit(ended.code or 0)
        send({"started": child})
        send({"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})
    return None


if __name__ == "__main__":
    main()

"""A Ray cluster: each trial is a task with a GPU, or a node, of its own; needs no shared folder. Needs nanobench[ray].

A task answers with its value. A task whose worker process or node dies is submitted again.
"""

import logging
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any

from nanobench import source_code
from nanobench.errors import UserError
from nanobench.records import JsonObject, Status
from nanobench.registry.arguments import Count, Range
from nanobench.sweep.executors import _node as node
from nanobench.sweep.executors._node import Lost
from nanobench.sweep.executors.base import Executor, Progress, WorkerResult

CONNECT_S = 10.0
"""How long a cluster may take to answer."""
OTHER_CODE = "has other source code of nanobench than the control process; install the same version on all nodes"


class Ray:
    """Meets Executor. A task on the CPU has all cores of its node."""

    def __init__(self, seed: int, cpus: int | None, gpus: int, most: int | None, retries: int) -> None:
        import ray

        self.seed, self.cpus, self.gpus, self.most, self.retries = seed, cpus, gpus, most, retries
        self.task = ray.remote(answer_task)
        self.running: list[Any] = []
        self.lock = threading.Lock()
        self.closed = False

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        nodes = alive()
        if device.startswith("cuda"):
            room = sum(int(each.get("GPU", 0)) // self.gpus for each in nodes)
        else:
            room = sum(each.get("CPU", 0) >= self.cores(nodes) for each in nodes)
        return room if self.most is None else min(room, self.most)

    def cores(self, nodes: list[dict[str, float]]) -> int:
        """The cores of a task on the CPU: those of the largest node, so that no other task runs beside it."""
        return self.cpus or int(max((each.get("CPU", 0) for each in nodes), default=1))

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run. The worker's reports stay on its node. How long a task may wait for a node has no limit."""
        return node.with_retries(lambda: self.send(request, folder, log, timeout_s), self.retries, log)

    def send(self, request: JsonObject, folder: Path, log: Path, timeout_s: float) -> WorkerResult:
        """Submits a task and waits for its answer. Raises Lost."""
        import ray

        if self.closed:
            raise Lost("the sweep ended", again=False)
        self.seed += 1
        task = self.task.options(name="nanobench", max_retries=0, **self.needs(request)).remote(
            request, timeout_s, self.seed, os.getcwd(), digest()
        )
        with self.lock:
            self.running.append(task)
        try:
            return node.receive(ray.get(task), folder, log)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [""]
            words = f"{type(error).__name__}: {lines[-1].strip().split('. ')[0]}"
            raise Lost(f"task {task.task_id().hex()[:16]} was lost: {words}", again=not self.closed) from None
        except BaseException:
            # Ctrl-C, where the thread of the sweep waits here itself.
            ray.cancel(task, force=True)
            raise
        finally:
            with self.lock:
                self.running.remove(task)

    def needs(self, request: JsonObject) -> dict[str, float]:
        """What a task reserves. Raises Lost where no node has it, for such a task would wait for ever."""
        nodes, device = alive(), node.device_of(request)
        has_gpus = any(each.get("GPU", 0) for each in nodes)
        on_gpu = device.startswith("cuda") or (device == "auto" and has_gpus)
        wanted = {"GPU": self.gpus, "CPU": self.cpus or 1} if on_gpu else {"GPU": 0, "CPU": self.cores(nodes)}
        if not any(all(each.get(name, 0) >= count for name, count in wanted.items()) for each in nodes):
            words = " and ".join(f"{count} {name}s" for name, count in wanted.items() if count)
            raise Lost(f"no node of the Ray cluster has {words}", again=False)
        return {"num_gpus": wanted["GPU"], "num_cpus": wanted["CPU"]}

    def close(self) -> None:
        """See Executor.close. A worker ends with the process of its task."""
        import ray

        self.closed = True
        with self.lock:
            running = list(self.running)
        for task in running:
            ray.cancel(task, force=True)


def alive() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    import ray

    return [each["Resources"] for each in ray.nodes() if each["Alive"]]


def digest() -> str:
    """Identifies the source code of nanobench on this machine."""
    return source_code.digest({"nanobench": source_code.of_nanobench(commits=False)})


def answer_task(request: JsonObject, timeout_s: float, seed: int, cwd: str, code: str) -> JsonObject:
    """What a task runs: answers a request in a temporary folder of its node, in the current folder if the node has it."""
    import ray

    name = f"{socket.gethostname()} {ray.get_runtime_context().get_node_id()[:8]}"
    if digest() != code:
        failed = WorkerResult(None, Status.ERROR, f"{name} {OTHER_CODE}")
        return {**vars(failed), "log": "", "traces": {}}
    if Path(cwd).is_dir():
        os.chdir(cwd)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as own:
        return node.answer(request, Path(own) / "work", timeout_s, seed, Path(own) / "inductor", name)


def connect(address: str | None) -> None:
    """Connects to a cluster, once per process. Raises UserError where there is none."""
    try:
        import ray
    except ImportError:
        fix = "install it with: pip install ray, or pip install '.[ray]' in a checkout"
        raise UserError(f"executor ray needs ray, which is not installed; {fix}") from None
    if ray.is_initialized():
        return
    wanted = str(address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        refuse_silence(wanted)
        ray.init(address=wanted, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fix = "start one with `ray start --head`, or write ray:address=HOST:PORT"
        raise UserError(f"executor ray finds no cluster at {wanted}: {words}; {fix}") from None


def refuse_silence(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT, because ray.init would wait for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT_S).close()


def build(
    isolation: str,
    seed: int,
    cache: Path,
    *,
    address: str | None = None,
    cpus: Count | None = None,
    gpus: Count = 1,
    at_once: Count | None = None,
    retries: Annotated[int, Range(at_least=0)] = 1,
) -> Executor:
    """Tasks on the cluster at `address`, at most so many at once, with so many cores or GPUs; a lost one is sent again."""
    connect(address)
    return Ray(seed, cpus, gpus, at_once, retries)

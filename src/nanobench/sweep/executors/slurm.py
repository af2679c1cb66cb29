"""A Slurm cluster: each trial is a job, submitted with submitit from a machine that has sbatch. Needs nanobench[slurm].

A job answers with a file in a folder that all nodes see. A job that ends without an answer is submitted again.
"""

import contextlib
import io
import math
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time as clock
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from nanobench.errors import UserError
from nanobench.records import JsonObject, Status
from nanobench.registry.arguments import Count, Range
from nanobench.sweep.device_lock import user
from nanobench.sweep.executors import _node as node
from nanobench.sweep.executors._node import Lost
from nanobench.sweep.executors.base import START_TIMEOUT_S, Executor, Progress, WorkerResult, read_json

ANSWER = "answer.json"
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)
"""States of a job that does not run again."""
STATES_EVERY_S = 5.0
"""The states of all jobs are requested from Slurm together, so often at most."""
LOOK_EVERY_S = 1.0
"""How often a job's answer is looked for."""
LATE_S = 15.0
"""A network file system may show an answer so much later than Slurm shows the end of its job."""
GONE_S = 120.0
"""A job that Slurm does not know for so long is lost."""


class Queue:
    """The states of this user's jobs."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.read_at = -math.inf
        self.lock = threading.Lock()

    def state(self, job: Any, submitted_at: float) -> str:
        """The state of a job of submitit, UNKNOWN where Slurm does not know it any more."""
        with self.lock:
            if self.read_at < submitted_at or clock.monotonic() - self.read_at >= STATES_EVERY_S:
                self.states, self.read_at = queued(), clock.monotonic()
        # squeue forgets jobs some minutes after their end; submitit reads the accounting, where a cluster has it.
        return self.states.get(job.job_id) or str(job.state).split()[0]


def queued() -> dict[str, str]:
    """Job -> state, as squeue lists them; empty where it gives no answer."""
    command = ["squeue", "--noheader", "--states=all", "--user", user(), "--format=%i %T"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {words[0]: words[1] for line in lines if len(words := line.split()) > 1}


class Slurm:
    """Meets Executor. `jobs` is a folder that all nodes see; `sbatch` are options of every job."""

    def __init__(self, seed: int, cache: Path, sbatch: Mapping[str, Any], most: int, retries: int) -> None:
        self.seed, self.cache, self.sbatch, self.most, self.retries = seed, cache.absolute(), sbatch, most, retries
        self.jobs = self.cache.parent / "jobs"
        self.queue = Queue()
        self.running: dict[Path, Any] = {}
        self.lock = threading.Lock()
        self.closed = False

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        return self.most

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run. The worker's reports stay on its node. How long a job may wait in the queue has no limit."""
        return node.with_retries(lambda: self.send(request, folder, log, timeout_s), self.retries, log)

    def send(self, request: JsonObject, folder: Path, log: Path, timeout_s: float) -> WorkerResult:
        """Submits a job and waits for its answer. Raises Lost."""
        if self.closed:
            raise Lost("the sweep ended", again=False)
        own, job = self.jobs / secrets.token_hex(6), None
        own.mkdir(parents=True)
        try:
            job = self.running[own] = self.submit(request, own, timeout_s)
            return node.receive(self.wait(job, own), folder, log)
        except Lost:
            if job is not None:
                job.cancel(check=False)
            node.note(log, node.text_of(own / "work" / node.LOG))
            raise
        except BaseException:
            # Ctrl-C, where the thread of the sweep waits here itself.
            if job is not None:
                job.cancel(check=False)
            raise
        finally:
            self.running.pop(own, None)
            shutil.rmtree(own, ignore_errors=True)

    def submit(self, request: JsonObject, own: Path, timeout_s: float) -> Any:
        """A job that answers a request. Raises Lost where Slurm refuses it."""
        import submitit

        self.seed += 1
        try:
            # submitit prints the errors of sbatch, and raises them.
            with self.lock, contextlib.redirect_stderr(io.StringIO()):
                if self.closed:
                    raise Lost("the sweep ended", again=False)
                executor = submitit.SlurmExecutor(own / "job")
                # Without srun the job has all cores of its allocation, however srun would bind a task.
                executor.update_parameters(
                    job_name="nanobench", use_srun=False, additional_parameters=self.options(node.device_of(request), timeout_s)
                )
                return executor.submit(answer_into, str(own), request, timeout_s, self.seed, str(self.cache))
        except Lost:
            raise
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise Lost(f"the job cannot be submitted: {words}", again=False) from error

    def options(self, device: str, timeout_s: float) -> dict[str, Any]:
        """The options of sbatch for a job on a device: a GPU of its own, or else a node of its own."""
        # A trial and the check of its outputs have a time limit each.
        minutes = math.ceil(2 * (START_TIMEOUT_S + timeout_s) / 60)
        on_gpu = device.startswith("cuda") or (device == "auto" and "gres" in self.sbatch)
        own: dict[str, Any] = {"gres": "gpu:1"} if on_gpu else {"exclusive": True}
        given = {**own, "time": minutes, **self.sbatch}
        return {"no_requeue": True, **{name: value for name, value in given.items() if value not in (None, False)}}

    def wait(self, job: Any, own: Path) -> JsonObject:
        """The answer of a job. Raises Lost where it ends without one."""
        submitted_at, silent_since = clock.monotonic(), math.inf
        while True:
            # So that a network file system shows what is new.
            own.touch()
            if (found := read_json(own / ANSWER)) is not None:
                return found
            if self.closed:
                raise Lost(f"job {job.job_id} was cancelled, because the sweep ended", again=False)
            state = self.queue.state(job, submitted_at)
            has_ended = state in ENDED or state == "UNKNOWN"
            silent_since = min(silent_since, clock.monotonic()) if has_ended else math.inf
            if clock.monotonic() - silent_since >= (GONE_S if state == "UNKNOWN" else LATE_S):
                raise lost(job, state, own)
            clock.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """See Executor.close."""
        self.closed = True
        for job in list(self.running.values()):
            job.cancel(check=False)
        if not self.running:
            node.remove(self.jobs)


def lost(job: Any, state: str, own: Path) -> Lost:
    """How a job ended that left no answer. One that exceeded a limit would exceed it again."""
    printed = (job.stderr() or "").strip().splitlines()
    ended = "is gone from Slurm's queue" if state == "UNKNOWN" else f"ended with state {state}"
    reason = f"job {job.job_id} {ended}" + (f": {printed[-1].strip()}" if printed else "")
    status = {"TIMEOUT": Status.TIMEOUT, "OUT_OF_MEMORY": Status.OOM}.get(state, Status.ERROR)
    return Lost(reason, status, again=status is Status.ERROR, running=read_json(own / "work" / "running"))


def answer_into(own: str, request: JsonObject, timeout_s: float, seed: int, cache: str) -> None:
    """What a job runs: answers a request with a file in the job's folder."""
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    node.write_whole(Path(own) / ANSWER, node.answer(request, Path(own) / "work", timeout_s, seed, Path(cache), name))


def build(
    isolation: str,
    seed: int,
    cache: Path,
    *,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    reservation: str | None = None,
    gres: str | None = None,
    constraint: str | None = None,
    nodelist: str | None = None,
    exclude: str | None = None,
    cpus: Count | None = None,
    mem: str | None = None,
    time: int | str | None = None,
    exclusive: bool | None = None,
    at_once: Count = 16,
    retries: Annotated[int, Range(at_least=0)] = 1,
) -> Executor:
    """Jobs with these options of sbatch (`cpus` is --cpus-per-task), so many at once; a lost one is submitted again."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        fix = "install it with: pip install submitit, or pip install '.[slurm]' in a checkout"
        raise UserError(f"executor slurm needs submitit, which is not installed; {fix}") from None
    given = {
        **{"partition": partition, "account": account, "qos": qos, "reservation": reservation, "gres": gres},
        **{"constraint": constraint, "nodelist": nodelist, "exclude": exclude, "cpus_per_task": cpus, "mem": mem},
        **{"time": time, "exclusive": exclusive},
    }
    return Slurm(seed, cache, {name: value for name, value in given.items() if value is not None}, at_once, retries)

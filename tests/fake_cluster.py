"""Stand-ins for the packages submitit and ray: jobs are processes of this machine, with the workers of fake_worker.py."""

import itertools
import json
import subprocess
import sys
import time
import types

from nanobench.sweep.executors import base

NODE = """
import json, os, sys, types
sys.executable, function, given, lose = sys.argv[1:]
context = types.SimpleNamespace(get_node_id=lambda: "f" * 20)
sys.modules["ray"] = types.SimpleNamespace(get_runtime_context=lambda: context)
if lose == "True":
    print("the node burns", file=sys.stderr)
    os.kill(os.getpid(), 9)
from nanobench.sweep.executors import ray, slurm
found = {"slurm": slurm.answer_into, "ray": ray.answer_task}[function](*json.loads(given))
print(json.dumps(found))
"""
"""What runs on a node. The import of an executor fixes the interpreter of its workers."""


class Jobs:
    """Starts jobs. Those whose numbers are in `lose` die before they answer."""

    def __init__(self, worker, lose=()):
        self.worker, self.lose, self.numbers, self.started = str(worker), lose, itertools.count(1), []

    def start(self, function, arguments):
        number = next(self.numbers)
        command = [sys.executable, "-c", NODE, self.worker, function, json.dumps(arguments), str(number in self.lose)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return number, process


class Job:
    """As submitit.SlurmJob."""

    def __init__(self, number, process):
        self.job_id, self.process, self.cancelled = str(number), process, False

    @property
    def state(self):
        code = self.process.poll()
        if code is None:
            return "RUNNING"
        if self.cancelled:
            return "CANCELLED by 0"
        return {0: "COMPLETED", -9: "NODE_FAIL"}.get(code, "FAILED")

    def stderr(self):
        return self.process.stderr.read()

    def cancel(self, check):
        self.cancelled = True
        base.end(self.process)


def submitit(jobs):
    """A module like submitit."""

    class SlurmExecutor:
        def __init__(self, folder):
            self.options = {}

        def update_parameters(self, job_name, use_srun, additional_parameters):
            jobs.sbatch = additional_parameters
            if additional_parameters.get("partition") == "nope":
                raise RuntimeError("sbatch: error: invalid partition specified:\nnope")

        def submit(self, function, *arguments):
            assert function.__name__ == "answer_into"
            return Job(*jobs.start("slurm", arguments))

    return types.SimpleNamespace(SlurmExecutor=SlurmExecutor)


class RayError(Exception):
    """As ray.exceptions.RayError."""


class Task:
    """As ray.ObjectRef."""

    def __init__(self, number, process):
        self.number, self.process = number, process

    def task_id(self):
        return self

    def hex(self):
        return f"{self.number:048x}"


def ray(jobs, nodes):
    """A module like ray, with nodes of some resources."""

    class Remote:
        def __init__(self, function):
            assert function.__name__ == "answer_task"

        def options(self, **given):
            jobs.options = given
            return self

        def remote(self, *arguments):
            return Task(*jobs.start("ray", arguments))

    def get(task):
        out, err = task.process.communicate()
        if task.process.returncode:
            raise RayError(f"the worker died unexpectedly\n{err}")
        return json.loads(out.splitlines()[-1])

    def cancel(task, force):
        while task.process.poll() is None:
            base.end(task.process)
            time.sleep(0.01)

    listed = [{"Alive": True, "Resources": each} for each in nodes]
    return types.SimpleNamespace(
        remote=Remote,
        get=get,
        cancel=cancel,
        nodes=lambda: [*listed, {"Alive": False, "Resources": {"CPU": 999, "GPU": 9}}],
        is_initialized=lambda: True,
        exceptions=types.SimpleNamespace(RayError=RayError),
    )

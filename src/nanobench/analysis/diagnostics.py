"""Problems of the machine: each with its effect on results and the fix. Nothing is changed here."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanobench.results.status import HELD_DOWN

FEW_CORES = 4
BUSY_LOAD = 0.5
MOST_PRESSURE = 0.1
LEAST_AVAILABLE = 0.1


@dataclass(frozen=True)
class Problem:
    """One finding."""

    what: str
    effect: str
    fix: str


def problems(identity: Mapping[str, Any], state: Mapping[str, Any]) -> list[Problem]:
    """Every problem that identity and state show, those of the host first."""
    return [*of_the_host(identity, state), *(found for gpu in state["gpus"] for found in of_a_gpu(gpu))]


def of_the_host(identity: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[Problem]:
    """Cores, threads, load, governor, quota and memory."""
    cores, threads = identity["cores"], state["omp_threads"]
    if cores < FEW_CORES:
        yield Problem(
            f"only {cores} {'core' if cores == 1 else 'cores'}",
            "other processes, the system included, take time from the measured threads",
            "measure with --threads set to one less than the cores, or on a larger machine",
        )
    if threads > cores:
        yield Problem(
            f"{threads} threads on {cores} cores",
            "threads wait for each other at every operation; times become several times longer and scatter",
            f"export OMP_NUM_THREADS={cores}, or --threads {cores}",
        )
    yield from of_busy_processes(cores, state)
    if not state["busy"] and state["load_1m"] > BUSY_LOAD * cores:
        yield Problem(
            f"load average {state['load_1m']:.1f} on {cores} cores",
            "another program ran in the last minutes and may run again",
            "wait until the load is below half the number of cores",
        )
    if state["cpu_pressure"] is not None and state["cpu_pressure"] > MOST_PRESSURE:
        yield Problem(
            f"tasks waited for a core in {state['cpu_pressure']:.0%} of the last ten seconds",
            "times include waiting; cells become unstable",
            "stop other processes, or use fewer --threads",
        )
    if state["governor"] not in (None, "performance"):
        yield Problem(
            f"CPU governor {state['governor']}",
            "the clock follows the load, so short repetitions run slower than long ones",
            "sudo cpupower frequency-set -g performance",
        )
    quota = identity["cpu_quota"]
    if quota is not None and quota < cores:
        yield Problem(
            f"CPU quota of {quota:g} cores, {cores} cores visible",
            "the kernel stops the process for milliseconds when the quota is used up",
            f"--threads {max(1, int(quota))}, or raise the container's limit",
        )
    if state["available_gib"] < LEAST_AVAILABLE * identity["memory_gib"]:
        yield Problem(
            f"{state['available_gib']:g} of {identity['memory_gib']} GiB of memory available",
            "the kernel reclaims pages during repetitions; large batches run out of memory early",
            "stop the processes that use the memory",
        )


def of_busy_processes(cores: int, state: Mapping[str, Any]) -> Iterator[Problem]:
    """Other programs that use the cores. Threads on the cores that they leave do not wait for each other."""
    left = max(1, cores - math.ceil(sum(process["cores"] for process in state.get("busy", ()))))
    fewer = f"; or measure with --threads {left}" if left < cores else ""
    for process in state.get("busy", ()):
        yield Problem(
            f"{process['name']} (pid {process['pid']}) takes {process['cores']:.0%} of a core",
            "threads lose their cores and wait for each other; absolute figures become unstable and intervals wide",
            f"stop that process or wait until it ends{fewer}",
        )


def of_a_gpu(gpu: Mapping[str, Any]) -> Iterator[Problem]:
    """Other processes, power cap, persistence mode, limited clocks."""
    name = gpu.get("name") or "GPU"
    if gpu.get("processes"):
        yield Problem(
            f"{name}: {gpu['processes']} {'process runs' if gpu['processes'] == 1 else 'processes run'} on it",
            "kernels of several processes take turns; every cell becomes unstable",
            "stop these processes, or choose another GPU with --device cuda:INDEX",
        )
    limit_w, default_w = gpu.get("power_limit_enforced_w"), gpu.get("power_limit_default_w")
    if limit_w and default_w and limit_w < default_w:
        yield Problem(
            f"{name}: power capped at {limit_w:g} of {default_w:g} W",
            "clocks drop under load; results are slower than on a card without a cap",
            f"sudo nvidia-smi -pl {default_w:g}, or report the cap with the results",
        )
    if gpu.get("persistence_mode") is False:
        yield Problem(
            f"{name}: no persistence mode",
            "the driver loads again for each process: first calls are slow, clocks start low",
            "sudo nvidia-smi -pm 1",
        )
    held = [reason for reason in (gpu.get("clock_event_reasons") or "").split(",") if reason in HELD_DOWN]
    if held:
        yield Problem(
            f"{name}: clocks limited ({', '.join(held)})",
            "times drift while the card heats or cools",
            "let the card cool, check the airflow and the power supply",
        )

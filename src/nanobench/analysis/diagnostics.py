"""What is wrong with a machine today: each problem with what it does to the numbers and the mend. Nothing is changed here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanobench.results.status import HELD_DOWN

Row = dict[str, Any]
FEW_CORES = 4
BUSY_LOAD = 0.5
MOST_PRESSURE = 0.1
LEAST_AVAILABLE = 0.1


@dataclass(frozen=True)
class Problem:
    """One finding."""

    what: str
    effect: str
    mend: str


def problems(identity: Row, state: Row) -> list[Problem]:
    """Every problem that identity and state show, those of the host first."""
    return [*of_the_host(identity, state), *(found for gpu in state["gpus"] for found in of_a_gpu(gpu))]


def of_the_host(identity: Row, state: Row) -> Iterator[Problem]:
    """Cores, threads, load, governor, quota and memory."""
    cores, threads = identity["cores"], state["omp_threads"]
    if cores < FEW_CORES:
        yield Problem(
            f"{cores} core{'s'[: cores != 1]} only",
            "whatever else runs, the system included, takes its time from the measured threads",
            "measure with --threads one below the cores, or on a larger machine",
        )
    if threads > cores:
        yield Problem(
            f"{threads} threads on {cores} cores",
            "threads wait for one another at every operation; times grow several-fold and scatter",
            f"export OMP_NUM_THREADS={cores}, or --threads {cores}",
        )
    for process in state["busy"]:
        yield Problem(
            f"{process['name']} (pid {process['pid']}) takes {process['cores']:.0%} of a core",
            "the main thread loses its core; cells become unstable, intervals wide",
            "end it or wait for it",
        )
    if not state["busy"] and state["load_1m"] > BUSY_LOAD * cores:
        yield Problem(
            f"load average {state['load_1m']:.1f} on {cores} cores",
            "something ran here within the last minutes and may run again",
            "wait until it is below half the cores",
        )
    if state["cpu_pressure"] is not None and state["cpu_pressure"] > MOST_PRESSURE:
        yield Problem(
            f"tasks waited for a core in {state['cpu_pressure']:.0%} of the last ten seconds",
            "times hold waiting; cells become unstable",
            "end what else runs, or give fewer --threads",
        )
    if state["governor"] not in (None, "performance"):
        yield Problem(
            f"CPU governor {state['governor']}",
            "clocks follow the load, so that short repetitions run slower than long ones",
            "sudo cpupower frequency-set -g performance",
        )
    quota = identity["cpu_quota"]
    if quota is not None and quota < cores:
        yield Problem(
            f"a quota of {quota:g} cores on {cores} visible ones",
            "the control group is stopped for milliseconds once the quota is used up",
            f"--threads {max(1, int(quota))}, or raise the container's limit",
        )
    if state["available_gib"] < LEAST_AVAILABLE * identity["memory_gib"]:
        yield Problem(
            f"{state['available_gib']:g} of {identity['memory_gib']} GiB of memory available",
            "pages are reclaimed during repetitions; large batches run out of memory early",
            "end what holds it",
        )


def of_a_gpu(gpu: Row) -> Iterator[Problem]:
    """Other processes, power cap, persistence mode, clocks held down."""
    name = gpu.get("name") or "GPU"
    if gpu.get("processes"):
        yield Problem(
            f"{name}: {gpu['processes']} process{'es'[: 2 * (gpu['processes'] != 1)]} on it",
            "kernels of two processes take turns; every cell becomes unstable",
            "end them, or choose another with --device cuda:INDEX",
        )
    limit_w, default_w = gpu.get("power_limit_enforced_w"), gpu.get("power_limit_default_w")
    if limit_w and default_w and limit_w < default_w:
        yield Problem(
            f"{name}: power capped at {limit_w:g} of {default_w:g} W",
            "clocks fall under load; figures are not those of an uncapped card",
            f"sudo nvidia-smi -pl {default_w:g}, or state the cap beside the figures",
        )
    if gpu.get("persistence_mode") is False:
        yield Problem(
            f"{name}: no persistence mode",
            "the driver is loaded anew for each process: slow first calls, clocks that start low",
            "sudo nvidia-smi -pm 1",
        )
    held = [reason for reason in (gpu.get("clock_event_reasons") or "").split(",") if reason in HELD_DOWN]
    if held:
        yield Problem(
            f"{name}: clocks held down ({', '.join(held)})",
            "times drift as the card cools or heats",
            "let it cool, check the airflow and the power supply",
        )

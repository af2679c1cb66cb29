"""The machine's identity, which two comparable runs share, and its state, which may differ between them."""

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import time
from pathlib import Path

import psutil
import torch

from nanobench import source_code
from nanobench.probes import host, nvml
from nanobench.records import JsonObject
from nanobench.schema import PROTOCOL

GIB = 1 << 30
BUSY_S = 0.5
NODE = "NANOBENCH_NODE"
"""Environment variable with the name of this machine in its cluster; without it, the host name."""
BUSY_SHARE = 0.1
"""A process is listed if it uses at least this share of a core."""


def identity() -> JsonObject:
    """The properties of machine and software that comparable runs share; `hash` is the start of their SHA-256."""
    facts = {
        "protocol": PROTOCOL,
        **host_facts(),
        **gpu_facts(),
        **software(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    # Not part of the hash: the memory of a virtual machine may grow while it is used.
    return {**facts, "memory_gib": round(psutil.virtual_memory().total / GIB), "hash": digest}


def host_facts() -> JsonObject:
    """The part of the identity that is the machine without its GPUs."""
    return {
        "cpu": cpu_model(),
        "cores": len(cores()),
        "cpu_quota": cpu_quota(),
    }


def gpu_facts() -> JsonObject:
    """The part of the identity that is the GPUs. Initializes CUDA."""
    return {"gpus": gpus(), "gpu_facts": [gpu.identity() for gpu in gpus_by_nvml()]}


def software() -> JsonObject:
    """The part of the identity that is installed software; what code can change while it runs is not in it."""
    return {
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


class Machine:
    """What a record says of the machine that it was measured on.

    Made before the work, which may bind this process to fewer cores. The GPUs are read after it: its probes have to see the
    first use of CUDA.
    """

    def __init__(self) -> None:
        self.facts = {**host_facts(), **software()}

    def after(self, device: str) -> JsonObject:
        """The name of the machine, and its facts as far as work on a device depends on them."""
        used = gpu_facts() if device.startswith("cuda") and torch.cuda.is_available() else {}
        return {"node": os.environ.get(NODE) or socket.gethostname(), "facts": {**self.facts, **used}}


def state(load: "LoadSample | None" = None) -> JsonObject:
    """What may differ between runs: load, clocks, settings, other processes. Not part of the hash.

    `load` is a sample that was started earlier: other work then fills the half second that it takes.
    """
    load = load or LoadSample()
    governor = host.CPUS / "cpu0" / "cpufreq" / "scaling_governor"
    return {
        "hostname": socket.gethostname(),
        "load_1m": load.load_1m,
        "busy": load.busy_processes(),
        "cpu_pressure": load.cpu_pressure,
        "governor": governor.read_text().strip() if governor.exists() else None,
        "omp_threads": torch.get_num_threads(),
        "available_gib": round(psutil.virtual_memory().available / GIB, 1),
        "swap_used_gib": round(psutil.swap_memory().used / GIB, 1),
        "gpus": [{"name": name, **gpu.state()} for name, gpu in zip(gpus(), gpus_by_nvml(), strict=True)],
        "commit": source_code.git(Path.cwd(), "rev-parse", "HEAD"),
    }


def cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_quota() -> float | None:
    """The cgroup's CPU quota in cores; None without a quota."""
    file = host.throttling_file()
    if file is None:
        return None
    try:
        if (file.parent / "cpu.max").exists():
            quota, period = (file.parent / "cpu.max").read_text().split()
        else:
            quota, period = ((file.parent / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def cpu_pressure() -> float | None:
    """The share of the last ten seconds in which some task waited for a core (PSI); None if the kernel does not report it."""
    try:
        return float((host.PROC / "pressure" / "cpu").read_text().partition("avg10=")[2].split()[0]) / 100
    except (OSError, ValueError, IndexError):
        return None


class LoadSample:
    """A sample of the load by other processes: it starts with the constructor and ends with `busy_processes`."""

    def __init__(self) -> None:
        # Read before this process does any work, which would count as load too.
        self.load_1m, self.cpu_pressure = os.getloadavg()[0], cpu_pressure()
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        others = [process for process in psutil.process_iter(["name"]) if process.pid not in own]
        self.before_s = {process: seconds_of(process) for process in others}
        self.started_at = time.monotonic()

    def busy_processes(self) -> list[JsonObject]:
        """The five busiest other processes that used more than BUSY_SHARE of a core since the start, busiest first.

        Waits until the sample is half a second long.
        """
        time.sleep(max(0.0, self.started_at + BUSY_S - time.monotonic()))
        after_s = {process: seconds_of(process) for process in self.before_s}
        elapsed_s = time.monotonic() - self.started_at
        shares = {process: (after_s[process] - before_s) / elapsed_s for process, before_s in self.before_s.items()}
        found = [
            {"name": p.info["name"], "pid": p.pid, "cores": round(share, 2)}
            for p, share in shares.items()
            if share > BUSY_SHARE
        ]
        return sorted(found, key=lambda each: -each["cores"])[:5]


def seconds_of(process: psutil.Process) -> float:
    """CPU time of a process in seconds; 0 if it has ended or cannot be read."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def cpu_model() -> str:
    """The processor's name, as the kernel reports it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpus_by_nvml() -> list[nvml.Gpu]:
    """NVML handles of the devices that torch sees, in torch's order."""
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [nvml.Gpu(device.index, nvml.torch_uuid(device)) for device in devices]


def version_of(package: str) -> str | None:
    """An installed package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def matmul_flops_per_s(device: str, size: int = 1024, seconds: float = 0.2) -> float:
    """A rough rate of square float32 matmuls, in FLOP/s, used only to estimate the duration of a run."""
    x = torch.randn(size, size, device=device)
    # The first product initializes the library, which on CUDA takes longer than all others together.
    (x @ x)[0, 0].item()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (x @ x)[0, 0].item()
        done += 1
    return done * 2 * size**3 / (time.perf_counter() - start)

"""What this machine is: the identity that makes two runs comparable, and the devices that a sweep can name."""

import hashlib
import importlib.metadata
import json
import os
import platform
import time
from typing import Any

import psutil
import torch

from nanobench.schema import PROTOCOL

GIB = 1 << 30


def identity() -> dict[str, Any]:
    """What does not change between two runs on the same machine and software; `hash` names it in twelve digits."""
    facts = {
        "protocol": PROTOCOL,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB),
        "gpus": gpus(),
        "driver": nvidia_driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    return {**facts, "hash": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def nvidia_driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def version_of(package: str) -> str | None:
    """An installed package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def matmul_flops_per_s(device: str, size: int = 1024, seconds: float = 0.2) -> float:
    """A rough rate of square float32 matrix products, for the expected time that the card shows; never a result."""
    x = torch.randn(size, size, device=device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (x @ x)[0, 0].item()
        done += 1
    return done * 2 * size**3 / (time.perf_counter() - start)

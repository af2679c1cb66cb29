"""NVIDIA's own sensors and counters by NVML: what one GPU says of itself, and the probe that puts it beside repetitions.

Nothing here is slow to import: the process that samples at 10 Hz is `python -m nanobench.probes.nvml`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.probes.nvml_sampler import EVERY_S, SamplingProcess, append, take_samples
from nanobench.records import Readings, Repetition

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
IDLE = 0x1
"""The event reason that holds no clock down: nothing to do."""
REASONS = {
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bit of NVML's clock event reasons (throttle reasons, in older drivers) -> its name here."""


class Gpu:
    """One GPU by NVML. No method raises: what NVML does not tell is None, and `failures` says which calls failed and why."""

    def __init__(self, index: int = 0, uuid: str | bytes | None = None) -> None:
        """By its UUID, with or without `GPU-`; else by torch's index, of which CUDA_VISIBLE_DEVICES says what it means.

        torch numbers GPUs by speed unless CUDA_DEVICE_ORDER is PCI_BUS_ID: on a machine of unequal GPUs only a UUID is sure.
        """
        import pynvml

        self.nvml: Any = pynvml
        self.device = as_text(uuid) if uuid else str(index)
        """names this GPU to another process, see `named`"""
        self.failures: dict[str, list[str]] = {}
        """error -> names of the calls that it met"""
        self.own = {os.getpid()}
        self.earlier: set[int] | None = None
        self._call("nvmlInit")
        self.handle = None if self.failures else self._find(as_text(uuid) if uuid else visible(index))

    @classmethod
    def named(cls, device: str) -> "Gpu":
        """The GPU of an index or a UUID in text."""
        return cls(int(device)) if device.isdigit() else cls(uuid=device)

    def sample(self) -> dict[str, Any]:
        """The GPU as it is now: fields of schema.Readings that no counter is behind."""
        return {**self.readings(), "foreign_processes": self.foreign(self.pids())}

    def readings(self) -> dict[str, Any]:
        """The sensors: share (0 to 1), Hz, W, degrees Celsius, bytes, and the reasons why clocks are held down."""
        sm, memory = self.nvml.NVML_CLOCK_SM, self.nvml.NVML_CLOCK_MEM
        version = self.nvml.nvmlMemory_v2  # the first version counts what the driver reserves for itself as used
        return {
            "gpu_util": self._ask("nvmlDeviceGetUtilizationRates", take=lambda rates: rates.gpu / 100),
            "clock_sm_hz": self._ask("nvmlDeviceGetClockInfo", sm, take=from_mega),
            "clock_memory_hz": self._ask("nvmlDeviceGetClockInfo", memory, take=from_mega),
            "power_w": self._ask("nvmlDeviceGetPowerUsage", take=from_milli),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU, take=float),
            "gpu_memory_used_bytes": self._ask("nvmlDeviceGetMemoryInfo", version, take=lambda info: info.used),
            "clock_event_reasons": self._ask(
                "nvmlDeviceGetCurrentClocksEventReasons",
                older="nvmlDeviceGetCurrentClocksThrottleReasons",
                take=reason_names,
            ),
        }

    def counters(self) -> dict[str, Any]:
        """Counters since the driver was loaded: J, seconds of clocks held down, uncorrected memory errors."""
        nvml = self.nvml
        errors = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return {
            "energy_j": self._ask("nvmlDeviceGetTotalEnergyConsumption", take=from_milli),
            "power_violation_s": self._ask("nvmlDeviceGetViolationStatus", nvml.NVML_PERF_POLICY_POWER, take=violation_s),
            "thermal_violation_s": self._ask("nvmlDeviceGetViolationStatus", nvml.NVML_PERF_POLICY_THERMAL, take=violation_s),
            "ecc_errors": self._ask("nvmlDeviceGetTotalEccErrors", *errors),
        }

    def identity(self) -> dict[str, Any]:
        """What is the same in every run on this GPU, and on another one of its kind that is set up alike."""
        version = self.nvml.nvmlMemory_v2
        return {
            "name": self._ask("nvmlDeviceGetName", take=as_text),
            "memory_gib": self._ask("nvmlDeviceGetMemoryInfo", version, take=lambda info: round(info.total / GIB)),
            "power_limit_w": self._ask("nvmlDeviceGetPowerManagementLimit", take=from_milli),
            "mig": self._ask("nvmlDeviceGetMigMode", take=lambda modes: bool(modes[0])),
            "ecc": self._ask("nvmlDeviceGetEccMode", take=lambda modes: bool(modes[0])),
            "driver": None if self.handle is None else self._call("nvmlSystemGetDriverVersion", take=as_text),
        }

    def state(self) -> dict[str, Any]:
        """What may differ between two runs: the sensors, the power limits in W, P-state (0 is fastest), number of processes."""
        unknown = self.nvml.NVML_PSTATE_UNKNOWN
        pids = self.pids()
        return {
            **self.readings(),
            "persistence_mode": self._ask("nvmlDeviceGetPersistenceMode", take=bool),
            "power_limit_enforced_w": self._ask("nvmlDeviceGetEnforcedPowerLimit", take=from_milli),
            "power_limit_default_w": self._ask("nvmlDeviceGetPowerManagementDefaultLimit", take=from_milli),
            "power_limit_max_w": self._ask("nvmlDeviceGetPowerManagementLimitConstraints", take=lambda both: both[1] / 1e3),
            "performance_state": self._ask("nvmlDeviceGetPerformanceState", take=lambda p: None if p == unknown else p),
            "processes": None if pids is None else len(pids),
        }

    def pids(self) -> list[int] | None:
        """The processes on the GPU; inside a container their numbers may be those outside. None where NVML does not tell."""
        computing = self._ask("nvmlDeviceGetComputeRunningProcesses")
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        return None if computing is None else sorted({process.pid for process in [*computing, *(drawing or [])]})

    def note_before_context(self) -> None:
        """Call it before this process uses the GPU: who is there now is foreign."""
        found = self.pids()
        self.earlier = None if found is None else set(found)

    def note_own(self) -> None:
        """Call it once, right after this process first used the GPU: who came since is ours, who comes later is foreign."""
        if self.earlier is not None:
            self.own |= set(self.pids() or ()) - self.earlier

    def foreign(self, pids: Collection[int] | None) -> int | None:
        """How many of these processes are not ours; None where that can't be known."""
        if pids is None or (pids and self.earlier is None and os.getpid() not in pids):
            return None
        return len(set(pids) - self.own)

    def fail(self, name: str, error: str) -> None:
        """Remembers, once, why something is None."""
        names = self.failures.setdefault(" ".join(error.split()), [])
        if name not in names:
            names.append(name)

    def _find(self, device: str) -> Any:
        """NVML's handle for a number of NVML's own or a UUID."""
        if device.isdigit():
            return self._call("nvmlDeviceGetHandleByIndex", int(device))
        for kind in ("",) if device.startswith(("GPU-", "MIG-")) else ("GPU-", "MIG-"):
            handle = self._call("nvmlDeviceGetHandleByUUID", kind + device)
            if handle is not None:
                self.failures.clear()  # one kind not found is no failure where the other one is
                return handle
        return None

    def _ask(self, name: str, *args: Any, **how: Any) -> Any:
        """The answer of a call about this GPU, see `_call`."""
        return None if self.handle is None else self._call(name, self.handle, *args, **how)

    def _call(self, name: str, *args: Any, take: Callable[[Any], Any] = lambda answer: answer, older: str | None = None) -> Any:
        """What `take` makes of the answer; `older` is the call to make where driver or package lack the first one."""
        try:
            return take(getattr(self.nvml, name)(*args))
        except AttributeError:
            error = "Function Not Found"
        except self.nvml.NVMLError as raised:
            error = str(raised)
        if older and error == "Function Not Found":
            return self._call(older, *args, take=take)
        self.fail(name, error)
        return None


class NvmlProbe:
    """A GPU's counters over a repetition, its sensors at the end of it, and samples from a process of its own.

    Make it before the first use of CUDA, or our own process may count as a foreign one inside a container.
    """

    def __init__(self, device: "torch.device", folder: Path, uuid: str | None = None, every_s: float = EVERY_S) -> None:
        """Starts to sample into a file in `folder`, which `close` removes. Without a UUID torch is asked for it."""
        self.note: str | None = None
        self.gpu = Gpu(device.index or 0, uuid or torch_uuid(device))
        self.gpu.note_before_context()
        self.noted = False
        self.start: dict[str, Any] = {}
        self.sampling: SamplingProcess | None = None
        if self.gpu.handle is not None:
            self.sampling = SamplingProcess(self.gpu.device, folder / "gpu-samples.jsonl", every_s)
        self._explain()

    def ready(self) -> None:
        """See Probe.ready; the first `before` does it where nobody did."""
        self.gpu.note_own()
        self.noted = True

    def before(self) -> None:
        """See Probe.before."""
        if not self.noted:
            self.ready()
        self.start = self.gpu.counters()

    def after(self) -> dict[str, Any]:
        """See Probe.after. Utilization is left to the samples: NVML renews it too slowly for one repetition."""
        risen = {name: self._rise(name, value) for name, value in self.gpu.counters().items()}
        seen = self.gpu.sample()
        del seen["gpu_util"]
        self._explain()
        return {**seen, **risen}

    def close(self) -> list[Repetition]:
        """See Probe.close."""
        lines = self.sampling.close() if self.sampling else []
        for error, names in (lines[-1]["failures"] if lines else {}).items():
            for name in names:
                self.gpu.fail(name, error)
        self._explain()
        self.sampling = None
        return [self._sample(number, line) for number, line in enumerate(line for line in lines if "started_at" in line)]

    def _sample(self, number: int, line: dict[str, Any]) -> Repetition:
        """A line of the sampling process; which PIDs are foreign is known here only."""
        read = {field.name: line[field.name] for field in fields(Readings) if field.name in line}
        foreign = self.gpu.foreign(line["pids"])
        return Repetition(kind="sample", repetition=number, started_at=line["started_at"], foreign_processes=foreign, **read)

    def _rise(self, name: str, end: float | None) -> float | None:
        """How much a counter has risen since `before`; one that fell tells nothing."""
        start = self.start.get(name)
        if start is None or end is None:
            return None
        if end < start:
            self.gpu.fail(name, "the counter went backwards, as it wrapped or the driver was reset")
            return None
        return end - start

    def _explain(self) -> None:
        """Brings `note` up to date."""
        reasons = [f"{', '.join(names)}: {error}" for error, names in self.gpu.failures.items()]
        if self.sampling is not None:
            self.sampling.look()
            reasons += [self.sampling.trouble] if self.sampling.trouble else []
        self.note = "; ".join(reasons) or None


def reason_names(bits: int) -> str:
    """The names of event reasons, comma-separated; empty where nothing holds the clocks down."""
    rest = bits & ~sum(REASONS) & ~IDLE
    return ",".join([*(name for bit, name in REASONS.items() if bits & bit), *([f"unknown_{rest:#x}"] if rest else [])])


def violation_s(violation: Any) -> float:
    """Seconds of NVML's violation time."""
    return violation.violationTime / 1e9


def from_milli(value: int) -> float:
    """Base units of thousandths."""
    return value / 1e3


def from_mega(value: int) -> float:
    """Base units of millions."""
    return value * 1e6


def as_text(value: Any) -> str:
    """Text of bytes, which older versions of NVML's package give, or of anything else."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def visible(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES calls torch's device of this index: NVML's number or a UUID."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names[index] if index < len(names) else str(index)


def torch_uuid(device: "torch.device") -> str | None:
    """The UUID of torch's device; None where torch does not tell."""
    import torch

    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except (AssertionError, AttributeError, RuntimeError):
        return None


def call_latency_s(gpu: Gpu, calls: int = 100) -> float:
    """Median seconds of one `sample`: what the probe costs between repetitions, and the least a sampling period can be."""
    spent = []
    for _ in range(calls):
        start = time.perf_counter()
        gpu.sample()
        spent.append(time.perf_counter() - start)
    return sorted(spent)[calls // 2]


def main() -> int:
    """The sampling process: lines of JSON into a file until standard input closes. Status 1 where there is no such GPU."""
    parser = argparse.ArgumentParser(prog="python -m nanobench.probes.nvml", description="Samples a GPU, a line of JSON each.")
    parser.add_argument("device", help="index or UUID")
    parser.add_argument("out", type=Path, help="file to append to")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between samples")
    arguments = parser.parse_args()
    gpu = Gpu.named(arguments.device)
    if gpu.handle is None:
        append(arguments.out, {"failures": gpu.failures})
        return 1
    take_samples(lambda: {**gpu.readings(), "pids": gpu.pids(), "failures": gpu.failures}, arguments.out, arguments.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())

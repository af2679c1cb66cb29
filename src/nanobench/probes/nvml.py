"""Sensors and counters of an NVIDIA GPU from NVML, and the probe that adds them to repetitions.

This module imports no torch: the process that samples at 10 Hz is `python -m nanobench.probes.nvml`.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.probes.nvml_sampler import EVERY_S, SamplingProcess, append, take_samples
from nanobench.records import JsonObject, Readings, ReadingValues, Repetition

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
PIDS_EVERY = 10
"""Samples of which one lists the processes."""
IDLE = 0x1
"""The event reason `GPU idle`, which is no throttling."""
CLOCK_EVENT_REASONS = {
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
"""Bit of NVML's clock event reasons (throttle reasons in older drivers) -> name."""


class Gpu:
    """One GPU in NVML. No method raises: a value that NVML does not report is None, and `failures` has the failed calls."""

    def __init__(self, index: int = 0, uuid: str | bytes | None = None) -> None:
        """Found by its UUID, with or without `GPU-`; else by torch's index, which depends on CUDA_VISIBLE_DEVICES.

        torch orders GPUs by speed unless CUDA_DEVICE_ORDER is PCI_BUS_ID: with different GPUs only a UUID is reliable.
        """
        import pynvml

        self.nvml: Any = pynvml
        self.device = as_text(uuid) if uuid else str(index)
        """UUID or index, for `named` in another process"""
        self.failures: dict[str, list[str]] = {}
        """error -> names of the calls that failed with it"""
        self.own = {os.getpid()}
        self.earlier: set[int] | None = None
        self.has_instant_power = True
        self._call("nvmlInit")
        self.handle = None if self.failures else self._find(as_text(uuid) if uuid else visible(index))

    @classmethod
    def named(cls, device: str) -> "Gpu":
        """The GPU of an index or a UUID, as text."""
        return cls(int(device)) if device.isdigit() else cls(uuid=device)

    def sample(self) -> ReadingValues:
        """The current sensor values and the number of foreign processes: fields of records.Readings."""
        return {**self.readings(), "foreign_processes": self.foreign(self.pids())}

    def readings(self) -> ReadingValues:
        """The sensors: utilization (0 to 1), clocks in Hz, W, degrees Celsius, bytes, and the reasons for reduced clocks."""
        sm, memory = self.nvml.NVML_CLOCK_SM, self.nvml.NVML_CLOCK_MEM
        version = self.nvml.nvmlMemory_v2  # the first version counts what the driver reserves for itself as used
        return {
            "gpu_util": self._ask("nvmlDeviceGetUtilizationRates", parse=lambda rates: rates.gpu / 100),
            "clock_sm_hz": self._ask("nvmlDeviceGetClockInfo", sm, parse=from_mega),
            "clock_memory_hz": self._ask("nvmlDeviceGetClockInfo", memory, parse=from_mega),
            "power_w": self.power_w(),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU, parse=float),
            "gpu_memory_used_bytes": self._ask("nvmlDeviceGetMemoryInfo", version, parse=lambda info: info.used),
            "clock_event_reasons": self._ask(
                "nvmlDeviceGetCurrentClocksEventReasons",
                fallback="nvmlDeviceGetCurrentClocksThrottleReasons",
                parse=reason_names,
            ),
        }

    def power_w(self) -> float | None:
        """The power now. Where the driver has no such reading, NVML's own: on Hopper that is a mean over a second."""
        instant = self._instant_power_w() if self.has_instant_power else None
        self.has_instant_power = instant is not None
        return self._ask("nvmlDeviceGetPowerUsage", parse=from_milli) if instant is None else instant

    def _instant_power_w(self) -> float | None:
        """The field of the power now; None where driver or package do not have it."""
        field = getattr(self.nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is None or self.handle is None:
            return None
        try:
            (found,) = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field])
        except (AttributeError, self.nvml.NVMLError):
            return None
        return None if found.nvmlReturn else from_milli(found.value.uiVal)

    def counters(self) -> ReadingValues:
        """Counters since the driver was loaded: energy in J, seconds of reduced clocks, uncorrected memory errors."""
        nvml = self.nvml
        errors = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return {
            "energy_j": self._ask("nvmlDeviceGetTotalEnergyConsumption", parse=from_milli),
            "power_violation_s": self._ask("nvmlDeviceGetViolationStatus", nvml.NVML_PERF_POLICY_POWER, parse=violation_s),
            "thermal_violation_s": self._ask("nvmlDeviceGetViolationStatus", nvml.NVML_PERF_POLICY_THERMAL, parse=violation_s),
            "ecc_errors": self._ask("nvmlDeviceGetTotalEccErrors", *errors),
        }

    def identity(self) -> JsonObject:
        """The properties that two comparable runs must share: model and configuration of the GPU, not its serial number."""
        version = self.nvml.nvmlMemory_v2
        return {
            "name": self._ask("nvmlDeviceGetName", parse=as_text),
            "memory_gib": self._ask("nvmlDeviceGetMemoryInfo", version, parse=lambda info: round(info.total / GIB)),
            "power_limit_w": self._ask("nvmlDeviceGetPowerManagementLimit", parse=from_milli),
            "mig": self._ask("nvmlDeviceGetMigMode", parse=lambda modes: bool(modes[0])),
            "ecc": self._ask("nvmlDeviceGetEccMode", parse=lambda modes: bool(modes[0])),
            "driver": None if self.handle is None else self._call("nvmlSystemGetDriverVersion", parse=as_text),
        }

    def state(self) -> JsonObject:
        """What may differ between runs: sensors, power limits in W, P-state (0 is the fastest), number of processes."""
        unknown = self.nvml.NVML_PSTATE_UNKNOWN
        pids = self.pids()
        return {
            **self.readings(),
            "persistence_mode": self._ask("nvmlDeviceGetPersistenceMode", parse=bool),
            "power_limit_enforced_w": self._ask("nvmlDeviceGetEnforcedPowerLimit", parse=from_milli),
            "power_limit_default_w": self._ask("nvmlDeviceGetPowerManagementDefaultLimit", parse=from_milli),
            "power_limit_max_w": self._ask("nvmlDeviceGetPowerManagementLimitConstraints", parse=lambda both: both[1] / 1e3),
            "performance_state": self._ask("nvmlDeviceGetPerformanceState", parse=lambda p: None if p == unknown else p),
            "processes": None if pids is None else len(pids),
        }

    def pids(self) -> list[int] | None:
        """The PIDs of the processes on the GPU; in a container these may be host PIDs. None if NVML does not report them."""
        computing = self._ask("nvmlDeviceGetComputeRunningProcesses")
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        return None if computing is None else sorted({process.pid for process in [*computing, *(drawing or [])]})

    def note_before_context(self) -> None:
        """Call it before this process uses the GPU: all processes that are on it now are foreign."""
        found = self.pids()
        self.earlier = None if found is None else set(found)

    def note_own(self) -> None:
        """Call it once, right after this process first used the GPU: PIDs that are new now are ours, later ones are foreign."""
        if self.earlier is not None:
            self.own |= set(self.pids() or ()) - self.earlier

    def foreign(self, pids: Collection[int] | None) -> int | None:
        """How many of these processes are not ours; None if that cannot be determined."""
        if pids is None or (pids and self.earlier is None and os.getpid() not in pids):
            return None
        return len(set(pids) - self.own)

    def fail(self, name: str, error: str) -> None:
        """Records, once, why a value is None."""
        names = self.failures.setdefault(" ".join(error.split()), [])
        if name not in names:
            names.append(name)

    def _find(self, device: str) -> Any:
        """NVML's handle for an NVML index or a UUID."""
        if device.isdigit():
            return self._call("nvmlDeviceGetHandleByIndex", int(device))
        for kind in ("",) if device.startswith(("GPU-", "MIG-")) else ("GPU-", "MIG-"):
            handle = self._call("nvmlDeviceGetHandleByUUID", kind + device)
            if handle is not None:
                self.failures.clear()  # the other kind exists: not an error
                return handle
        return None

    def _ask(self, name: str, *args: Any, **how: Any) -> Any:
        """The result of a call about this GPU, see `_call`."""
        return None if self.handle is None else self._call(name, self.handle, *args, **how)

    def _call(
        self, name: str, *args: Any, parse: Callable[[Any], Any] = lambda answer: answer, fallback: str | None = None
    ) -> Any:
        """The parsed answer of an NVML call; `fallback` is called if driver or package do not have the call."""
        try:
            return parse(getattr(self.nvml, name)(*args))
        except AttributeError:
            error = "Function Not Found"
        except self.nvml.NVMLError as raised:
            error = str(raised)
        if fallback and error == "Function Not Found":
            return self._call(fallback, *args, parse=parse)
        self.fail(name, error)
        return None


class NvmlProbe:
    """A GPU's counters over a repetition, its sensors at the end of it, and samples from a separate process.

    Create it before the first use of CUDA: else, in a container, our own process may be counted as foreign.
    """

    def __init__(self, device: "torch.device", folder: Path, uuid: str | None = None, every_s: float = EVERY_S) -> None:
        """Starts to sample into a file in `folder`, which `close` removes. The default UUID is the one that torch reports."""
        self.note: str | None = None
        self.gpu = Gpu(device.index or 0, uuid or torch_uuid(device))
        self.gpu.note_before_context()
        self.noted = False
        self.start: ReadingValues = {}
        self.sampling: SamplingProcess | None = None
        if self.gpu.handle is not None:
            self.sampling = SamplingProcess(self.gpu.device, folder / "gpu-samples.jsonl", every_s)
        self._update_note()

    def ready(self) -> None:
        """See Probe.ready; the first `before` calls it if necessary."""
        self.gpu.note_own()
        self.noted = True

    def before(self) -> None:
        """See Probe.before."""
        if not self.noted:
            self.ready()
        self.start = self.gpu.counters()

    def after(self) -> ReadingValues:
        """See Probe.after. Without the utilization, which NVML updates too slowly for one repetition."""
        increases = {name: self._increase(name, value) for name, value in self.gpu.counters().items()}
        sample = self.gpu.sample()
        del sample["gpu_util"]
        self._update_note()
        return {**sample, **increases}

    def close(self) -> list[Repetition]:
        """See Probe.close."""
        lines = self.sampling.close() if self.sampling else []
        for error, names in (lines[-1]["failures"] if lines else {}).items():
            for name in names:
                self.gpu.fail(name, error)
        self._update_note()
        self.sampling = None
        return [self._sample(number, line) for number, line in enumerate(line for line in lines if "started_at" in line)]

    def _sample(self, number: int, line: JsonObject) -> Repetition:
        """The repetition of one line of the sampling process; only this process knows which PIDs are foreign."""
        readings = {field.name: line[field.name] for field in fields(Readings) if field.name in line}
        foreign = self.gpu.foreign(line.get("pids"))
        return Repetition(
            kind="sample", repetition=number, started_at=line["started_at"], foreign_processes=foreign, **readings
        )

    def _increase(self, name: str, end: float | None) -> float | None:
        """The increase of a counter since `before`; None if it decreased."""
        start = self.start.get(name)
        if start is None or end is None:
            return None
        if end < start:
            self.gpu.fail(name, "the counter decreased: it wrapped, or the driver was reset")
            return None
        return end - start

    def _update_note(self) -> None:
        """Updates `note`."""
        reasons = [f"{', '.join(names)}: {error}" for error, names in self.gpu.failures.items()]
        if self.sampling is not None:
            self.sampling.check_alive()
            reasons += [self.sampling.error] if self.sampling.error else []
        self.note = "; ".join(reasons) or None


def reason_names(bits: int) -> str:
    """The names of clock event reasons, comma-separated; empty if clocks are not reduced."""
    rest = bits & ~sum(CLOCK_EVENT_REASONS) & ~IDLE
    return ",".join(
        [*(name for bit, name in CLOCK_EVENT_REASONS.items() if bits & bit), *([f"unknown_{rest:#x}"] if rest else [])]
    )


def violation_s(violation: Any) -> float:
    """NVML's violation time, converted from ns to seconds."""
    return violation.violationTime / 1e9


def from_milli(value: int) -> float:
    """Converts milli-units to base units."""
    return value / 1e3


def from_mega(value: int) -> float:
    """Converts mega-units to base units."""
    return value * 1e6


def as_text(value: Any) -> str:
    """Text of bytes, which older versions of the package return, or of anything else."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def visible(index: int) -> str:
    """The entry of CUDA_VISIBLE_DEVICES for torch's device index: an NVML index or a UUID."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names[index] if index < len(names) else str(index)


def torch_uuid(device: "torch.device") -> str | None:
    """The UUID of torch's device; None if torch does not report it."""
    import torch

    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except (AssertionError, AttributeError, RuntimeError):
        return None


def main() -> int:
    """The sampling process: writes lines of JSON to a file until standard input closes. Exit status 1 without the GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m nanobench.probes.nvml", description="Samples a GPU: one line of JSON per sample."
    )
    parser.add_argument("device", help="index or UUID")
    parser.add_argument("out", type=Path, help="file to append to")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between samples")
    arguments = parser.parse_args()
    gpu = Gpu.named(arguments.device)
    if gpu.handle is None:
        append(arguments.out, {"failures": gpu.failures})
        return 1
    numbers = itertools.count()

    def read() -> JsonObject:
        # A list of processes takes some drivers milliseconds under a lock that CUDA needs too: once a second is enough.
        pids = {} if next(numbers) % PIDS_EVERY else {"pids": gpu.pids()}
        return {**gpu.readings(), **pids, "failures": gpu.failures}

    take_samples(read, arguments.out, arguments.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())

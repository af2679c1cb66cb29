"""What was seen, as frozen dataclasses: repetitions with readings, an outcome, a gate's verdict; the rows of the raw file."""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from nanobench.schema import Arm, Point, Trial


class Status(StrEnum):
    """What became of an arm, in order of precedence: the first that applies is the cell's status."""

    WRONG = "wrong"
    SKIPPED = "skipped"
    OOM = "oom"
    TIMEOUT = "timeout"
    ERROR = "error"
    UNSTABLE = "unstable"
    NO_STEADY_STATE = "no_steady_state"
    IMPRECISE = "imprecise"
    OK = "ok"


MEASURED = (Status.OK, Status.IMPRECISE, Status.NO_STEADY_STATE, Status.UNSTABLE)
"""Statuses of cells that have numbers."""
JUDGED = (Status.OK, Status.IMPRECISE)
"""Statuses of cells whose ratio may be called faster or slower; the other measured ones are kept and shown."""


class Verdict(StrEnum):
    """What the correctness gate says of an arm."""

    EXACT = "exact"
    ROUNDING = "rounding"
    WRONG = "wrong"


@dataclass(frozen=True)
class Gate:
    """The correctness verdict on one arm at one point, with the figures behind it."""

    verdict: Verdict
    note: str
    max_error: float | None = None
    tolerance: float | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the probes saw during a repetition, or at one moment (kind `sample`). None where the machine does not tell."""

    cpu_s: float | None = None
    """CPU time of the worker's main thread"""
    involuntary_switches: int | None = None
    """how often the kernel took the main thread off its core"""
    pressure_s: float | None = None
    """time in which some task of the machine waited for a core (PSI `some`)"""
    quota_throttled_periods: int | None = None
    """periods in which the cgroup's CPU quota stopped us"""
    steal_s: float | None = None
    """time that the hypervisor took, per core"""
    load_1m: float | None = None
    cpu_hz: float | None = None
    spin_s: float | None = None
    """duration of a fixed loop just before the repetition, about 5 ms; only in some repetitions"""
    rss_bytes: int | None = None
    gpu_util: float | None = None
    """NVML's: share of its last sampling period in which some kernel ran"""
    clock_sm_hz: float | None = None
    clock_memory_hz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    """from the GPU's energy counter"""
    temperature_c: float | None = None
    gpu_memory_used_bytes: int | None = None
    """of all processes on the GPU"""
    clock_event_reasons: str | None = None
    """why clocks are held down, comma-separated; empty where they are not"""
    power_violation_s: float | None = None
    thermal_violation_s: float | None = None
    foreign_processes: int | None = None
    """processes on the GPU that are not ours"""
    ecc_errors: int | None = None
    """new uncorrected memory errors"""


@dataclass(frozen=True, kw_only=True)
class Repetition(Readings):
    """One timed stretch of work: `calls` generate calls or optimizer steps back to back. Times in seconds since its start."""

    kind: str
    """import, load, build, first_call, gate, warmup, steady, sustained (untimed work for the GPU's slow counters) or sample"""
    repetition: int = 0
    block: int | None = None
    """steady: in each block every arm runs once; the arms' repetitions of one block are a pair"""
    calls: int = 1
    timestamped: bool = False
    started_at: float | None = None
    """Unix time"""
    wall_s: float | None = None
    device_s: float | None = None
    enqueue_s: float | None = None
    token_times_s: tuple[float, ...] | None = None
    """when each token of all rows was ready, calls x new_tokens values; or each training step, calls values"""
    tokens: int = 0
    """generated; or trained on, padding included, over all ranks"""
    useful_tokens: int | None = None
    """training: those that carry loss"""
    attended_positions: int | None = None
    """training: positions that all tokens look at together, padding and masked ones included"""
    useful_attended_positions: int | None = None
    """the same of those that a causal mask leaves to tokens that carry loss"""
    loss: float | None = None
    """training: of the last step"""
    valid: bool = True
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one arm in one launch: one row of kind `outcome` beside its repetitions."""

    status: Status
    reason: str | None = None
    gate: Verdict | None = None
    gate_note: str | None = None
    gate_max_error: float | None = None
    gate_tolerance: float | None = None
    digest: str | None = None
    timestamp_cost_s: float | None = None
    cache_alloc_s: float | None = None
    kv_cache_bytes: int | None = None
    weight_bytes: int | None = None
    packed_bytes: int | None = None
    """of weights held a second time, laid out for the CPU's kernels"""
    peak_memory_bytes: int | None = None
    prefill_peak_bytes: int | None = None
    decode_peak_bytes: int | None = None
    kv_cache_expected_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_bytes: int | None = None
    activation_bytes: int | None = None
    """the allocator's peak in a forward pass"""
    rss_peak_bytes: int | None = None
    probe_note: str | None = None
    """why readings are missing"""
    kv_access: str | None = None
    """how the engine walks through a point: one of `costs.PATHS`; None for one that does not say"""
    operations_prefill: float | None = None
    """what the host dispatches one by one, counted by the profiler in an untimed call"""
    operations_per_step: float | None = None
    kernels_per_step: float | None = None
    """what the device runs; on a CPU the same"""
    graph_launches_per_step: float | None = None
    """captured CUDA graphs that are replayed"""
    gpu_busy_fraction: float | None = None
    """share of a profiled step in which the GPU ran a kernel"""
    alloc_retries: int | None = None
    """how often CUDA's allocator had to free its cache to go on, since the warm-up"""
    graph_bytes: int | None = None
    """memory that the engine's own CUDA graph holds"""
    compiled_graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """All that one worker says of one arm."""

    arm: Arm
    repetitions: tuple[Repetition, ...] = ()
    outcome: Outcome

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ArmRecord":
        """The record whose `asdict` this is."""
        repetitions = tuple(Repetition(**repetition) for repetition in data["repetitions"])
        return cls(arm=Arm(**data["arm"]), repetitions=repetitions, outcome=Outcome(**data["outcome"]))


def raw_rows(trial: Trial, process: int, record: ArmRecord) -> list[dict[str, Any]]:
    """The rows of the raw file: the trial, the point and the arm beside each repetition, and one more row for the outcome."""
    head = {
        "trial": trial.key,
        "protocol": trial.protocol,
        "identity": trial.identity,
        "launch": trial.launch,
        "process": process,
        "seed": trial.seed,
        "target_ci": trial.target_ci,
        **asdict(trial.point),
        "arm_index": trial.arms.index(record.arm),
        **asdict(record.arm),
    }
    seen = [asdict(repetition) for repetition in record.repetitions]
    outcome = {"kind": "outcome", **asdict(record.outcome)}
    return [{**dict.fromkeys(RAW_COLUMNS), **head, **row} for row in [*seen, outcome]]


HEAD_COLUMNS = {
    "trial": str,
    "protocol": int,
    "identity": str,
    "launch": int,
    "process": int,
    "seed": int,
    "target_ci": float,
    "arm_index": int,
}


def _columns() -> dict[str, Any]:
    readings = {field.name: field.type for config_class in (Point, Arm, Repetition, Outcome) for field in fields(config_class)}
    return {**HEAD_COLUMNS, **readings}


RAW_COLUMNS: dict[str, Any] = _columns()
"""Column -> its Python type; the same for every raw file."""

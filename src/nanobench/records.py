"""Measured data as frozen dataclasses: repetitions with readings, outcomes, gate verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from nanobench.schema import Arm, GPTShape, Point, Trial
from nanobench.source_code import Source
from nanobench.stats.divergence import Divergence
from nanobench.stats.drafts import DraftCounts, DraftFacts

JsonObject = dict[str, Any]
"""A JSON document, as it crosses the border of a process or a file."""


class Status(StrEnum):
    """The status of an arm, in order of precedence: the first that applies is the cell's status."""

    WRONG = "wrong"
    SKIPPED = "skipped"
    OOM = "oom"
    TIMEOUT = "timeout"
    ERROR = "error"
    IMPLAUSIBLE = "implausible"
    UNSTABLE = "unstable"
    NO_STEADY_STATE = "no_steady_state"
    IMPRECISE = "imprecise"
    OK = "ok"


MEASURED = (Status.OK, Status.IMPRECISE, Status.NO_STEADY_STATE, Status.UNSTABLE, Status.IMPLAUSIBLE)
"""Statuses of cells that have numbers."""
JUDGED = (Status.OK, Status.IMPRECISE)
"""Statuses of cells that enter conclusions; the other measured cells are only shown. `compare` has one exception."""


class Verdict(StrEnum):
    """The verdict of the correctness gate on an arm."""

    EXACT = "exact"
    ROUNDING = "rounding"
    LOSSY = "lossy"
    """right for an approximation of the model, whose divergence from it was measured"""
    SYNTHETIC = "synthetic"
    """its work is right, but tokens of its output are not the model's: they are accepted by chance"""
    WRONG = "wrong"


@dataclass(frozen=True)
class Gate:
    """The correctness verdict on one arm at one point, with its error and tolerance."""

    verdict: Verdict
    note: str
    max_error: float | None = None
    tolerance: float | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Readings:
    """The probes' readings of a repetition, or of one moment (kind `sample`). None if the machine does not report a reading."""

    cpu_s: float | None = None
    """CPU time of the worker's main thread"""
    involuntary_switches: int | None = None
    """involuntary context switches of the main thread"""
    pressure_s: float | None = None
    """time during which some task of the machine waited for a core (PSI `some`)"""
    quota_throttled_periods: int | None = None
    """periods in which the cgroup's CPU quota throttled the worker"""
    steal_s: float | None = None
    """steal time (taken by the hypervisor), per core"""
    load_1m: float | None = None
    cpu_hz: float | None = None
    spin_s: float | None = None
    """duration of a fixed loop just before the repetition, about 5 ms; only for some repetitions"""
    rss_bytes: int | None = None
    gpu_util: float | None = None
    """NVML's utilization: share of its last sampling period during which a kernel ran"""
    clock_sm_hz: float | None = None
    clock_memory_hz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    """from the GPU's energy counter"""
    temperature_c: float | None = None
    gpu_memory_used_bytes: int | None = None
    """of all processes on the GPU"""
    clock_event_reasons: str | None = None
    """reasons for reduced clocks, comma-separated; empty if they are not reduced"""
    power_violation_s: float | None = None
    thermal_violation_s: float | None = None
    foreign_processes: int | None = None
    """processes on the GPU that do not belong to the worker"""
    ecc_errors: int | None = None
    """new uncorrected memory errors"""


ReadingValues = dict[str, Any]
"""Fields of Readings -> what a probe saw of them."""


@dataclass(frozen=True, kw_only=True)
class Repetition(DraftCounts, Readings):
    """A timed piece of work: `calls` generate calls or optimizer steps back to back. Times are in seconds from its start."""

    kind: str
    """import, load, build, first_call, gate, warmup, steady, first_token (calls of one token, of an engine that only generates
    whole outputs), sustained (untimed work for the GPU's slow counters) or sample
    """
    repetition: int = 0
    block: int | None = None
    """steady: in each block every arm runs once; the repetitions of two arms in one block are a pair"""
    calls: int = 1
    timestamped: bool = False
    prompt_seed: int | None = None
    """generation: seed of the prompts, drawn just before the block; None outside of blocks, where the gate's prompt is read"""
    started_at: float | None = None
    """Unix time"""
    wall_s: float | None = None
    process_cpu_s: float | None = None
    """CPU time of all threads of the worker between start and end; None on CUDA"""
    device_s: float | None = None
    enqueue_s: float | None = None
    token_times_s: tuple[float, ...] | None = None
    """when each token (of all rows) was ready, calls x new_tokens values; or each training step, calls values"""
    tokens: int = 0
    """generated tokens; or training tokens including padding, over all ranks"""
    useful_tokens: int | None = None
    """training: tokens that contribute to the loss"""
    attended_positions: int | None = None
    """training: sum over all tokens of attended positions, including padding and masked ones"""
    useful_attended_positions: int | None = None
    """the same over useful tokens, without causally masked positions"""
    loss: float | None = None
    """training: loss of the last step"""
    weights_moved: bool | None = None
    """training: whether the repetition changed any weight; None where that was not looked at"""
    valid: bool = True
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome(Divergence, DraftFacts):
    """The outcome of one arm in one launch: one row of kind `outcome` next to its repetitions."""

    status: Status
    reason: str | None = None
    gate: Verdict | None = None
    gate_note: str | None = None
    gate_max_error: float | None = None
    gate_tolerance: float | None = None
    digest: str | None = None
    across: Verdict | None = None
    """A/B comparison: whether the model computes what the one of the first side does, with the same weights"""
    across_note: str | None = None
    timestamp_cost_s: float | None = None
    cache_alloc_s: float | None = None
    kv_cache_bytes: int | None = None
    weight_bytes: int | None = None
    packed_bytes: int | None = None
    """second copies of weights, in the packed layout of the CPU's kernels"""
    peak_memory_bytes: int | None = None
    prefill_peak_bytes: int | None = None
    decode_peak_bytes: int | None = None
    kv_cache_expected_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_bytes: int | None = None
    activation_bytes: int | None = None
    """the allocator's peak in a forward pass"""
    data_s: float | None = None
    """training: seconds that the batches of one step took to be made and copied to the device"""
    rss_peak_bytes: int | None = None
    probe_note: str | None = None
    """why readings are missing"""
    kv_access: str | None = None
    """how the engine reads keys and values: a key of roofline.flops.KV_ACCESS; None for an engine without this attribute"""
    operations_prefill: float | None = None
    """operations dispatched by the host, counted by the profiler in an untimed call"""
    operations_per_step: float | None = None
    kernels_per_step: float | None = None
    """kernels run by the device; on a CPU equal to the operations"""
    graph_launches_per_step: float | None = None
    """replays of captured CUDA graphs"""
    gpu_busy_fraction: float | None = None
    """share of a profiled step during which the GPU ran a kernel"""
    alloc_retries: int | None = None
    """how often CUDA's allocator had to free its cache and retry, since the warm-up"""
    graph_bytes: int | None = None
    """memory of the engine's own CUDA graphs"""
    steps_per_call: int | None = None
    """decode steps of one call: fewer than its tokens where a step writes several"""
    checked_calls: int | None = None
    """timed calls (or optimizer steps) whose outputs were checked after the launch; None where none were"""
    check_note: str | None = None
    """what the check of outputs found, or why there was none"""
    check_s: float | None = None
    """seconds that the check of outputs took with its process, for all arms of the launch together"""
    compiled_graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Outcome":
        """The outcome whose fields a document or a raw row has, among other keys."""
        known = {each.name: data[each.name] for each in fields(cls) if data.get(each.name) is not None}
        known |= {name: Verdict(known[name]) for name in ("gate", "across") if name in known}
        return cls(**{**known, "status": Status(known["status"])})


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """Everything that one worker reports about one arm."""

    arm: Arm
    repetitions: tuple[Repetition, ...] = ()
    outcome: Outcome

    @classmethod
    def from_json(cls, data: JsonObject) -> "ArmRecord":
        """The record of a dictionary made by `asdict`."""
        repetitions = tuple(Repetition(**repetition) for repetition in data["repetitions"])
        return cls(arm=Arm(**data["arm"]), repetitions=repetitions, outcome=Outcome.from_json(data["outcome"]))


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """All that one launch of one arm at one point left behind: what raw files hold."""

    trial: str
    """key of the trial"""
    protocol: int
    identity: str | None
    launch: int
    process: int
    """which of the trial's worker processes ran the arm; arms of one process took turns"""
    seed: int
    target_ci: float
    point: Point
    arm_index: int
    """place of the arm in the sweep's list; 0 is the reference"""
    arm: Arm
    repetitions: tuple[Repetition, ...] = ()
    outcome: Outcome
    extra: bool = False
    """beyond the planned launches"""
    node: str | None = None
    """name of the machine that measured it"""
    set_aside: bool = False
    """disturbed, and replaced by an extra launch: its timed repetitions are left out; see `results/set_aside.py`"""

    @classmethod
    def of(cls, trial: Trial, process: int, record: ArmRecord, node: str | None = None) -> "LaunchRecord":
        """What a worker on a node says of an arm, with the facts of the trial that it ran."""
        shared = ("protocol", "identity", "launch", "seed", "target_ci", "point", "extra")
        return cls(
            trial=trial.key,
            process=process,
            node=node,
            arm_index=trial.arms.index(record.arm),
            **{name: getattr(trial, name) for name in shared},
            **vars(record),
        )

    @property
    def finished(self) -> bool:
        """Whether the arm ran to its end, so that its repetitions count."""
        return self.outcome.status == Status.OK

    def of_kind(self, kind: str) -> list[Repetition]:
        """The repetitions of one kind."""
        return [each for each in self.repetitions if each.kind == kind]


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """What a tokenizer makes of a text."""

    tokens: int
    largest: int
    """largest token"""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a worker says of the machine and the models before a plan is made."""

    device: str
    gpus: list[str]
    """names, as torch numbers them"""
    identity: JsonObject
    """what figures of two machines must have in common to be compared; `hash` stands for all of it"""
    state: JsonObject = field(default_factory=dict)
    """what changes from day to day"""
    available_bytes: int | None = None
    matmul_flops_per_s: float | None = None
    """of a brief multiplication, for estimates of time; None for a device that is not there"""
    models: dict[str, GPTShape] = field(default_factory=dict)
    texts: dict[str, TextTokens] = field(default_factory=dict)
    """tokenizer and path, with a space between -> its tokens"""
    code: dict[str, Source] = field(default_factory=dict)
    """`nanobench`, and the module of each plug-in -> its source; empty in runs up to protocol 4"""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Description":
        """The description whose `asdict` this is, among other keys."""
        known = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        models = {name: GPTShape(**shape) for name, shape in data.get("models", {}).items()}
        texts = {name: TextTokens(**tokens) for name, tokens in data.get("texts", {}).items()}
        code = {name: Source(**source) for name, source in data.get("code", {}).items()}
        return cls(**{"gpus": [], **known, "models": models, "texts": texts, "code": code})

"""Columns of every cell."""

import math

import numpy as np

from nanobench.records import Repetition
from nanobench.results import status
from nanobench.results.cell import Cell
from nanobench.results.gpu_clock import clocks_hz
from nanobench.results.metrics import formulas, ratios
from nanobench.results.metrics.formulas import largest_reading, median_reading, phase_s, sampled, total_reading
from nanobench.results.metrics.metric import (
    BYTES,
    CELSIUS,
    COUNT,
    FLAG,
    HERTZ,
    HIGHER,
    JOULES,
    LOGIT,
    LOWER,
    NEITHER,
    RATIO,
    SECONDS,
    TEXT,
    WATTS,
    Metric,
    interval,
    outcome_first,
    outcome_max,
)
from nanobench.results.repetitions import call_s, seconds
from nanobench.stats import intervals
from nanobench.stats.intervals import Interval

PARTS = 2
"""Parts of a step with drafts that have a timestamp."""


def median_clock_hz(cell: Cell) -> float | None:
    """Of a GPU's SMs, over the timed repetitions."""
    return intervals.median(clocks_hz(cell))


def timestamp_overhead(cell: Cell) -> Interval | None:
    """On the host timestamps times their cost, without bounds; on CUDA the log times of a launch's timestamped calls over those
    of its others, with launches as the unit.
    """
    cost_s, timestamped = cell.first("timestamp_cost_s"), [each for each in cell.steady if each.timestamped]
    if cost_s is not None:
        total_s = sum(map(seconds, timestamped))
        taken = sum(len(each.token_times_s or ()) + PARTS * (each.target_passes or 0) for each in timestamped)
        return Interval(cost_s * taken / total_s, None, None, "") if total_s else None
    logs = [logs for logs in map(timestamped_over_others, cell.steady_by_launch.values()) if logs]
    if not logs:
        return None
    ratio = intervals.ratio(logs)
    low, high = (None if bound is None else bound - 1 for bound in (ratio.low, ratio.high))
    return Interval(ratio.value - 1, low, high, ratio.basis)


def timestamped_over_others(repetitions: list[Repetition]) -> list[float]:
    """Log of each timestamped call's time over the other calls' geometric mean, in one launch; empty without both."""
    logs = {kind: [math.log(call_s(each)) for each in repetitions if each.timestamped is kind] for kind in (True, False)}
    return [log - float(np.mean(logs[False])) for log in logs[True]] if logs[False] else []


def held_bytes(cell: Cell) -> int | None:
    """What stays allocated between calls or steps, by the sizes of its tensors; None where one of them is not known."""
    trains = cell.point.trains
    parts = ("weight_bytes", "gradient_bytes", "optimizer_bytes") if trains else ("weight_bytes", "kv_cache_expected_bytes")
    sizes = [cell.largest(name) for name in parts]
    return None if None in sizes else sum(sizes) + (cell.largest("packed_bytes") or 0)


RESULT = (
    Metric(
        "status",
        TEXT,
        NEITHER,
        "of the absolute figures: ok, imprecise, unstable, ..., or why it was not measured",
        lambda c: str(status.judge(c).status),
    ),
    Metric("reason", TEXT, NEITHER, "why the status is not ok", lambda c: status.judge(c).reason),
    Metric("disturbed_by", TEXT, NEITHER, "kinds of what made the status unstable, comma-separated", status.disturbed_by),
    *outcome_first(TEXT, NEITHER, gate="exact, rounding, lossy, synthetic or wrong", gate_note="what the gate compared"),
    *outcome_first(
        LOGIT,
        NEITHER,
        gate_max_error="largest difference to the reference's logits; in training of the gradients, relative",
        gate_tolerance="4 x the uncached path's own error; in training fixed, in narrow dtypes at least 4 x the plain loop's",
    ),
    Metric("launches_ok", COUNT, NEITHER, "launches that finished", lambda c: sum(each.finished for each in c.launches)),
    Metric("launches_failed", COUNT, NEITHER, "launches that failed", lambda c: sum(not each.finished for each in c.launches)),
    Metric(
        "launches_extra", COUNT, NEITHER, "launches beyond the planned ones", lambda c: sum(each.extra for each in c.launches)
    ),
    Metric(
        "launches_set_aside",
        COUNT,
        NEITHER,
        "disturbed launches that extra ones replace: their times do not count",
        lambda c: sum(each.set_aside for each in c.launches),
    ),
    Metric("failures", TEXT, NEITHER, "reasons of the launches that failed", formulas.failures),
    Metric("repetitions", COUNT, NEITHER, "valid timed repetitions over all launches", lambda c: len(c.steady)),
    Metric("pairs", COUNT, NEITHER, "pairs behind the speedup, over all launches", lambda c: sum(map(len, c.speedup_logs))),
    Metric("invalid_repetitions", COUNT, LOWER, "timed repetitions that do not count", lambda c: len(c.invalid)),
    Metric("invalid_reasons", TEXT, NEITHER, "recorded causes of the invalid repetitions", status.invalid_reasons),
    Metric("unsteady_launches", COUNT, LOWER, "launches of 30 repetitions or more that never settled", lambda c: c.unsteady),
    Metric(
        "identity",
        TEXT,
        NEITHER,
        "hash of machine, software, model, threads; of code",
        lambda c: c.any_launch.identity,
    ),
    Metric("protocol", COUNT, NEITHER, "version of the way of measuring", lambda c: c.any_launch.protocol),
    Metric(
        "window",
        COUNT,
        NEITHER,
        "positions that a token attends to at most, in layers with a window; null for a model without",
        lambda c: c.shape.window if c.shape else None,
    ),
)
MEMORY = (
    *outcome_max(
        BYTES,
        LOWER,
        peak_memory_bytes="weights, packed too, + cache or optimizer + graphs + allocator's peak; null with inductor's graphs",
        rss_peak_bytes="the worker's largest resident size, all its arms",
    ),
    *outcome_max(BYTES, NEITHER, weight_bytes="all parameters and buffers"),
    Metric(
        "held_bytes",
        BYTES,
        NEITHER,
        "what is held, in closed form: weights, packed too, + kv_cache_expected_bytes; in training + gradients + optimizer",
        held_bytes,
    ),
    Metric("rss_bytes", BYTES, LOWER, "the worker's resident size, median after its repetitions", median_reading("rss_bytes")),
    Metric(
        "gpu_memory_used_bytes",
        BYTES,
        LOWER,
        "NVML's figure for all processes, largest seen",
        largest_reading("gpu_memory_used_bytes"),
    ),
)
PHASES = (
    Metric(
        "import_s",
        SECONDS,
        LOWER,
        "from the interpreter's start to all imports; shared by a fork server's children",
        phase_s("import"),
    ),
    Metric("load_s", SECONDS, LOWER, "building the model and moving it to its device", phase_s("load")),
    Metric(
        "first_call_s",
        SECONDS,
        LOWER,
        "first call at the measured shape: compiles, fills the allocator",
        phase_s("first_call"),
    ),
    Metric("gate_s", SECONDS, NEITHER, "passing the correctness gate, where it was run", phase_s("gate")),
    Metric("warmup_s", SECONDS, NEITHER, "calls before the timed ones, per launch", phase_s("warmup")),
    Metric("steady_s", SECONDS, NEITHER, "timed repetitions, per launch", phase_s("steady")),
    Metric(
        "compile_s",
        SECONDS,
        LOWER,
        "first call - median timed call, first launch (cold compiler cache); cuda-graph: + build - build of the uncompiled arm",
        lambda c: formulas.compile_s(c, cold=True),
    ),
    Metric(
        "compile_warm_s",
        SECONDS,
        LOWER,
        "as compile_s, in later launches (warm compiler cache)",
        lambda c: formulas.compile_s(c, cold=False),
    ),
    *outcome_max(COUNT, NEITHER, compiled_graphs="graphs that the first call compiled"),
    *outcome_max(
        COUNT,
        LOWER,
        recompiles="functions compiled again for another shape",
        graph_breaks="places where dynamo left the graph",
    ),
)
CONDITIONS = (
    *interval(
        "timestamp_overhead",
        RATIO,
        LOWER,
        timestamp_overhead,
        "cost of a timestamp per token, as a share of the repetition; null where it cannot be known",
        "CUDA only, 95 % t interval over launches",
    ),
    Metric(
        "relative_iqr",
        RATIO,
        LOWER,
        "interquartile range / median of the seconds per call of the repetitions",
        lambda c: intervals.relative_iqr([call_s(each) for each in c.untimestamped]),
    ),
    Metric(
        "on_cpu_fraction",
        RATIO,
        HIGHER,
        "CPU time of the main thread / wall time of the repetitions; CPU cells only",
        status.on_cpu_fraction,
    ),
    Metric(
        "involuntary_switches", COUNT, LOWER, "how often the main thread lost its core", total_reading("involuntary_switches")
    ),
    Metric(
        "pressure_fraction",
        RATIO,
        LOWER,
        "share of the time in which some task waited for a core (PSI)",
        lambda c: c.per_second("pressure_s"),
    ),
    Metric("steal_fraction", RATIO, LOWER, "share of a core's time that the hypervisor took", status.steal_fraction),
    Metric(
        "throttled_fraction",
        RATIO,
        LOWER,
        "share of repetitions held down by a CPU quota or by a GPU's heat or power",
        status.throttled_fraction,
    ),
    Metric("spin_drift", RATIO, LOWER, "largest change of a fixed loop's time within a launch", status.spin_drift),
    Metric("load_1m", RATIO, NEITHER, "load average, median over the repetitions", median_reading("load_1m")),
    Metric("cpu_hz", HERTZ, NEITHER, "CPU clock, median, where the kernel reports it", median_reading("cpu_hz")),
    Metric(
        "gpu_util",
        RATIO,
        NEITHER,
        "NVML's: share of time with some kernel running, mean over the sustained phase; null below 3 s",
        sampled("gpu_util"),
    ),
    Metric("clock_sm_hz", HERTZ, NEITHER, "SM clock during repetitions (at the ends of short ones), median", median_clock_hz),
    Metric("clock_memory_hz", HERTZ, NEITHER, "memory clock, median over the repetitions", median_reading("clock_memory_hz")),
    Metric("power_w", WATTS, LOWER, "mean over the sustained phase", sampled("power_w")),
    Metric(
        "energy_j",
        JOULES,
        LOWER,
        "NVML's energy counter over the sustained phase, per call or step",
        formulas.energy_per("calls"),
    ),
    Metric(
        "energy_j_per_token",
        JOULES,
        LOWER,
        "NVML's energy counter over the sustained phase, per token of all rows, generated or trained on",
        formulas.energy_per("tokens"),
    ),
    Metric(
        "energy_valid",
        FLAG,
        NEITHER,
        "whether the sustained phase was long enough for the energy counter",
        formulas.energy_valid,
    ),
    Metric("temperature_c", CELSIUS, LOWER, "largest temperature seen", largest_reading("temperature_c")),
    Metric("clock_event_reasons", TEXT, NEITHER, "NVML's reasons for low clocks that were seen", formulas.clock_event_reasons),
    Metric(
        "power_violation_s",
        SECONDS,
        LOWER,
        "time below the requested clocks because of power, over the repetitions",
        total_reading("power_violation_s"),
    ),
    Metric(
        "thermal_violation_s",
        SECONDS,
        LOWER,
        "time below the requested clocks because of heat, over the repetitions",
        total_reading("thermal_violation_s"),
    ),
    Metric(
        "foreign_processes",
        COUNT,
        LOWER,
        "other processes on the GPU, most seen",
        largest_reading("foreign_processes"),
    ),
    Metric("ecc_errors", COUNT, LOWER, "uncorrected memory errors during the repetitions", total_reading("ecc_errors")),
    *outcome_first(TEXT, NEITHER, probe_note="why readings are missing"),
)
METRICS = (*RESULT, *ratios.METRICS, *MEMORY, *PHASES, *CONDITIONS)

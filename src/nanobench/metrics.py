"""The one list of columns, and how each follows from the raw rows of a cell.

Storage is in SI base units with the unit as the tail of the name; ratios are fractions; what cannot be known is None.
Raw rows go in, cells come out, on writing and on loading alike: an old file gains a new metric by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanobench import attribution, formulas, stability, stats
from nanobench.cells import ARM_FIELDS, POINT_FIELDS, Cell, Row, make_cells
from nanobench.machine import Machine
from nanobench.record import MEASURED, Status
from nanobench.schema import Arm


@dataclass(frozen=True)
class Metric:
    """A column of cells.parquet."""

    name: str
    unit: str
    """s, B, Hz, W, J, tok/s, ratio, count, tokens, logit, flag or text"""
    title: str
    """how tables and axes call it"""
    better: str
    """higher, lower or empty"""
    formula: str
    compute: Callable[[Cell], Any]


METRICS = (
    Metric("status", "text", "status", "", "ok, imprecise, or why it was not measured", lambda c: str(stability.judge(c)[0])),
    Metric("reason", "text", "reason", "", "behind the status", lambda c: stability.judge(c)[1]),
    Metric("gate", "text", "gate", "", "exact, rounding or wrong", lambda c: c.first("gate")),
    Metric("gate_note", "text", "gate note", "", "what the gate compared", lambda c: c.first("gate_note")),
    Metric(
        "gate_max_error",
        "logit",
        "gate error",
        "",
        "largest difference to the reference's logits",
        lambda c: c.first("gate_max_error"),
    ),
    Metric(
        "gate_tolerance",
        "logit",
        "gate tolerance",
        "",
        "4 x the uncached path's own error",
        lambda c: c.first("gate_tolerance"),
    ),
    Metric(
        "launches_ok",
        "count",
        "launches",
        "",
        "launches that finished",
        lambda c: sum(r["status"] == Status.OK for r in c.outcomes),
    ),
    Metric(
        "launches_failed",
        "count",
        "failed",
        "",
        "launches that did not",
        lambda c: sum(r["status"] != Status.OK for r in c.outcomes),
    ),
    Metric("failures", "text", "failures", "", "their reasons", formulas.failures),
    Metric("repetitions", "count", "repetitions", "", "valid timed repetitions over all launches", lambda c: len(c.steady)),
    Metric(
        "pairs", "count", "pairs", "", "pairs behind the speedup, over all launches", lambda c: sum(map(len, c.speedup_logs))
    ),
    Metric("invalid_repetitions", "count", "invalid", "lower", "timed repetitions that do not count", lambda c: len(c.invalid)),
    Metric("invalid_reasons", "text", "invalid because", "", "their recorded causes", stability.invalid_reasons),
    Metric(
        "unsteady_launches",
        "count",
        "unsteady",
        "lower",
        "launches of 30 repetitions or more that never settled",
        lambda c: c.unsteady,
    ),
    Metric("identity", "text", "identity", "", "hash of machine, software, model and threads", lambda c: c.rows[0]["identity"]),
    Metric("protocol", "count", "protocol", "", "version of the way of measuring", lambda c: c.rows[0]["protocol"]),
    Metric(
        "output_tok_s",
        "tok/s",
        "output",
        "higher",
        "batch_size * new_tokens / e2e_s, summed over plain repetitions",
        formulas.output_tok_s,
    ),
    Metric(
        "output_tok_s_lo",
        "tok/s",
        "output low",
        "",
        "lower bound, 95 % t interval over the launches' log rates",
        formulas.rate_bound("low"),
    ),
    Metric("output_tok_s_hi", "tok/s", "output high", "", "upper bound", formulas.rate_bound("high")),
    Metric(
        "ttft_s",
        "s",
        "TTFT",
        "lower",
        "start -> first token of all rows; median over calls",
        formulas.per_call(lambda c: c.ttft_s),
    ),
    Metric("tpot_s", "s", "TPOT", "lower", "(e2e_s - ttft_s) / (new_tokens - 1); median over calls", formulas.tpot_s),
    Metric(
        "e2e_s",
        "s",
        "end to end",
        "lower",
        "start -> last token of all rows; median over calls",
        formulas.per_call(lambda c: c.e2e_s),
    ),
    Metric(
        "e2e_lo_s",
        "s",
        "end to end low",
        "",
        "lower bound of the median, distribution-free 95 % interval",
        formulas.of_call("low"),
    ),
    Metric("e2e_hi_s", "s", "end to end high", "", "upper bound", formulas.of_call("high")),
    Metric(
        "itl_p50_s",
        "s",
        "ITL p50",
        "lower",
        "median gap between tokens; null below 6 independent gaps",
        formulas.gap_quantile(0.5, "value"),
    ),
    Metric(
        "itl_p50_lo_s",
        "s",
        "ITL p50 low",
        "",
        "lower bound, distribution-free 95 % interval",
        formulas.gap_quantile(0.5, "low"),
    ),
    Metric("itl_p50_hi_s", "s", "ITL p50 high", "", "upper bound", formulas.gap_quantile(0.5, "high")),
    Metric(
        "itl_p90_s",
        "s",
        "ITL p90",
        "lower",
        "90th percentile; null below 36 independent gaps",
        formulas.gap_quantile(0.9, "value"),
    ),
    Metric("itl_p90_lo_s", "s", "ITL p90 low", "", "lower bound", formulas.gap_quantile(0.9, "low")),
    Metric("itl_p90_hi_s", "s", "ITL p90 high", "", "upper bound", formulas.gap_quantile(0.9, "high")),
    Metric(
        "itl_p99_s",
        "s",
        "ITL p99",
        "lower",
        "99th percentile; null below 368 independent gaps",
        formulas.gap_quantile(0.99, "value"),
    ),
    Metric("itl_p99_lo_s", "s", "ITL p99 low", "", "lower bound", formulas.gap_quantile(0.99, "low")),
    Metric("itl_p99_hi_s", "s", "ITL p99 high", "", "upper bound", formulas.gap_quantile(0.99, "high")),
    Metric(
        "itl_positions",
        "text",
        "ITL positions",
        "",
        "new tokens that the percentiles cover: all, or the last quarter where gaps grow",
        lambda c: c.gaps[2],
    ),
    Metric(
        "speedup",
        "ratio",
        "speedup",
        "higher",
        "exp(mean log(t_reference / t_arm)) over interleaved pairs",
        formulas.bound("speedup", "value"),
    ),
    Metric(
        "speedup_lo",
        "ratio",
        "speedup low",
        "",
        "lower bound, 95 % t interval over launch means",
        formulas.bound("speedup", "low"),
    ),
    Metric("speedup_hi", "ratio", "speedup high", "", "upper bound", formulas.bound("speedup", "high")),
    Metric(
        "speedup_basis", "text", "interval over", "", "launches, or pairs of one process", formulas.bound("speedup", "basis")
    ),
    Metric("pairing", "text", "pairing", "", "block: interleaved in one process; launch: run apart", formulas.pairing),
    Metric(
        "speedup_p",
        "ratio",
        "p",
        "",
        "p value of speedup = 1, by the same t statistic",
        lambda c: stats.p_value(c.speedup_logs) if c.speedup_logs else None,
    ),
    Metric("speedup_p_holm", "ratio", "p (Holm)", "", "the same, corrected by Holm for all ratios of the run", lambda c: None),
    Metric(
        "speedup_trimmed",
        "ratio",
        "trimmed speedup",
        "",
        "exp of the mean over launches of 20 % trimmed means",
        lambda c: stats.trimmed_ratio(c.speedup_logs) if c.speedup_logs else None,
    ),
    Metric(
        "sd_within", "ratio", "sd within", "lower", "sd of a pair's log ratio within a launch", formulas.component("within")
    ),
    Metric(
        "sd_between",
        "ratio",
        "sd between",
        "lower",
        "sd of log ratios between launches, without the part within",
        formulas.component("between"),
    ),
    Metric(
        "advice",
        "text",
        "advice",
        "",
        "what would narrow the interval: more launches or more repetitions",
        formulas.component("advice"),
    ),
    Metric(
        "null_ratio",
        "ratio",
        "null",
        "",
        "the reference against itself, its repetitions taken as ABBA; unstable where it is not 1 (p < 0.01)",
        formulas.bound("null", "value"),
    ),
    Metric("null_lo", "ratio", "null low", "", "lower bound", formulas.bound("null", "low")),
    Metric("null_hi", "ratio", "null high", "", "upper bound", formulas.bound("null", "high")),
    Metric(
        "decode_speedup",
        "ratio",
        "decode speedup",
        "higher",
        "the same for decode time alone",
        formulas.bound("decode_speedup", "value"),
    ),
    Metric("decode_speedup_lo", "ratio", "decode speedup low", "", "lower bound", formulas.bound("decode_speedup", "low")),
    Metric("decode_speedup_hi", "ratio", "decode speedup high", "", "upper bound", formulas.bound("decode_speedup", "high")),
    Metric(
        "decode_tok_s",
        "tok/s",
        "decode",
        "higher",
        "batch_size * (new_tokens - 1) / (e2e_s - ttft_s)",
        formulas.tokens_per_s(lambda row: row["batch_size"] * (row["new_tokens"] - 1), lambda call: call.decode_s),
    ),
    Metric(
        "decode_tok_s_per_row",
        "tok/s",
        "decode per row",
        "higher",
        "decode_tok_s / batch_size",
        formulas.tokens_per_s(lambda row: row["new_tokens"] - 1, lambda call: call.decode_s),
    ),
    Metric(
        "prefill_tok_s",
        "tok/s",
        "prefill",
        "higher",
        "batch_size * prompt_len / ttft_s",
        formulas.tokens_per_s(lambda row: row["batch_size"] * row["prompt_len"], lambda call: call.ttft_s),
    ),
    Metric(
        "peak_memory_bytes",
        "B",
        "peak memory",
        "lower",
        "weights, packed too, + cache + allocator's peak in one call",
        lambda c: c.most("peak_memory_bytes"),
    ),
    Metric(
        "prefill_peak_bytes",
        "B",
        "prefill peak",
        "lower",
        "the same in the prefill alone",
        lambda c: c.most("prefill_peak_bytes"),
    ),
    Metric(
        "decode_peak_bytes",
        "B",
        "decode peak",
        "lower",
        "the same in the last, longest step",
        lambda c: c.most("decode_peak_bytes"),
    ),
    Metric(
        "graph_bytes", "B", "graph memory", "lower", "reserved by the engine's own CUDA graph", lambda c: c.most("graph_bytes")
    ),
    Metric("kv_cache_bytes", "B", "KV cache", "lower", "bytes of the cache's tensors", lambda c: c.most("kv_cache_bytes")),
    Metric(
        "kv_cache_expected_bytes",
        "B",
        "KV cache expected",
        "",
        "2 * layers * kv heads * head width * itemsize * rows * positions",
        lambda c: c.most("kv_cache_expected_bytes"),
    ),
    Metric("weight_bytes", "B", "weights", "", "bytes of all parameters and buffers", lambda c: c.most("weight_bytes")),
    Metric(
        "packed_bytes",
        "B",
        "packed weights",
        "lower",
        "bytes of weights held a second time, as the CPU's kernels read them",
        lambda c: c.most("packed_bytes"),
    ),
    Metric(
        "rss_peak_bytes",
        "B",
        "worker RSS",
        "lower",
        "the worker's largest resident size, all its arms",
        lambda c: c.most("rss_peak_bytes"),
    ),
    Metric(
        "rss_bytes",
        "B",
        "RSS",
        "lower",
        "the worker's resident size, median after its repetitions",
        formulas.middle("rss_bytes"),
    ),
    Metric(
        "gpu_memory_used_bytes",
        "B",
        "GPU memory",
        "lower",
        "NVML's figure for all processes, largest seen",
        formulas.largest("gpu_memory_used_bytes"),
    ),
    Metric(
        "cache_alloc_s",
        "s",
        "cache allocation",
        "lower",
        "building the engine, cache included",
        lambda c: stats.median([r["cache_alloc_s"] for r in c.outcomes if r["cache_alloc_s"] is not None]),
    ),
    Metric(
        "import_s",
        "s",
        "import",
        "lower",
        "from the interpreter's start to all imports; shared by a fork server's children",
        formulas.phase_s("import"),
    ),
    Metric("load_s", "s", "load", "lower", "building the model and moving it", formulas.phase_s("load")),
    Metric(
        "first_call_s",
        "s",
        "first call",
        "lower",
        "first call at the measured shape: compiles, fills the allocator",
        formulas.phase_s("first_call"),
    ),
    Metric("gate_s", "s", "gate", "", "passing the correctness gate, where it was run", formulas.phase_s("gate")),
    Metric("warmup_s", "s", "warm-up", "", "calls before the timed ones, per launch", formulas.phase_s("warmup")),
    Metric("steady_s", "s", "steady", "", "timed repetitions, per launch", formulas.phase_s("steady")),
    Metric(
        "mark_tax",
        "ratio",
        "mark tax",
        "lower",
        "price of a mark per token, as a share of the repetition; null where it cannot be known",
        formulas.mark_tax("value"),
    ),
    Metric("mark_tax_lo", "ratio", "mark tax low", "", "lower bound, CUDA only", formulas.mark_tax("low")),
    Metric("mark_tax_hi", "ratio", "mark tax high", "", "upper bound, CUDA only", formulas.mark_tax("high")),
    Metric(
        "noise",
        "ratio",
        "noise",
        "lower",
        "interquartile range / median of the repetitions",
        lambda c: stats.relative_iqr([r["wall_s"] / r["calls"] for r in c.plain]),
    ),
    Metric(
        "on_cpu_fraction",
        "ratio",
        "on CPU",
        "higher",
        "CPU time of the main thread / wall time of the repetitions; CPU cells only",
        stability.on_cpu_fraction,
    ),
    Metric(
        "involuntary_switches",
        "count",
        "involuntary switches",
        "lower",
        "how often the main thread lost its core",
        formulas.total("involuntary_switches"),
    ),
    Metric(
        "pressure_fraction",
        "ratio",
        "pressure",
        "lower",
        "share of the time in which some task waited for a core (PSI)",
        lambda c: c.per_second("pressure_s"),
    ),
    Metric(
        "steal_fraction", "ratio", "steal", "lower", "share of a core's time that the hypervisor took", stability.steal_fraction
    ),
    Metric(
        "throttled_fraction",
        "ratio",
        "throttled",
        "lower",
        "share of repetitions held down by a quota or by heat or power",
        stability.throttled,
    ),
    Metric(
        "spin_drift",
        "ratio",
        "spin drift",
        "lower",
        "largest change of a fixed loop's time within a launch",
        stability.spin_drift,
    ),
    Metric("load_1m", "ratio", "load", "", "load average, median", formulas.middle("load_1m")),
    Metric("cpu_hz", "Hz", "CPU clock", "", "median, where the kernel tells", formulas.middle("cpu_hz")),
    Metric(
        "gpu_util",
        "ratio",
        "GPU utilization",
        "",
        "NVML's: share of time with some kernel running, mean over the sustained phase; null below 3 s",
        formulas.sampled("gpu_util"),
    ),
    Metric("clock_sm_hz", "Hz", "SM clock", "", "median over the repetitions", formulas.middle("clock_sm_hz")),
    Metric("clock_memory_hz", "Hz", "memory clock", "", "median over the repetitions", formulas.middle("clock_memory_hz")),
    Metric("power_w", "W", "power", "lower", "mean over the sustained phase", formulas.sampled("power_w")),
    Metric("energy_j", "J", "energy", "lower", "NVML's energy counter over the sustained phase, per call", formulas.energy_j),
    Metric(
        "energy_j_per_token",
        "J",
        "energy per token",
        "lower",
        "the same per generated token of all rows",
        formulas.energy_j_per_token,
    ),
    Metric(
        "energy_valid",
        "flag",
        "energy valid",
        "",
        "whether the sustained phase was long enough for the counter",
        formulas.energy_valid,
    ),
    Metric("temperature_c", "C", "temperature", "lower", "largest seen", formulas.largest("temperature_c")),
    Metric("throttle", "text", "throttle", "", "reasons for low clocks that were seen", formulas.reasons_seen),
    Metric(
        "power_violation_s",
        "s",
        "power violation",
        "lower",
        "time below the asked clocks for power, over the repetitions",
        formulas.total("power_violation_s"),
    ),
    Metric(
        "thermal_violation_s", "s", "thermal violation", "lower", "the same for heat", formulas.total("thermal_violation_s")
    ),
    Metric(
        "foreign_processes",
        "count",
        "foreign processes",
        "lower",
        "processes on the GPU that are not ours, most seen",
        formulas.largest("foreign_processes"),
    ),
    Metric(
        "ecc_errors",
        "count",
        "ECC errors",
        "lower",
        "uncorrected memory errors during the repetitions",
        formulas.total("ecc_errors"),
    ),
    Metric(
        "operations_per_step",
        "ratio",
        "operations per step",
        "lower",
        "what the host dispatches for a step, by an untimed profiler pass",
        lambda c: c.first("operations_per_step"),
    ),
    Metric(
        "kernels_per_step",
        "ratio",
        "kernels per step",
        "lower",
        "what the device runs for a step; on a CPU the operations",
        lambda c: c.first("kernels_per_step"),
    ),
    Metric(
        "graph_launches_per_step",
        "ratio",
        "CUDA graphs per step",
        "",
        "captured graphs replayed in a step",
        lambda c: c.first("graph_launches_per_step"),
    ),
    Metric(
        "device_busy",
        "ratio",
        "device busy",
        "higher",
        "share of a profiled step in which the GPU ran a kernel",
        lambda c: c.first("device_busy"),
    ),
    Metric(
        "alloc_retries",
        "count",
        "allocator retries",
        "lower",
        "how often CUDA's allocator freed its cache to go on",
        lambda c: c.most("alloc_retries"),
    ),
    Metric(
        "host_floor_s",
        "s",
        "host floor",
        "lower",
        "operations_per_step * calibrated time of one",
        attribution.host_floor_s,
    ),
    Metric(
        "predicted_ttft_s",
        "s",
        "predicted TTFT",
        "",
        "roofline of the prefill over calibrated limits",
        attribution.predicted_ttft_s,
    ),
    Metric(
        "predicted_tpot_s",
        "s",
        "predicted TPOT",
        "",
        "the same per step, over the growing lengths",
        attribution.predicted_tpot_s,
    ),
    Metric("predicted_e2e_s", "s", "predicted end to end", "", "both together", attribution.predicted_e2e_s),
    Metric(
        "prediction_error",
        "ratio",
        "prediction error",
        "",
        "tpot_s / predicted_tpot_s - 1; of e2e_s for a single token",
        attribution.prediction_error,
    ),
    Metric(
        "predicted_speedup",
        "ratio",
        "predicted speedup",
        "",
        "predicted e2e of the reference over this arm's",
        attribution.predicted_speedup,
    ),
    Metric(
        "naive_speedup",
        "ratio",
        "naive speedup",
        "",
        "tokens processed by the reference over those by this arm, as in operation counts",
        attribution.naive_speedup,
    ),
    Metric(
        "bound_by",
        "text",
        "bound by",
        "",
        "largest part of the predicted step: host, bandwidth, compute; allocator, or unexplained beyond 30 %",
        attribution.bound_by,
    ),
    Metric(
        "mfu", "ratio", "MFU", "higher", "useful FLOPs / e2e_s / datasheet peak; null where that is unknown", attribution.mfu
    ),
    Metric("hfu", "ratio", "HFU", "", "executed FLOPs / e2e_s / datasheet peak", attribution.hfu),
    Metric(
        "mbu",
        "ratio",
        "MBU",
        "higher",
        "(weights read + cache read) / tpot_s / datasheet bandwidth",
        attribution.mbu,
    ),
    Metric("probe_note", "text", "probe note", "", "why readings are missing", lambda c: c.first("probe_note")),
    Metric(
        "compile_s",
        "s",
        "compile, cold",
        "lower",
        "first call - median call, round 1",
        lambda c: formulas.compile_s(c, cold=True),
    ),
    Metric(
        "compile_warm_s", "s", "compile, warm", "lower", "the same in later rounds", lambda c: formulas.compile_s(c, cold=False)
    ),
    Metric("graphs", "count", "graphs", "", "graphs that the first call compiled", lambda c: c.most("graphs")),
    Metric(
        "recompiles",
        "count",
        "recompiles",
        "lower",
        "functions compiled again for another shape",
        lambda c: c.most("recompiles"),
    ),
    Metric(
        "graph_breaks", "count", "graph breaks", "lower", "places where dynamo left the graph", lambda c: c.most("graph_breaks")
    ),
    Metric(
        "breakeven_tokens",
        "tokens",
        "break-even tokens",
        "lower",
        "tokens until the cold compile time is paid back",
        formulas.breakeven_tokens,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
KNOWN_OF_FAILED = {"status", "reason", "gate", "gate_note", "gate_max_error", "gate_tolerance"}
KNOWN_OF_FAILED |= {"failures", "launches_ok", "launches_failed", "repetitions", "identity", "protocol", "probe_note"}
"""What may be said of a cell that was not measured."""


def derive(rows: list[Row], machine: Machine | None = None) -> list[Row]:
    """The cells of a run's raw rows, in the order of point and arm; what rests on a calibration is null without one."""
    return corrected(in_order([row_of(cell) for cell in make_cells(rows, machine)]))


def in_order(cells: list[Row]) -> list[Row]:
    """Sorted by point and arm."""
    return sorted(cells, key=lambda cell: tuple(cell[name] for name in (*POINT_FIELDS, "arm_index")))


def corrected(cells: list[Row]) -> list[Row]:
    """The same cells, their p values corrected for one another (Holm 1979)."""
    asked = [cell for cell in cells if cell["speedup_p"] is not None]
    adjusted = stats.holm([cell["speedup_p"] for cell in asked])
    for cell, p_value in zip(asked, adjusted, strict=True):
        cell["speedup_p_holm"] = p_value
    return cells


def row_of(cell: Cell) -> Row:
    """A cell as a row of cells.parquet: its point, its arm and every metric. Unmeasured cells keep only words."""
    head = {name: cell.rows[0][name] for name in (*POINT_FIELDS, *ARM_FIELDS)}
    label = Arm(**{name: head[name] for name in ARM_FIELDS}).label
    known = {metric.name: metric.compute(cell) for metric in METRICS}
    if known["status"] not in MEASURED:
        known = {name: value if name in KNOWN_OF_FAILED else None for name, value in known.items()}
    return {**head, "arm": label, "arm_index": cell.rows[0]["arm_index"], **known}


def timed_share(rows: list[Row], wall_s: float) -> float:
    """The share of a sweep's wall time that was spent in timed repetitions and warm-up, first calls included."""
    return sum(row["wall_s"] for row in rows if row["kind"] in ("first_call", "warmup", "steady")) / wall_s

"""Generates docs/columns.md from the metric tables: `python docs/make_columns_page.py > docs/columns.md`."""

from collections.abc import Iterable

from nanobench.results.metrics import checks, common, generation, ratios, roofline, training
from nanobench.results.metrics.metric import Metric
from nanobench.results.raw_rows import RAW_COLUMNS

SECTIONS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("Result and gate", common.RESULT),
    ("Check of outputs", checks.METRICS),
    ("Ratios", ratios.METRICS),
    ("Generation", generation.METRICS),
    ("Training", training.METRICS),
    ("Why: predictions and utilization", roofline.METRICS),
    ("Memory", common.MEMORY),
    ("Phases and compilation", common.PHASES),
    ("Conditions while measuring", common.CONDITIONS),
)
HEAD = """# Columns

Storage is in SI base units with the unit at the tail of the name. Ratios are fractions. What cannot be known is null.
The tables in [`results/metrics/`](../src/nanobench/results/metrics) own name, unit and formula. Cells are derived from the raw
files on every load, so an old run gains a new column. Raw files of earlier protocols are read under today's names.
`python docs/make_columns_page.py > docs/columns.md` generates this page.

## cells.parquet: one row per point and arm

The point: `model`, `dtype`, `device`, `threads`, `batch_size`, `data`, `tokenizer` (in generation empty for random prompts); in
generation `prompt_len`, `new_tokens`, `shared_prompt`; in training `seq_len`, `phase`, `optimizer`, `grad_accum`,
`world_size`. The arm: `compile_mode`, `attention`; in generation `engine`, `sampler`, `weights`, `kv_cache`; in training
`checkpointing`, `cross_entropy`, `param_dtype`, `optimizer_kernel`; its name `arm` and its place `arm_index`
(0 is the reference); `side` of an A/B comparison.
The fields of the other workload are 0, empty or at their defaults. Its columns are null.
"""
RAW_HEAD = """
## raw/*.parquet: one file per launch of a point

Raw files hold what was observed. Every row carries `trial` (the resume key), `identity` (hash of machine, software, model and
threads, and of the source code), `protocol`, `launch`, `process`, `seed`, `target_ci`, `extra` (beyond the
planned launches), `node` (the name of the machine that measured it), the point, `arm_index` and the arm.

| column | what |
|---|---|"""
RAW = {
    ("kind",): "`import` and `load` (of the process), `build`, `first_call`, `gate`, `warmup`, `steady` (timed), "
    "`first_token` (calls of one token of a black box), `sustained` "
    "(untimed work for a GPU's slow counters), `sample` (the GPU's sensors at 10 Hz), or `outcome` (one row per arm)",
    ("repetition", "block"): "number within the arm; in each block every arm ran once: the repetitions of one block are a pair",
    ("calls",): "generate calls, or optimizer steps, in this repetition, back to back",
    ("timestamped",): "whether a time was taken at every token",
    ("started_at",): "Unix time",
    ("wall_s",): "host time: device idle, start, work, device idle",
    ("device_s", "enqueue_s"): "CUDA: between events around the work; host time before the wait",
    (
        "token_times_s",
    ): "when each token of all rows was ready, from the start of the repetition: `calls` x `new_tokens` values; "
    "in training when each step was done",
    ("tokens",): "tokens generated: `calls` x `batch_size` x `new_tokens`; in training all tokens of all ranks, with padding",
    (
        "useful_tokens",
        "attended_positions",
        "useful_attended_positions",
    ): "training: tokens that carry loss; positions that all "
    "tokens attend to together, masked ones included; those that a causal mask leaves to tokens that carry loss",
    ("loss",): "training: of the repetition's last step",
    ("prompt_seed",): "seed of the prompts of a timed repetition, drawn just before its block; the arms of a block share it",
    ("weights_moved",): "training: whether a timed repetition changed any weight",
    ("process_cpu_s",): "CPU time of all threads of the worker from start to end; null on CUDA",
    ("steps_per_call", "checked_calls", "check_note", "check_s"): "outcome: decode steps of a call; timed calls whose outputs "
    "were checked after the launch, what was found, and the seconds that it took for all arms",
    (
        "valid",
        "reason",
    ): "false, with the recorded cause, where a repetition does not count; in an `outcome`, why the arm failed",
    ("across", "across_note"): "outcome of an A/B comparison: whether the model of NEW computes what that of BASE does, with "
    "the same weights",
    ("status", "gate", "gate_note", "gate_max_error", "gate_tolerance", "digest"): "outcome: verdicts, and a digest of the "
    "generated tokens, or of the first loss",
    ("cpu_s", "involuntary_switches"): "of the worker's main thread during the repetition",
    ("pressure_s", "steal_s", "quota_throttled_periods"): "time in which some task waited for a core (PSI), time per core that "
    "the hypervisor took, periods stopped by a CPU quota",
    ("load_1m", "cpu_hz", "rss_bytes"): "levels after the repetition",
    ("spin_s",): "a loop of fixed length, about 5 ms, just before the repetition; at most every 0.1 s",
    (
        "gpu_util",
        "clock_sm_hz",
        "clock_memory_hz",
        "power_w",
        "temperature_c",
        "gpu_memory_used_bytes",
        "clock_event_reasons",
        "foreign_processes",
    ): "NVML's sensors, after the repetition or in a `sample`",
    ("energy_j", "power_violation_s", "thermal_violation_s", "ecc_errors"): "NVML's counters: their rise over the repetition",
    (
        "timestamp_cost_s",
        "cache_alloc_s",
        "kv_cache_bytes",
        "weight_bytes",
        "packed_bytes",
        "peak_memory_bytes",
        "prefill_peak_bytes",
        "decode_peak_bytes",
        "kv_cache_expected_bytes",
        "graph_bytes",
        "rss_peak_bytes",
        "probe_note",
    ): "outcome: readings of the worker, and why readings are missing",
    (
        "gradient_bytes",
        "optimizer_bytes",
        "activation_bytes",
    ): "outcome of training: memory besides the weights; activations are the allocator's peak in a batch's forward pass",
    ("data_s",): "outcome of training: time to make the batches of one step and to copy them to the device",
    ("kv_access",): "outcome: how the engine reads its cache (`uncached`, `uncached-full-logits`, `prefix`: the filled part, "
    "`buckets`: the filled part rounded up, `static`: the whole cache, `cat`, `shared-prompt` and "
    "`shared-prompt-static`: a prompt that is read once); null for an engine that does not say: its time is not predicted",
    (
        "operations_prefill",
        "operations_per_step",
        "kernels_per_step",
        "graph_launches_per_step",
        "gpu_busy_fraction",
        "alloc_retries",
    ): "outcome of the first launch: what the profiler counted in an untimed call, and retries of CUDA's allocator",
    ("kl_nats", "kl_max_nats", "top1_agreement", "matching_tokens", "bits_per_byte", "float_bits_per_byte"): "outcome of a "
    "lossy arm, of the launch whose gate ran: its distance from the float model",
    ("target_passes", "drafted_by_position", "accepted_by_position", "kept_by_position"): "of an engine that drafts tokens: "
    "passes of the model after the prefills; and in how many passes the first drafted token, the second, ... was drafted, "
    "accepted (mean over rows, each row on its own), and accepted by all rows",
    ("draft_s",): "seconds in which tokens were drafted; null in repetitions without timestamps",
    ("synthetic", "drafting"): "outcome: why some tokens of the output are not the model's, as with synthetic acceptance; how "
    "the engine drafts: draft length, the sizes of a draft model and the synthetic acceptance, as JSON",
    ("compiled_graphs", "recompiles", "graph_breaks"): "outcome: dynamo's counts; null for an eager arm",
}


def table(metrics: Iterable[Metric]) -> list[str]:
    """A table of metrics: one row each."""
    rows = [f"| `{each.name}` | {each.unit} | {each.better} | {each.formula} |" for each in metrics]
    return ["| column | unit | better | what |", "|---|---|---|---|", *rows]


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, metrics in SECTIONS:
        lines += [f"### {title}", "", *table(metrics), ""]
    lines += [
        RAW_HEAD.strip("\n"),
        *(f"| {', '.join(f'`{name}`' for name in names)} | {what} |" for names, what in RAW.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    known = {name for names in RAW for name in names}
    assert known <= set(RAW_COLUMNS)
    print(page())

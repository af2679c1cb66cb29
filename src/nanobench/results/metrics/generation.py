"""Columns of cells that generate; null in those that train."""

from collections.abc import Callable

import numpy as np

from nanobench.results import speedup_status
from nanobench.results.cell import Cell
from nanobench.results.metrics import divergence, speculation
from nanobench.results.metrics.formulas import compile_s, over_launches, rate, value_of
from nanobench.results.metrics.metric import (
    ALLOWED,
    BYTES,
    HIGHER,
    LOWER,
    NEITHER,
    ORDER_STATISTICS,
    RATIO,
    SECONDS,
    TEXT,
    TOKENS,
    TOKENS_PER_S,
    Metric,
    interval,
    outcome_max,
)
from nanobench.schema import Point
from nanobench.stats import intervals
from nanobench.stats.intervals import Interval

output_tok_s = over_launches(rate("tokens"))


def ttft_s(cell: Cell) -> float | None:
    """Median over calls."""
    return intervals.median(cell.ttft_s)


def tpot_s(cell: Cell) -> float | None:
    """Median over calls; None below two tokens."""
    steps = cell.point.new_tokens - 1
    return None if steps < 1 else intervals.median([call.decode_s / steps for call in cell.calls])


def e2e_s(cell: Cell) -> Interval | None:
    """Median over calls; calls of one launch are taken as related."""
    median_s = intervals.median(cell.e2e_s)
    launches = [launch for launch, found in cell.e2e_by_launch.items() for _ in found]
    bounds = intervals.quantile(cell.e2e_s, launches, 0.5) if launches else None
    if median_s is None:
        return None
    return Interval(median_s, bounds.low if bounds else None, bounds.high if bounds else None, "launches")


def gap_quantile(share: float) -> Callable[[Cell], Interval | None]:
    """A percentile of the gaps between tokens; gaps of one launch are taken as related, those of one call where there is one
    launch. The bounds are not known where too few are unrelated.
    """

    def compute(cell: Cell) -> Interval | None:
        gaps, calls, _ = cell.gaps
        if len(gaps) < intervals.min_count(share):
            return None
        launch_of = [launch for launch, found in cell.calls_by_launch.items() for _ in found]
        of_launches = len(set(launch_of)) > 1
        clusters = [launch_of[call] for call in calls] if of_launches else calls
        bounds = intervals.quantile(gaps.tolist(), clusters, share)
        value = float(np.quantile(np.sort(gaps), share))
        low, high = (bounds.low, bounds.high) if bounds else (None, None)
        return Interval(value, low, high, "launches" if of_launches else "calls")

    return compute


def decode_s(cell: Cell) -> list[float]:
    """From the first token to the last, of each timestamped call."""
    return [call.decode_s for call in cell.calls]


def tokens_per_s(tokens: Callable[[Point], int], times_s: Callable[[Cell], list[float]]) -> Callable[[Cell], float | None]:
    """The tokens of all calls over all their seconds."""

    def compute(cell: Cell) -> float | None:
        calls_s = times_s(cell)
        return len(calls_s) * tokens(cell.point) / sum(calls_s) if sum(calls_s) > 0 else None

    return compute


def breakeven_tokens(cell: Cell) -> float | None:
    """Tokens until the cold compile time is paid back; None where the arm is no faster than the same engine uncompiled."""
    cost_s, mine = compile_s(cell, cold=True), value_of(output_tok_s(cell))
    eager = value_of(output_tok_s(cell.uncompiled)) if cell.uncompiled else None
    if cost_s is None or mine is None or eager is None or mine <= eager:
        return None
    return cost_s / (1 / eager - 1 / mine)


def cache_alloc_s(cell: Cell) -> float | None:
    """Median over launches."""
    return intervals.median([each.cache_alloc_s for each in cell.outcomes if each.cache_alloc_s is not None])


METRICS = (
    *interval(
        "output_tok_s",
        TOKENS_PER_S,
        HIGHER,
        output_tok_s,
        "batch_size * new_tokens / e2e_s, over repetitions without timestamps",
    ),
    Metric(
        "ttft_s",
        SECONDS,
        LOWER,
        "start -> first token of all rows; median over calls, of a black box over calls of one token",
        ttft_s,
    ),
    Metric("tpot_s", SECONDS, LOWER, "(e2e_s - ttft_s) / (new_tokens - 1); median over calls", tpot_s),
    *interval("e2e_s", SECONDS, LOWER, e2e_s, "start -> last token of all rows; median over calls", ORDER_STATISTICS),
    *interval(
        "itl_p50_s",
        SECONDS,
        LOWER,
        gap_quantile(0.5),
        "median gap between tokens; null below 6 independent gaps",
        ORDER_STATISTICS,
    ),
    *interval(
        "itl_p90_s",
        SECONDS,
        LOWER,
        gap_quantile(0.9),
        "90th percentile of the gaps; null below 36 independent gaps",
        ORDER_STATISTICS,
    ),
    *interval(
        "itl_p99_s",
        SECONDS,
        LOWER,
        gap_quantile(0.99),
        "99th percentile of the gaps; null below 368 independent gaps",
        ORDER_STATISTICS,
    ),
    Metric(
        "itl_positions",
        TEXT,
        NEITHER,
        "new tokens that the percentiles cover: all, or the last quarter where gaps grow",
        lambda c: c.gaps[2],
    ),
    *interval(
        "decode_speedup",
        RATIO,
        HIGHER,
        speedup_status.decode_speedup,
        "exp(mean log(t_reference / t_arm)) of decode time alone: all tokens but the first",
        ALLOWED,
    ),
    Metric(
        "decode_tok_s",
        TOKENS_PER_S,
        HIGHER,
        "batch_size * (new_tokens - 1) / (e2e_s - ttft_s)",
        tokens_per_s(lambda point: point.batch_size * (point.new_tokens - 1), decode_s),
    ),
    Metric(
        "decode_tok_s_per_row",
        TOKENS_PER_S,
        HIGHER,
        "decode_tok_s / batch_size",
        tokens_per_s(lambda point: point.new_tokens - 1, decode_s),
    ),
    Metric(
        "prefill_tok_s",
        TOKENS_PER_S,
        HIGHER,
        "batch_size * prompt_len / ttft_s",
        tokens_per_s(lambda point: point.batch_size * point.prompt_len, lambda cell: cell.ttft_s),
    ),
    *outcome_max(
        BYTES,
        LOWER,
        prefill_peak_bytes="allocator's peak in the prefill",
        decode_peak_bytes="allocator's peak in the last, longest step",
        graph_bytes="reserved by the engine's own CUDA graph",
        kv_cache_bytes="tensors of the KV cache",
        packed_bytes="weights held a second time, as the CPU's kernels read them",
    ),
    *outcome_max(
        BYTES,
        NEITHER,
        kv_cache_expected_bytes="2 * layers * kv heads * head width * itemsize * rows * positions; "
        "with latents layers * latent width * itemsize * rows * positions",
    ),
    Metric("cache_alloc_s", SECONDS, LOWER, "building the engine, cache included; median over launches", cache_alloc_s),
    Metric("breakeven_tokens", TOKENS, LOWER, "tokens until the cold compile time is paid back", breakeven_tokens),
    *divergence.METRICS,
    *speculation.METRICS,
)

"""What the columns are computed by: functions of a cell. Each gives None where the cell cannot know."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanobench.records import Status
from nanobench.results.cell import Cell
from nanobench.results.repetitions import Call, Row, by_key, steady_rows
from nanobench.stats import intervals

LEAST_WINDOW_S = 3.0
"""NVML's utilization and energy counter say nothing about shorter stretches."""


def per_call(compute: Callable[[Call], float]) -> Callable[[Cell], float | None]:
    """The median over calls of some time of a call."""
    return lambda cell: intervals.median([compute(call) for call in cell.calls])


def tokens_per_s(tokens: Callable[[Row], int], seconds: Callable[[Call], float]) -> Callable[[Cell], float | None]:
    """All tokens of the marked calls over all their seconds."""

    def compute(cell: Cell) -> float | None:
        total_s = sum(seconds(call) for call in cell.calls)
        return len(cell.calls) * tokens(cell.rows[0]) / total_s if total_s > 0 else None

    return compute


def rate(name: str) -> Callable[[list[Row]], float]:
    """A count summed over repetitions, per second of theirs."""
    return lambda rows: sum(row[name] for row in rows) / sum(row["wall_s"] for row in rows)


def over_launches(compute: Callable[[list[Row]], float], part: str = "value") -> Callable[[Cell], float | None]:
    """A figure of all plain repetitions together, or a bound of it: t interval over its logs, launch by launch, or repetition
    by repetition of a lone launch.
    """

    def found(cell: Cell) -> float | None:
        if not cell.plain:
            return None
        value = compute(cell.plain)
        launches = list(by_key(cell.plain, "launch").values())
        units = [[rows] for rows in launches] if len(launches) > 1 else [[[row] for row in launches[0]]]
        ratio = intervals.ratio([[math.log(compute(rows)) for rows in unit] for unit in units])
        bound = getattr(ratio, part)
        return value if part == "value" else None if bound is None else value * bound / ratio.value

    return found


def rate_bound(part: str) -> Callable[[Cell], float | None]:
    """A bound of the throughput."""
    return over_launches(rate("tokens"), part)


def output_tok_s(cell: Cell) -> float | None:
    """All tokens of the plain repetitions over all their wall time."""
    return over_launches(rate("tokens"))(cell)


def tpot_s(cell: Cell) -> float | None:
    """Median over calls; None below two tokens."""
    new_tokens = cell.rows[0]["new_tokens"]
    return None if new_tokens < 2 else intervals.median([call.decode_s / (new_tokens - 1) for call in cell.calls])


def timestamp_overhead(part: str) -> Callable[[Cell], float | None]:
    """What marking every token costs, or a bound of it: on the host marks times their cost, without bounds;
    on CUDA the log times of a launch's marked calls over those of its plain ones, with launches as the unit.
    """

    def compute(cell: Cell) -> float | None:
        cost_s, timestamped = cell.first("timestamp_cost_s"), [row for row in cell.steady if row["timestamped"]]
        if cost_s is not None:
            total_s = sum(row["wall_s"] for row in timestamped)
            known = total_s and part == "value"
            return cost_s * sum(len(row["token_times_s"]) for row in timestamped) / total_s if known else None
        logs = [logs for logs in map(timestamped_over_plain, by_key(cell.steady, "launch").values()) if logs]
        found = getattr(intervals.ratio(logs), part) if logs else None
        return None if found is None else found - 1

    return compute


def timestamped_over_plain(rows: list[Row]) -> list[float]:
    """Log of each marked call's time over the plain calls' geometric mean, in one launch; empty without both."""
    times = {
        timestamped: [math.log(r["wall_s"] / r["calls"]) for r in rows if r["timestamped"] is timestamped]
        for timestamped in (True, False)
    }
    return [log - float(np.mean(times[False])) for log in times[True]] if times[False] else []


def compile_s(cell: Cell, cold: bool) -> float | None:
    """The first call minus the median steady call, in round 1 (cold inductor cache) or after it (warm)."""
    calls_s = intervals.median([row["wall_s"] / row["calls"] for row in cell.plain])
    rows = [row for row in cell.rows if row["kind"] == "first_call" and (row["launch"] == 1) is cold]
    if cell.rows[0]["compile_mode"] == "off" or calls_s is None or not rows:
        return None
    first_s = intervals.median([row["wall_s"] for row in rows])
    return None if first_s is None else first_s - calls_s


def breakeven_tokens(cell: Cell) -> float | None:
    """Tokens until the cold compile time is paid back; None where the arm is no faster than the same engine uncompiled."""
    cost_s, rate = compile_s(cell, cold=True), output_tok_s(cell)
    plain_rate = output_tok_s(cell.uncompiled)
    if cost_s is None or rate is None or plain_rate is None or rate <= plain_rate:
        return None
    return cost_s / (1 / plain_rate - 1 / rate)


def bound(name: str, part: str) -> Callable[[Cell], float | None]:
    """A part of one of the cell's intervals."""
    return lambda cell: getattr(getattr(cell, name), part, None)


def failures(cell: Cell) -> str | None:
    """The reasons of the launches that did not finish, each once."""
    reasons = [f"{row['status']}: {row['reason']}" for row in cell.outcomes if row["status"] != Status.OK]
    return "; ".join(dict.fromkeys(reasons)) or None


def pairing(cell: Cell) -> str | None:
    """'block' where the arms were interleaved in one process; 'launch' where they had to run apart."""
    if cell.speedup is None:
        return None
    processes = {row["launch"]: row["process"] for row in steady_rows(cell.reference_rows)}
    return "block" if any(processes.get(row["launch"]) == row["process"] for row in cell.steady) else "launch"


def phase_s(kind: str) -> Callable[[Cell], float | None]:
    """The median over the launches that finished of what a phase took."""

    def compute(cell: Cell) -> float | None:
        finished = {row["launch"] for row in cell.outcomes if row["status"] == Status.OK}
        launches = by_key([row for row in cell.of_kind(kind) if row["launch"] in finished], "launch").values()
        return intervals.median([sum(row["wall_s"] for row in rows) for rows in launches if rows[0]["wall_s"] is not None])

    return compute


def middle(name: str) -> Callable[[Cell], float | None]:
    """The median of a reading over the timed repetitions."""
    return lambda cell: intervals.median(cell.seen(name))


def of_call(part: str) -> Callable[[Cell], float | None]:
    """A bound of the median time of a call; calls of one launch are taken as related."""

    def compute(cell: Cell) -> float | None:
        timestamped = [row for row in cell.steady if row["timestamped"]]
        launches = [row["launch"] for row in timestamped for _ in range(row["calls"])]
        return getattr(intervals.quantile([call.e2e_s for call in cell.calls], launches, 0.5), part, None)

    return compute


def gap_quantile(share: float, part: str) -> Callable[[Cell], float | None]:
    """A percentile of the gaps between tokens or one of its bounds; gaps of one call are taken as related."""

    def compute(cell: Cell) -> float | None:
        gaps, calls, _ = cell.gaps
        return getattr(intervals.quantile(gaps.tolist(), calls, share), part, None) if len(gaps) else None

    return compute


def component(part: str) -> Callable[[Cell], Any]:
    """A part of the spread of the cell's log ratios."""
    return lambda cell: getattr(cell.components, part, None)


def sampled(name: str) -> Callable[[Cell], float | None]:
    """The mean of a reading over the samples of the sustained phase; None where that is too short."""

    def compute(cell: Cell) -> float | None:
        values = cell.seen(name, cell.samples)
        return float(np.mean(values)) if values and window_s(cell) >= LEAST_WINDOW_S else None

    return compute


def window_s(cell: Cell) -> float:
    """The shortest of the sustained phases; 0 where there is none."""
    return min((row["wall_s"] for row in cell.sustained), default=0.0)


def energy_valid(cell: Cell) -> bool | None:
    """Whether the sustained phase was long enough for the energy counter, and the counter gave a number; None without one."""
    if not cell.sustained:
        return None
    return window_s(cell) >= LEAST_WINDOW_S and any(cell.seen("energy_j", cell.sustained))


def energy_j(cell: Cell) -> float | None:
    """Energy of one call or step, from the sustained phases."""
    return energy_over("calls", cell)


def energy_j_per_token(cell: Cell) -> float | None:
    """Energy of one token."""
    return energy_over("tokens", cell)


def energy_over(name: str, cell: Cell) -> float | None:
    """Energy of the sustained phases over what they did; None where the counter could not follow, and among ranks, as it
    counts one GPU of theirs.
    """
    if not energy_valid(cell) or cell.point.world_size > 1:
        return None
    rows = [row for row in cell.sustained if row["energy_j"] is not None]
    return sum(row["energy_j"] for row in rows) / sum(row[name] for row in rows)


def reasons_seen(cell: Cell) -> str | None:
    """Every reason for low clocks that was seen, each once; empty where none was, None where it is not known."""
    seen = cell.seen("clock_event_reasons")
    return ",".join(sorted({name for text in seen for name in text.split(",") if name})) if seen else None


def largest(name: str) -> Callable[[Cell], Any]:
    """The largest reading over repetitions and samples."""
    return lambda cell: max([*cell.seen(name), *cell.seen(name, cell.samples)], default=None)


def total(name: str) -> Callable[[Cell], Any]:
    """A reading summed over the timed repetitions."""
    return lambda cell: sum(cell.seen(name)) if cell.seen(name) else None

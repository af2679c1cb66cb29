"""The one list of columns, and how each follows from the raw rows of a cell.

Storage is in SI base units with the unit as the tail of the name; ratios are fractions; what cannot be known is None.
Raw rows go in, cells come out, on writing and on loading alike: an old file gains a new metric by itself.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from nanobench import stats
from nanobench.schema import MEASURED, Arm, Point, Status

Row = dict[str, Any]
POINT_FIELDS = [field.name for field in fields(Point)]
ARM_FIELDS = [field.name for field in fields(Arm)]


@dataclass(frozen=True)
class Metric:
    """A column of cells.parquet."""

    name: str
    unit: str
    """s, B, tok/s, ratio, count, tokens, logit or text"""
    title: str
    """how tables and axes call it"""
    better: str
    """higher, lower or empty"""
    formula: str
    compute: Callable[["Cell"], Any]


@dataclass
class Cell:
    """One point with one arm: its raw rows, those of the reference arm at the same point, and those of its uncompiled twin."""

    rows: list[Row]
    reference_rows: list[Row]
    uncompiled_rows: list[Row]

    @cached_property
    def outcomes(self) -> list[Row]:
        """One row per launch that says what became of the arm."""
        return [row for row in self.rows if row["kind"] == "outcome"]

    @cached_property
    def steady(self) -> list[Row]:
        """The timed repetitions that count."""
        return steady(self.rows)

    @cached_property
    def plain(self) -> list[Row]:
        """Repetitions that throughput comes from: without marks where marks cost something, else all."""
        return plain(self.steady)

    @cached_property
    def calls(self) -> list["Call"]:
        """The calls of the marked repetitions, with a time for every token."""
        return [call for row in self.steady if row["marked"] for call in split_calls(row)]

    @property
    def is_reference(self) -> bool:
        """Whether this is the arm that speed-ups refer to."""
        return self.rows[0]["arm_index"] == 0

    def first(self, name: str) -> Any:
        """The first known value of an outcome's field over the launches."""
        return next((row[name] for row in self.outcomes if row[name] is not None), None)

    def most(self, name: str) -> Any:
        """The largest known value of an outcome's field over the launches."""
        return max((row[name] for row in self.outcomes if row[name] is not None), default=None)

    @cached_property
    def speedup(self) -> stats.Interval | None:
        """End-to-end time of the reference over this arm's."""
        return contrast(self, lambda rows: {row["block"]: [row["wall_s"] / row["calls"]] for row in plain(rows)})

    @cached_property
    def decode_speedup(self) -> stats.Interval | None:
        """The same for decode alone: all tokens but the first."""
        return contrast(
            self, lambda rows: {row["block"]: [c.decode_s for c in split_calls(row)] for row in rows if row["marked"]}
        )

    @cached_property
    def status(self) -> str:
        """From the launches that finished; a failing status only if none did, except that one `wrong` is wrong."""
        found = {row["status"] for row in self.outcomes}
        if Status.WRONG in found or Status.OK not in found:
            return next((status for status in Status if status in found), Status.ERROR)
        ratio = self.speedup
        if ratio and ratio.low is not None and ratio.high is not None:
            half = (ratio.high - ratio.low) / 2 / ratio.value
            return Status.IMPRECISE if half > self.rows[0]["target_ci"] else Status.OK
        return Status.OK

    @cached_property
    def reason(self) -> str | None:
        """Why the status is not ok."""
        if self.status == Status.IMPRECISE:
            return f"interval wider than +-{self.rows[0]['target_ci']:.0%}; more launches or a larger --max-seconds narrow it"
        return next((row["reason"] for row in self.outcomes if row["status"] == self.status and row["reason"]), None)


@dataclass(frozen=True)
class Call:
    """One marked generate call, in seconds from its start."""

    ttft_s: float
    e2e_s: float
    itl_s: tuple[float, ...]
    """gaps between consecutive tokens"""

    @property
    def decode_s(self) -> float:
        """From the first token to the last."""
        return self.e2e_s - self.ttft_s


def steady(rows: Iterable[Row]) -> list[Row]:
    """The timed repetitions that no recorded cause made invalid, of the launches that finished."""
    rows = list(rows)
    finished = {row["launch"] for row in rows if row["status"] == Status.OK}
    return [row for row in rows if row["kind"] == "steady" and row["valid"] and row["launch"] in finished]


def plain(rows: list[Row]) -> list[Row]:
    """The unmarked of these repetitions; all of them where every one is marked."""
    unmarked = [row for row in rows if not row["marked"]]
    return unmarked or rows


def split_calls(row: Row) -> list[Call]:
    """The calls of a marked repetition. They run back to back, so each begins at the last token of the one before."""
    times = np.asarray(row["marks_s"], dtype=float).reshape(row["calls"], -1)
    starts = np.concatenate(([0.0], times[:-1, -1]))
    return [Call(t[0] - s, t[-1] - s, tuple(np.diff(t).tolist())) for t, s in zip(times, starts, strict=True)]


def contrast(cell: Cell, times: Callable[[list[Row]], dict[int, list[float]]]) -> stats.Interval | None:
    """The reference's time over the arm's: paired by block where both ran in one process, else by the launch's mean log time.

    None for the reference itself, and where no launch measured both.
    """
    if cell.is_reference:
        return None
    logs = []
    launches = by_key(cell.reference_rows, "launch")
    for launch, rows in by_key(cell.rows, "launch").items():
        others = launches.get(launch, [])
        mine, reference = mean_logs(times(steady(rows))), mean_logs(times(steady(others)))
        together = rows[0]["process"] == (others[0]["process"] if others else None)
        if together:
            logs.append([reference[block] - mine[block] for block in mine if block in reference])
        elif mine and reference:
            logs.append([float(np.mean(list(reference.values())) - np.mean(list(mine.values())))])
    logs = [pairs for pairs in logs if pairs]
    return stats.ratio(logs) if logs else None


def mean_logs(times: dict[int, list[float]]) -> dict[int, float]:
    """Block -> mean log of its times; blocks with a time of 0 (no decode at all) are left out."""
    return {block: float(np.mean(np.log(values))) for block, values in times.items() if values and min(values) > 0}


def by_key(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """Rows grouped by one column's value, or by a tuple of several, in order of appearance."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)].append(row)
    return dict(groups)


def per_call(compute: Callable[[Call], float]) -> Callable[[Cell], float | None]:
    """The median over calls of some time of a call."""
    return lambda cell: stats.median([compute(call) for call in cell.calls])


def tokens_per_s(tokens: Callable[[Row], int], seconds: Callable[[Call], float]) -> Callable[[Cell], float | None]:
    """All tokens of the marked calls over all their seconds."""

    def compute(cell: Cell) -> float | None:
        total_s = sum(seconds(call) for call in cell.calls)
        return len(cell.calls) * tokens(cell.rows[0]) / total_s if total_s > 0 else None

    return compute


def output_tok_s(cell: Cell) -> float | None:
    """All tokens of the plain repetitions over all their wall time."""
    wall_s = sum(row["wall_s"] for row in cell.plain)
    return sum(row["tokens"] for row in cell.plain) / wall_s if wall_s else None


def tpot_s(cell: Cell) -> float | None:
    """Median over calls; None below two tokens."""
    new_tokens = cell.rows[0]["new_tokens"]
    return None if new_tokens < 2 else stats.median([call.decode_s / (new_tokens - 1) for call in cell.calls])


def mark_tax(cell: Cell) -> float | None:
    """What marking every token costs: on the host marks times their cost, on CUDA marked over plain repetitions."""
    cost_s, marked = cell.first("mark_cost_s"), [row for row in cell.steady if row["marked"]]
    if cost_s is not None and marked:
        return cost_s * sum(len(row["marks_s"]) for row in marked) / sum(row["wall_s"] for row in marked)
    unmarked = [row["wall_s"] / row["calls"] for row in cell.steady if not row["marked"]]
    if not marked or not unmarked:
        return None
    logs = [math.log(row["wall_s"] / row["calls"]) for row in marked]
    return math.exp(float(np.mean(logs)) - float(np.mean(np.log(unmarked)))) - 1


def compile_s(cell: Cell, cold: bool) -> float | None:
    """The first call minus the median steady call, in round 1 (cold inductor cache) or after it (warm)."""
    calls_s = stats.median([row["wall_s"] / row["calls"] for row in cell.plain])
    rows = [row for row in cell.rows if row["kind"] == "first_call" and (row["launch"] == 1) is cold]
    if cell.rows[0]["compile_mode"] == "off" or calls_s is None or not rows:
        return None
    first_s = stats.median([row["wall_s"] for row in rows])
    return None if first_s is None else first_s - calls_s


def breakeven_tokens(cell: Cell) -> float | None:
    """Tokens until the cold compile time is paid back; None where the arm is no faster than the same engine uncompiled."""
    cost_s, rate = compile_s(cell, cold=True), output_tok_s(cell)
    plain_rate = output_tok_s(Cell(cell.uncompiled_rows, [], []))
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
    processes = {row["launch"]: row["process"] for row in steady(cell.reference_rows)}
    return "block" if any(processes.get(row["launch"]) == row["process"] for row in cell.steady) else "launch"


METRICS = (
    Metric("status", "text", "status", "", "ok, imprecise, or why it was not measured", lambda c: str(c.status)),
    Metric("reason", "text", "reason", "", "behind the status", lambda c: c.reason),
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
    Metric("failures", "text", "failures", "", "their reasons", failures),
    Metric("repetitions", "count", "repetitions", "", "valid timed repetitions over all launches", lambda c: len(c.steady)),
    Metric(
        "output_tok_s",
        "tok/s",
        "output",
        "higher",
        "batch_size * new_tokens / e2e_s, summed over plain repetitions",
        output_tok_s,
    ),
    Metric("ttft_s", "s", "TTFT", "lower", "start -> first token of all rows; median over calls", per_call(lambda c: c.ttft_s)),
    Metric("tpot_s", "s", "TPOT", "lower", "(e2e_s - ttft_s) / (new_tokens - 1); median over calls", tpot_s),
    Metric(
        "e2e_s", "s", "end to end", "lower", "start -> last token of all rows; median over calls", per_call(lambda c: c.e2e_s)
    ),
    Metric(
        "speedup",
        "ratio",
        "speedup",
        "higher",
        "exp(mean log(t_reference / t_arm)) over interleaved pairs",
        bound("speedup", "value"),
    ),
    Metric("speedup_lo", "ratio", "speedup low", "", "lower bound, 95 % t interval over launch means", bound("speedup", "low")),
    Metric("speedup_hi", "ratio", "speedup high", "", "upper bound", bound("speedup", "high")),
    Metric("speedup_basis", "text", "interval over", "", "launches, or pairs of one process", bound("speedup", "basis")),
    Metric("pairing", "text", "pairing", "", "block: interleaved in one process; launch: run apart", pairing),
    Metric(
        "decode_speedup",
        "ratio",
        "decode speedup",
        "higher",
        "the same for decode time alone",
        bound("decode_speedup", "value"),
    ),
    Metric("decode_speedup_lo", "ratio", "decode speedup low", "", "lower bound", bound("decode_speedup", "low")),
    Metric("decode_speedup_hi", "ratio", "decode speedup high", "", "upper bound", bound("decode_speedup", "high")),
    Metric(
        "decode_tok_s",
        "tok/s",
        "decode",
        "higher",
        "batch_size * (new_tokens - 1) / (e2e_s - ttft_s)",
        tokens_per_s(lambda row: row["batch_size"] * (row["new_tokens"] - 1), lambda call: call.decode_s),
    ),
    Metric(
        "decode_tok_s_per_row",
        "tok/s",
        "decode per row",
        "higher",
        "decode_tok_s / batch_size",
        tokens_per_s(lambda row: row["new_tokens"] - 1, lambda call: call.decode_s),
    ),
    Metric(
        "prefill_tok_s",
        "tok/s",
        "prefill",
        "higher",
        "batch_size * prompt_len / ttft_s",
        tokens_per_s(lambda row: row["batch_size"] * row["prompt_len"], lambda call: call.ttft_s),
    ),
    Metric(
        "peak_memory_bytes",
        "B",
        "peak memory",
        "lower",
        "weights + cache + allocator's peak in one call",
        lambda c: c.most("peak_memory_bytes"),
    ),
    Metric("kv_cache_bytes", "B", "KV cache", "lower", "bytes of the cache's tensors", lambda c: c.most("kv_cache_bytes")),
    Metric("weight_bytes", "B", "weights", "", "bytes of all parameters and buffers", lambda c: c.most("weight_bytes")),
    Metric(
        "rss_peak_bytes",
        "B",
        "worker RSS",
        "lower",
        "the worker's largest resident size, all its arms",
        lambda c: c.most("rss_peak_bytes"),
    ),
    Metric(
        "cache_alloc_s",
        "s",
        "cache allocation",
        "lower",
        "building the engine, cache included",
        lambda c: stats.median([r["cache_alloc_s"] for r in c.outcomes if r["cache_alloc_s"] is not None]),
    ),
    Metric("mark_tax", "ratio", "mark tax", "lower", "price of a mark per token, as a share of the repetition", mark_tax),
    Metric(
        "noise",
        "ratio",
        "noise",
        "lower",
        "interquartile range / median of the repetitions",
        lambda c: stats.relative_iqr([r["wall_s"] / r["calls"] for r in c.plain]),
    ),
    Metric("compile_s", "s", "compile, cold", "lower", "first call - median call, round 1", lambda c: compile_s(c, cold=True)),
    Metric("compile_warm_s", "s", "compile, warm", "lower", "the same in later rounds", lambda c: compile_s(c, cold=False)),
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
        breakeven_tokens,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
KNOWN_OF_FAILED = {"status", "reason", "gate", "gate_note", "gate_max_error", "gate_tolerance"}
KNOWN_OF_FAILED |= {"failures", "launches_ok", "launches_failed", "repetitions"}
"""What may be said of a cell that was not measured."""


def derive(rows: list[Row]) -> list[Row]:
    """The cells of raw rows: a point with an arm each, in the order of point and arm. Unmeasured cells keep only words."""
    cells = []
    for point_rows in by_key(rows, *POINT_FIELDS).values():
        arms = by_key(sorted(point_rows, key=lambda row: row["arm_index"]), "arm_index")
        for arm_rows in arms.values():
            twin = [row for row in point_rows if is_uncompiled_twin(row, arm_rows[0])]
            cell = Cell(arm_rows, arms.get(0, []), twin)
            head = {name: arm_rows[0][name] for name in (*POINT_FIELDS, *ARM_FIELDS)}
            label = Arm(**{name: head[name] for name in ARM_FIELDS}).label
            cells.append({**head, "arm": label, "arm_index": arm_rows[0]["arm_index"], **values(cell)})
    return sorted(cells, key=lambda cell: tuple(cell[name] for name in (*POINT_FIELDS, "arm_index")))


def is_uncompiled_twin(row: Row, of: Row) -> bool:
    """Whether a row is of the same arm but for the compile mode, which is off."""
    same = all(row[name] == of[name] for name in ARM_FIELDS if name != "compile_mode")
    return same and row["compile_mode"] == "off"


def values(cell: Cell) -> Row:
    """Every metric of one cell."""
    computed = {metric.name: metric.compute(cell) for metric in METRICS}
    if cell.status not in MEASURED:
        return {name: value if name in KNOWN_OF_FAILED else None for name, value in computed.items()}
    return computed


def timed_share(rows: list[Row], wall_s: float) -> float:
    """The share of a sweep's wall time that was spent in timed repetitions and warm-up, first calls included."""
    return sum(row["wall_s"] for row in rows if row["kind"] in ("first_call", "warmup", "steady")) / wall_s

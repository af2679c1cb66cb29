"""The reason beside every ratio, in tables and sentences. Every number comes from analysis.explain and analysis.waterfall."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nanobench.analysis.crossover import Crossover, Pays
from nanobench.analysis.explain import PUBLISHED
from nanobench.analysis.waterfall import BATCH, MOST_GAP, Factor, Waterfall
from nanobench.records import JUDGED, MEASURED
from nanobench.results import request
from nanobench.results.derive import CellRow
from nanobench.views import console as tables
from nanobench.views import format
from nanobench.views.cell_table import SPEEDUP_STATUS, STATUS, Column, make, namer, speedup_text, value, varying
from nanobench.views.terminal import say

COLUMNS = (
    value("output\ntok/s", "output_tok_s", drop=4),
    value("TPOT", "tpot_s"),
    value("step", "step_s", "s"),
    Column("speedup\n[95 %]", speedup_text, needs="speedup"),
    replace(SPEEDUP_STATUS, drop=0),
    Column("predicted\nTPOT", lambda row: predicted(row, "predicted_tpot_s"), needs="predicted_tpot_s", drop=8),
    Column("predicted\nstep", lambda row: predicted(row, "predicted_step_s"), needs="predicted_step_s", drop=8),
    Column("error", lambda row: format.signed_percent(row["prediction_error"]), needs="prediction_error"),
    Column("predicted\nspeedup\n(reached)", lambda row: reached(row, "predicted"), needs="predicted_speedup"),
    Column("naive\nspeedup\n(reached)", lambda row: reached(row, "naive"), needs="naive_speedup", drop=7),
    value("weight\nfloor", "weight_floor_s", "s", drop=3),
    Column("step /\nfloor", lambda row: format.times(row["floor_ratio"]), needs="floor_ratio", drop=5),
    value("bytes\nfloor", "bandwidth_floor_s", "s"),
    value("FLOPs\nfloor", "compute_floor_s", "s"),
    Column("MBU", lambda row: format.percent(row["mbu"]), needs="mbu", drop=2),
    Column("MFU", lambda row: format.percent(row["mfu"]), needs="mfu", drop=1),
    Column("bound by", lambda row: row["bound_by"], needs="bound_by", align="left"),
    Column("try", lambda row: either(row["suggestions"]), needs="suggestions", align="left", wrap=22, drop=6),
    STATUS,
)
EXCLUDED_MARK = "*"
LARGE_UNCERTAINTY = 0.3
"""A sentence states the uncertainty of a prediction from here on; the table and --json always have it."""
PARTS = {"bandwidth": "moving bytes takes", "compute": "multiplying takes"}


# Cells
def fitting(rows: list[CellRow], console: Console) -> Iterator[Table | str]:
    """The table as wide as the console allows, and which of its columns that leaves out."""
    return tables.fitting(make(rows, COLUMNS), console)


def predicted(row: CellRow, name: str) -> str:
    """2.37 ms ±12%: the predicted time of a step, and how far the limits leave it open."""
    return f"{format.text(row[name], 's')} {uncertainty(row)}".rstrip()


def uncertainty(row: CellRow) -> str:
    """±12%, or from 100 % on as a factor: within 2.5x; empty without a prediction."""
    share = row["prediction_uncertainty"]
    if share is None:
        return ""
    return f"±{100 * share:.0f}%" if share < 0.995 else f"within {format.times(1 + share)}"


def reached(row: CellRow, by: str) -> str | None:
    """A predicted or naive speedup with the share of it that was reached: 14.2x (16 %)."""
    speedup, share = row[f"{by}_speedup"], row[f"{by}_share"]
    return None if speedup is None else f"{format.times(speedup)} ({format.percent(share)})"


# Sentences
def sentences(rows: list[CellRow]) -> list[str]:
    """One per cell: how its step time stands, what binds it, and what to try."""
    name_of = namer(rows)
    return [f"{name_of(row)}: {because(row)}" for row in rows]


def because(row: CellRow) -> str:
    """A cell's reason in words; an unreliable cell says so first."""
    if row["status"] not in (*MEASURED, PUBLISHED):
        return f"{row['status']}, {row['reason'] or 'no reason given'}"
    doubt = "" if row["status"] in (*JUDGED, PUBLISHED) else f"{row['status']}, excluded from conclusions ({row['reason']}); "
    where = " and ".join(filter(None, (over_batch(row), over_floor(row))))
    suggestions = f"; try {either(row['suggestions'])}" if row["suggestions"] else ""
    separator = "; " if row["status"] == PUBLISHED else ": "
    more = of_weights(row) + of_drafts(row) + doubt_of_prediction(row)
    return doubt + separator.join(filter(None, (where, cause(row)))) + more + suggestions


def either(suggestions: list[str]) -> str:
    """What to try: one, two or three options."""
    return " or ".join(filter(None, [", ".join(suggestions[:-1]), *suggestions[-1:]]))


def over_batch(row: CellRow) -> str:
    """How the step time stands over the batch sizes of its arm; empty where there is only one."""
    if row["is_flat"]:
        return f"step time is flat from batch {row['flat_from']} to {row['flat_to']}"
    if row["over_least_step"] is None:
        return ""
    if row["over_least_step"] == 1:
        return "step time is the smallest of its arm"
    return f"step time is {format.times(row['over_least_step'])} that at batch {row['least_step_batch']}"


def over_floor(row: CellRow) -> str:
    """How many times a step takes what reading its weights does; empty where that is not known."""
    ratio, verb = row["floor_ratio"], "" if over_batch(row) else "step time is "
    if ratio is None:
        return ""
    stays = " (the weights stay in a processor's cache)" if ratio < 1 else ""
    return f"{verb}{format.times(ratio)} the weight-read floor{stays}"


def cause(row: CellRow) -> str:
    """What binds a cell."""
    bound = row["bound_by"]
    if bound is None and row["status"] == PUBLISHED:
        return f"no minimum time is known: {row['reason']}"
    if bound is None:
        return f"not predicted: {row['prediction_note']}" if row["seq_len"] else "no reason is known without a prediction"
    if row["status"] == PUBLISHED:
        return published_cause(row)
    if bound == "unexplained":
        return f"measured {format.times(row['over_predicted'])} the prediction; cause unknown"
    if bound == "allocator":
        return f"CUDA's allocator ran out and freed its cache to go on ({format.text(row['alloc_retries'], 'count')} times)"
    work = f"the host dispatches {format.text(row['operations_per_step'], 'count')} operations per step,"
    if row["operations_per_step"] is None:
        work = "the host's dispatching takes"
    return f"{PARTS.get(bound, work)} {format.percent(row['bound_share'])} of the predicted time"


def of_weights(row: CellRow) -> str:
    """Why quantised weights pay or not at these rows; empty where that is not known, and for float weights."""
    share, rate = row.get("weights_bytes_share"), row.get("weights_rate_share")
    if share is None or rate is None:
        return ""
    kind, read = row["weights"], f"{format.percent(share)} of the bytes of float weights"
    if rate >= 1:
        return f"; {kind} weights pay here: they are {read} and multiply {format.times(rate)} as fast"
    why = "they are converted again for every few rows, and that takes longer than reading float weights"
    return f"; {kind} weights do not pay here: they are {read}, but multiply at {format.percent(rate)} of their rate: {why}"


def of_drafts(row: CellRow) -> str:
    """Why drafted tokens pay or not: what a pass of the model writes and takes; empty for arms that draft none."""
    length = row.get("mean_acceptance_length")
    if length is None:
        return ""
    writes = f"; a pass of the model writes {format.number(length)} tokens"
    drafts, check = row.get("draft_cost"), row.get("verification_cost")
    if drafts is None or check is None:
        return writes
    cost = f"{format.number(drafts + check)} plain steps ({format.number(drafts)} of drafts)"
    return f"{writes} and should take {cost}, so drafting should {'pay' if length > drafts + check else 'not pay'} here"


def doubt_of_prediction(row: CellRow) -> str:
    """How uncertain a prediction is, if much, and for what another limit stands in; empty otherwise."""
    if row["bound_by"] is None or row["prediction_uncertainty"] is None:
        return ""
    is_large = row["prediction_uncertainty"] > LARGE_UNCERTAINTY
    parts = [f"the prediction is uncertain ({uncertainty(row)})" if is_large else "", row["prediction_note"]]
    return "".join(f"; {part}" for part in parts if part)


def published_cause(row: CellRow) -> str:
    """What the datasheet says about a published step."""
    higher = "compute" if (row["compute_floor_s"] or 0.0) > row["bandwidth_floor_s"] else "bandwidth"
    ratio = format.times(row["over_floors"])
    if row["bound_by"] == "host":
        return f"host-bound: the step takes at least {ratio} the datasheet minimum"
    if row["bound_by"] == "unexplained":
        return f"cause unknown: the step takes {ratio} the datasheet minimum ({higher})"
    return f"{higher}-bound: the step takes {ratio} the datasheet minimum"


# Crossovers
def crossing(found: Crossover, names: list[str], seen: str = "measured") -> str:
    """cached vs uncached: predicted: pays from batch 1 on [1, 3]; measured: pays from batch 4 on."""
    where = in_words(found.where, names)
    prediction = f"predicted: {pays(found.predicted) if found.predicted else 'not known'}"
    if found.predicted and found.earliest and found.latest:
        ends = (found.earliest, found.latest) if found.predicted.until is None else (found.latest, found.earliest)
        of_end = bound if found.predicted.until is None else last
        prediction += f" [{', '.join(map(of_end, ends))}]"
    pairs = pays(found.measured) if found.measured else "no reliable ratio with an interval"
    return f"{found.arm} vs {found.reference}{where}: {prediction}; {seen}: {pairs}"


def in_words(where: CellRow, names: list[str]) -> str:
    """The parts of a setting that differ, in brackets; empty where none does."""
    return f" ({', '.join(f'{name} {where[name]}' for name in names)})" if names else ""


def pays(found: Pays) -> str:
    """From which batch size on, or up to which, an arm pays."""
    if found.until is not None:
        return f"pays up to batch {found.until}"
    if found.start is None:
        return f"never pays up to batch {found.most}"
    return f"pays from batch {found.start} on" + (", the smallest reliable one" if found.start == found.least > 1 else "")


def bound(found: Pays) -> str:
    """One end of an interval of batch sizes."""
    return f"never up to {found.most}" if found.start is None else str(found.start)


def last(found: Pays) -> str:
    """One end of an interval of batch sizes up to which an arm pays."""
    return str(found.most if found.start is not None else found.until or "never")


# Waterfall
WHOSE = {"cache": "the cache's", "compile": "compiling's"}


def head_of(found: Waterfall, names: list[str]) -> str:
    """The title of a waterfall."""
    total = found.total
    ends = f"from {total.before} at batch {total.from_batch} to {total.after} at batch {total.to_batch}"
    what = "training throughput" if found.where.get("seq_len") else "output"
    return f"what each change multiplies the {what} by, {ends}{in_words(found.where, names)}"


def factors(found: Waterfall) -> Table:
    """One row per change: its factor with the arms first, and with the batch first."""
    small, large, total = found.batches[0], found.batches[-1], found.total
    heads = [f"arms at batch {small}\n[95 %]"]
    if found.batch_first:
        heads = [f"arms at batch {small},\nthen batch [95 %]", f"batch, then arms\nat batch {large} [95 %]"]
    table = tables.simple_table(["change", "arms", *heads], right=heads)
    table.columns[0].no_wrap = True
    later = {each.step: each for each in found.batch_first}
    for each in found.arms_first:
        texts = [factor(each), *([factor(later[each.step])] if later else [])]
        if each.step == BATCH:
            table.add_row(f"batch {small} to {large}", f"{each.before} | {later[BATCH].before}", *texts)
        else:
            table.add_row(each.step, f"{each.before} to {each.after}", *texts)
    if len(found.arms_first) > 1:
        table.add_row(total.step, "", *[factor(total)] * len(heads), style="bold")
    return table


def factor(found: Factor) -> str:
    """2.84x [2.48, 3.25]; an unreliable factor ends with *."""
    if found.ratio is None:
        return format.MISSING
    mark = "" if found.judged else f" {EXCLUDED_MARK}"
    return format.times(found.ratio.value, found.ratio.low, found.ratio.high) + mark


def notes(found: Waterfall) -> Iterator[str]:
    """How the cache, or compiling, and the batch interact, what is left out, and where factors do not multiply to the total."""
    both = found.interaction
    if both and both.ratio:
        yield f"at batch {both.to_batch} {WHOSE[both.step]} factor is {factor(both)} that at batch {both.from_batch}"
    if not all(each.judged for each in (*found.arms_first, *found.batch_first)):
        yield f"{EXCLUDED_MARK} excluded from conclusions: the ratio, or one cell of two batch sizes, is unreliable"
    if found.left_out:
        yield f"left out of the waterfall, because this run has no such arm: {', '.join(found.left_out)}"
    if found.aside:
        yield f"arms that are not a step of the waterfall: {', '.join(found.aside)}"
    if found.gap > MOST_GAP:
        products = " and ".join(map(format.times, found.products))
        yield f"the factors multiply to {products}, not to the total: some launches or pairs are not in all of them"


# What is not known
def unknown(rows: list[CellRow], command: str, requested: Mapping[str, Any]) -> Iterator[str]:
    """Which predictions the cells lack, why, and the command that adds them. A cell of training says it in its own sentence."""
    again = request.with_calibration(command, requested)
    cells = [row for row in rows if row["status"] in MEASURED and not row["seq_len"]]
    bare = [row for row in cells if row["predicted_e2e_s"] is None]
    if not bare:
        return
    if not again:
        yield f"nothing is predicted: nanobench {command} measures without a calibration"
    elif requested.get("calibration") == "off":
        yield f"nothing is predicted without a calibration; measure again with one: {again}"
    elif len(bare) == len(cells) and all(row["operations_per_step"] is None for row in cells):
        yield f"nothing is predicted: this run has no calibration and no operation counts; measure again: {again}"
    else:
        arms = ", ".join(dict.fromkeys(row["arm"] for row in bare))
        why = "; ".join(dict.fromkeys(filter(None, (row["prediction_note"] for row in bare)))) or "the reason is not known"
        fix = "" if all(row["kv_access"] is None for row in bare) else f"; measure again: {again}"
        yield f"nothing is predicted in {len(bare)} of {len(cells)} cells ({arms}): {why}{fix}"


# All of it
def show(
    console: Console, rows: list[CellRow], sentences: list[str], crossovers: list[Crossover], waterfalls: list[Waterfall]
) -> None:
    """Prints table, sentences, crossovers and waterfalls."""
    names, seen = varying(rows), "published" if any(row["status"] == PUBLISHED for row in rows) else "measured"
    cells, *left_out = fitting(rows, console)
    console.print(cells)
    for line in [*map(str, left_out), *sentences, *(crossing(each, names, seen) for each in crossovers)]:
        say(console, line)
    for each in waterfalls:
        console.print()
        say(console, head_of(each, names), style="bold")
        console.print(factors(each))
        for line in notes(each):
            say(console, line)


def source(paths: list[Path], used: int, of: int, device: str) -> str:
    """Where published figures come from and what was left out."""
    what = f"{used} of {of} rows of {', '.join(map(str, paths))}: generation on {device}, taken as bfloat16"
    return f"published, not measured here: {what}; a step is batch size / tokens per second, the prefill included"

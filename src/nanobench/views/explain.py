"""The reason beside every ratio, in tables and sentences. Every number comes from analysis.explain and analysis.waterfall."""

from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanobench.analysis.crossover import Crossover, Pays
from nanobench.analysis.explain import PUBLISHED
from nanobench.analysis.waterfall import BATCH, MOST_GAP, Factor, Waterfall
from nanobench.records import JUDGED, MEASURED
from nanobench.roofline.flops import KV_ACCESS
from nanobench.views import format
from nanobench.views import sweep as views
from nanobench.views.cell_table import CellTable, named, varying
from nanobench.views.markdown import Row

TRY = "try"
COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "output\ntok/s": ("output_tok_s", lambda row: format.text(row["output_tok_s"], "tok/s")),
    "TPOT": ("tpot_s", lambda row: format.text(row["tpot_s"], "s")),
    "step": ("step_s", lambda row: format.text(row["step_s"], "s")),
    "speedup\n[95 %]": ("speedup", lambda row: views.speedup(row)),
    "predicted\nTPOT": ("predicted_tpot_s", lambda row: format.text(row["predicted_tpot_s"], "s")),
    "error": ("prediction_error", lambda row: signed(row["prediction_error"])),
    "predicted\nspeedup\n(reached)": ("predicted_speedup", lambda row: promised(row, "predicted")),
    "naive\nspeedup\n(reached)": ("naive_speedup", lambda row: promised(row, "naive")),
    "weight\nfloor": ("weight_floor_s", lambda row: format.text(row["weight_floor_s"], "s")),
    "step /\nfloor": ("floor_ratio", lambda row: times(row["floor_ratio"])),
    "bytes\nfloor": ("bandwidth_floor_s", lambda row: format.text(row["bandwidth_floor_s"], "s")),
    "FLOPs\nfloor": ("compute_floor_s", lambda row: format.text(row["compute_floor_s"], "s")),
    "MBU": ("mbu", lambda row: percent(row["mbu"])),
    "MFU": ("mfu", lambda row: percent(row["mfu"])),
    "bound by": ("bound_by", lambda row: row["bound_by"] or format.MISSING),
    TRY: ("tries", lambda row: either(row["tries"])),
}
DROPPABLE = (
    "MFU",
    "MBU",
    "weight\nfloor",
    "output\ntok/s",
    "step /\nfloor",
    TRY,
    "naive\nspeedup\n(reached)",
    "predicted\nTPOT",
)
TABLE = CellTable(COLUMNS, DROPPABLE, left=("bound by", TRY), wrapped={TRY: 22})
DOUBT = " *"
PARTS = {"bandwidth": "moving bytes takes", "compute": "multiplying takes"}


# Cells
def fitting(rows: list[Row], console: Console) -> Iterator[Table | str]:
    """The table as wide as the console allows, and which of its columns that leaves out."""
    return TABLE.fitting(rows, TABLE.known(rows), console)


def promised(row: Row, by: str) -> str:
    """A promised speedup with the share of it that was reached: 14.2x (16 %)."""
    value, share = row[f"{by}_speedup"], row[f"{by}_share"]
    return format.MISSING if value is None else f"{times(value)} ({percent(share)})"


def times(value: float | None) -> str:
    """2.84x, 1,234x."""
    return format.MISSING if value is None else f"{format.text(value, 'ratio')}x"


def percent(share: float | None) -> str:
    """A share as 12 %, a small one as 0.85 %."""
    return format.MISSING if share is None else f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def signed(share: float | None) -> str:
    """How far the measured lies above (+) or below (-) the predicted."""
    return format.MISSING if share is None else f"{100 * share:+.0f} %"


# Sentences
def sentences(rows: list[Row]) -> list[str]:
    """One per cell: how its step time stands, what binds it, and what to try."""
    return [f"{named(rows, row)}: {because(row)}" for row in rows]


def because(row: Row) -> str:
    """A cell's reason in words; what can't be believed says so first."""
    if row["status"] not in (*MEASURED, PUBLISHED):
        return f"{row['status']}, {row['reason'] or 'no reason given'}"
    doubt = "" if row["status"] in (*JUDGED, PUBLISHED) else f"{row['status']}, not judged ({row['reason']}); "
    where = " and ".join(filter(None, (over_batch(row), over_floor(row))))
    tries = f"; try {either(row['tries'])}" if row["tries"] else ""
    return doubt + ": ".join(filter(None, (where, cause(row)))) + tries


def either(tries: list[str]) -> str:
    """What to try: one, two or three."""
    return " or ".join(filter(None, [", ".join(tries[:-1]), *tries[-1:]]))


def over_batch(row: Row) -> str:
    """How the step time stands over the batch sizes of its arm; empty where there is only one."""
    if row["is_flat"]:
        return f"step time is flat from batch {row['flat_from']} to {row['flat_to']}"
    if row["over_least_step"] is None:
        return ""
    if row["over_least_step"] == 1:
        return "step time is the smallest of its arm"
    return f"step time is {times(row['over_least_step'])} that at batch {row['least_step_batch']}"


def over_floor(row: Row) -> str:
    """How many times a step takes what reading its weights does; empty where that is not known."""
    ratio, verb = row["floor_ratio"], "" if over_batch(row) else "step time is "
    if ratio is None:
        return ""
    stays = " (the weights stay in a processor's cache)" if ratio < 1 else ""
    return f"{verb}{times(ratio)} the weight-read floor{stays}"


def cause(row: Row) -> str:
    """What binds a cell."""
    bound = row["bound_by"]
    if bound is None:
        return "training is not predicted" if row["seq_len"] else "no reason is known without a prediction"
    if row["status"] == PUBLISHED:
        return published_cause(row)
    if bound == "unexplained":
        return f"it is {times(row['over_predicted'])} what was predicted, and nothing here explains that"
    if bound == "allocator":
        return f"CUDA's allocator ran out and freed its cache to go on ({format.text(row['alloc_retries'], 'count')} times)"
    work = f"the host dispatches {format.text(row['operations_per_step'], 'count')} operations per step,"
    if row["operations_per_step"] is None:
        work = "the host's dispatching takes"
    return f"{PARTS.get(bound, work)} {percent(row['bound_share'])} of the predicted time"


def published_cause(row: Row) -> str:
    """What the datasheet says of a published step."""
    higher = "compute" if (row["compute_floor_s"] or 0.0) > row["bandwidth_floor_s"] else "bandwidth"
    if row["bound_by"] == "host":
        return f"the host, for the datasheet's floors lie {times(row['over_floors'])} or more below it"
    if row["bound_by"] == "unexplained":
        return f"unexplained, for the higher of the datasheet's floors ({higher}) lies {times(row['over_floors'])} below it"
    return f"{higher}, {times(row['over_floors'])} the datasheet's floor"


# Crossovers
def crossing(found: Crossover, names: list[str], seen: str = "measured") -> str:
    """cached against uncached: predicted: pays from batch 1 on [1, 3]; measured: pays from batch 4 on."""
    where = in_words(found.where, names)
    prediction = f"predicted: {pays(found.predicted) if found.predicted else 'not known'}"
    if found.earliest and found.latest:
        prediction += f" [{bound(found.earliest)}, {bound(found.latest)}]"
    pairs = pays(found.measured) if found.measured else "no ratio with an interval is judged"
    return f"{found.arm} against {found.reference}{where}: {prediction}; {seen}: {pairs}"


def in_words(where: Row, names: list[str]) -> str:
    """The parts of a setting that differ, in brackets; empty where none does."""
    return f" ({', '.join(f'{name} {where[name]}' for name in names)})" if names else ""


def pays(found: Pays) -> str:
    """From which batch size on an arm pays."""
    if found.start is None:
        return f"never pays up to batch {found.most}"
    return f"pays from batch {found.start} on" + (", the smallest judged" if found.start == found.least > 1 else "")


def bound(found: Pays) -> str:
    """One end of an interval of batch sizes."""
    return f"never up to {found.most}" if found.start is None else str(found.start)


# Waterfall
WHOSE = {"cache": "the cache's", "compile": "compiling's"}


def head_of(found: Waterfall, names: list[str]) -> Text:
    """The title of a waterfall."""
    total = found.total
    ends = f"from {total.before} at batch {total.from_batch} to {total.after} at batch {total.to_batch}"
    what = "training throughput" if found.where.get("seq_len") else "output"
    return Text(f"what each change multiplies the {what} by, {ends}{in_words(found.where, names)}", style="bold")


def factors(found: Waterfall) -> Table:
    """One row per change: its factor with the arms first, and with the batch first."""
    small, large, total = found.batches[0], found.batches[-1], found.total
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("change", no_wrap=True)
    table.add_column("arms")
    heads = [f"arms at batch {small}\n[95 %]"]
    if found.batch_first:
        heads = [f"arms at batch {small},\nthen batch [95 %]", f"batch, then arms\nat batch {large} [95 %]"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
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
    """2.84x [2.48, 3.25]; what can't be believed is marked."""
    if found.ratio is None:
        return format.MISSING
    low, high = (format.text(each, "ratio") for each in (found.ratio.low, found.ratio.high))
    bounds = "" if found.ratio.low is None else f" [{low}, {high}]"
    return f"{times(found.ratio.value)}{bounds}{'' if found.judged else DOUBT}"


def notes(found: Waterfall) -> Iterator[str]:
    """What cache, or compiling, and batch do together, what is left out, and where factors do not multiply to the total."""
    both = found.interaction
    if both and both.ratio:
        yield f"at batch {both.to_batch} {WHOSE[both.step]} factor is {factor(both)} that at batch {both.from_batch}"
    if not all(each.judged for each in (*found.arms_first, *found.batch_first)):
        yield f"{DOUBT.strip()} not judged: one of the two cells is not to be believed"
    if found.left_out:
        yield f"left out of the waterfall, for no arm of this run is one: {', '.join(found.left_out)}"
    if found.aside:
        yield f"arms that are no step of the waterfall: {', '.join(found.aside)}"
    if found.gap > MOST_GAP:
        yield f"the factors multiply to {' and '.join(map(times, found.products))}, not to the total: some calls are not in all"


# What is not known
def unknown(rows: list[Row], asked: Row, command: str) -> Iterator[str]:
    """What the cells lack, why, and the command that gives it. Training is not predicted by any."""
    cells = [row for row in rows if row["status"] in MEASURED and not row["seq_len"]]
    bare = [row for row in cells if row["predicted_e2e_s"] is None]
    if not bare:
        return
    if asked.get("calibration") == "off":
        yield f"nothing is predicted without a calibration; measure again with one: {command}"
    elif len(bare) == len(cells) and all(row["operations_per_step"] is None for row in cells):
        yield f"nothing is predicted: no calibration and no count of operations in this run; measure again: {command}"
    else:
        arms = ", ".join(dict.fromkeys(row["arm"] for row in bare))
        why = "no calibration or no count of operations; measure again: " + command
        if all(row["kv_access"] is None for row in bare):
            why = f"their engines have no attribute path that is one of {', '.join(KV_ACCESS)}"
        yield f"nothing is predicted in {len(bare)} of {len(cells)} cells ({arms}): {why}"


# All of it
def show(console: Console, rows: list[Row], said: list[str], crossovers: list[Crossover], waterfalls: list[Waterfall]) -> None:
    """Prints table, sentences, crossovers and waterfalls."""
    names, seen = varying(rows), "published" if any(row["status"] == PUBLISHED for row in rows) else "measured"
    cells, *left_out = fitting(rows, console)
    console.print(cells)
    for line in [*left_out, *said, *(crossing(each, names, seen) for each in crossovers)]:
        console.print(line, highlight=False, soft_wrap=True)
    for each in waterfalls:
        console.print()
        console.print(head_of(each, names), soft_wrap=True)
        console.print(factors(each))
        for line in notes(each):
            console.print(line, highlight=False, soft_wrap=True)


def source(paths: list[Any], used: int, of: int, device: str) -> str:
    """Where published figures come from and what was left out."""
    what = f"{used} of {of} rows of {', '.join(map(str, paths))}: generation on {device}, taken as bfloat16"
    return f"published, not measured here: {what}; a step is batch size / tokens per second, the prefill included"

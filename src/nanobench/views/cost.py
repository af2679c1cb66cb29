"""What the cells cost, as a table and in sentences. Every number comes from analysis.cost."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from nanobench.analysis.cost import Choice
from nanobench.analysis.cost_options import CostOptions
from nanobench.results.derive import CellRow
from nanobench.views import console as tables
from nanobench.views import format
from nanobench.views.cell_table import STATUS, Column, cell_name, make, namer, value
from nanobench.views.format import number

BASES = {"measured": "measured", "given": "from given power", "unknown": "unknown"}
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT"}


def money(head: str, name: str, drop: int | None = None) -> Column:
    """A column of a plain number."""
    return Column(head, lambda row: number(row[name]), needs=name, drop=drop)


def energy(head: str, name: str, drop: int | None = None) -> Column:
    """A column of joules, as kJ."""
    return Column(head, lambda row: number(row[name], 1e-3), needs=name, drop=drop)


DOLLARS = Column("USD / Mtok\n[95 %]", lambda row: with_interval(row, "usd_per_mtok"), needs="usd_per_mtok")
JOULES = Column("kJ / Mtok\n[95 %]", lambda row: with_interval(row, "energy_j_per_mtok", 1e-3), needs="energy_j_per_mtok")
BARE_JOULES = energy("kJ /\nMtok", "energy_j_per_mtok")
BASIS = Column("energy", lambda row: BASES[row["energy_basis"]], needs="energy_j_per_mtok", align="left")
COLUMNS = (
    value("TTFT", "ttft_s", drop=2),
    value("TPOT", "tpot_s", drop=3),
    Column("limits", lambda row: limits_text(row["limit_ratio"]), needs="limit_ratio", align="left"),
    DOLLARS,
    money("USD /\nbatch", "usd_per_batch", drop=1),
    money("USD /\nreply", "usd_per_reply", drop=6),
    Column("machines", lambda row: machines_text(row), needs="machines"),
    money("USD /\nyear", "usd_per_year"),
    JOULES,
    BARE_JOULES,
    energy("above\nidle", "above_idle_j_per_mtok", drop=5),
    BASIS,
    money("power\nUSD /\nMtok", "electricity_usd_per_mtok", drop=4),
    money("GPU-\nhours", "gpu_hours"),
    money("USD for\ntokens", "usd_for_tokens"),
    STATUS,
)
PRICES = {
    "usd_per_mtok": lambda value: f"${number(value)} per million output tokens",
    "electricity_usd_per_mtok": lambda value: f"${number(value)} of electricity per million output tokens",
    "energy_j_per_mtok": lambda value: f"{number(value)} J per million output tokens",
}
MOST_NAMES = 4


def fitting(rows: list[CellRow], options: CostOptions, console: Console) -> Iterator[Table | str]:
    """The table as wide as the console allows, and which of its columns that leaves out."""
    return tables.fitting(make(rows, shown(rows, options)), console)


def shown(rows: list[CellRow], options: CostOptions) -> list[Column]:
    """Without latencies that have no limit, and without the source of energy where all cells have the same one.

    Energy shows its interval only where no price has one: they are alike.
    """
    hidden = [JOULES if options.price_per_hour is not None else BARE_JOULES]
    if len({row["energy_basis"] for row in rows if row["output_tok_s"] is not None}) < 2:
        hidden.append(BASIS)
    no_limit = set(LATENCIES) - set(options.limits)
    return [column for column in COLUMNS if column not in hidden and column.needs not in no_limit]


def sentences(rows: list[CellRow], choice: Choice, options: CostOptions) -> Iterator[str]:
    """The cheapest cell, the cheapest within the limits or the one nearest to them, and what is not known."""
    if choice.by is None and choice.training is None:
        fix = "; for the cost of training, give --tokens N" if any(row["seq_len"] for row in rows) else ""
        yield f"no cheapest cell: none of the {len(rows)} cells is measured, stable and priced{fix}"
    if choice.cheapest is not None:
        yield f"cheapest: {cost_of(rows, choice.cheapest, choice.rivals, choice)}"
        if options.requests_per_day:
            yield yearly(rows[choice.cheapest], options.requests_per_day)
        yield from within_limits(rows, choice, options)
    yield from of_training(rows, choice, options)
    yield from unknown(rows, choice, options)


def cost_of(rows: list[CellRow], index: Any, rivals: list[Any], choice: Choice) -> str:
    """A cell's name and price with its interval, and those that may be as cheap."""
    row, by = rows[index], str(choice.by)
    text = f"{cell_name(rows, row)}, {PRICES[by](row[by])} {interval(row, by) or '(no interval)'}"
    names = [*map(namer(rows), (rows[rival] for rival in rivals))]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return text + (f"; as cheap within the intervals: {', '.join(names[:MOST_NAMES])}{more}" if names else "")


def within_limits(rows: list[CellRow], choice: Choice, options: CostOptions) -> Iterator[str]:
    """The cheapest cell within the limits, or that none is and which comes nearest."""
    if not options.limits:
        return
    limits = " and ".join(f"{LATENCIES[name]} at most {format.text(limit, 's')}" for name, limit in options.limits.items())
    if choice.within is not None:
        yield f"cheapest with {limits}: {cost_of(rows, choice.within, choice.within_rivals, choice)}"
        if options.requests_per_day and choice.within != choice.cheapest:
            yield yearly(rows[choice.within], options.requests_per_day)
    elif choice.nearest is None:
        yield f"no reliable cell is known to have {limits}"
    else:
        row = rows[choice.nearest]
        reached = ", ".join(f"{LATENCIES[name]} {format.text(row[name], 's')}" for name in options.limits)
        over = f"{format.times(row['limit_ratio'])} a limit"
        yield f"no reliable cell has {limits}; the nearest is {cell_name(rows, row)}, {reached} ({over})"


def yearly(row: CellRow, requests_per_day: float) -> str:
    """How many machines the request rate needs with a cell, and their cost."""
    busy = (
        f"{requests_per_day:,.0f} requests a day of {row['new_tokens']} new tokens keep {number(row['machines'])} machines busy"
    )
    whole = format.count(row["machines_whole"], "whole machine")
    power = row["electricity_usd_per_year"]
    electricity = "" if power is None else f"; electricity ${number(power)} a year"
    if row["usd_per_year"] is None:
        return f"{busy}: {whole}{electricity}"
    by_use, rented = number(row["usd_per_year"]), number(row["usd_per_year_whole"])
    return f"{busy}: ${by_use} a year paid by use, ${rented} for {whole}{electricity}"


def of_training(rows: list[CellRow], choice: Choice, options: CostOptions) -> Iterator[str]:
    """The GPU-hours of training on the tokens, or why they are not known."""
    if options.tokens is None:
        return
    if all(row.get("gpu_hours") is None for row in rows):
        yield "GPU-hours for --tokens are not known: no cell has a training throughput (train_tok_s)"
    elif choice.training is not None:
        row = rows[choice.training]
        usd = f", ${number(row['usd_for_tokens'])}" if row["usd_for_tokens"] is not None else ""
        yield f"fewest GPU-hours for {options.tokens:,.0f} tokens: {cell_name(rows, row)}, {number(row['gpu_hours'])}{usd}"


def unknown(rows: list[CellRow], choice: Choice, options: CostOptions) -> Iterator[str]:
    """Which cells lack an interval or an energy, and what would give it."""
    measured = [row for row in rows if row["output_tok_s"] is not None]
    if not measured:
        return
    cells = format.count(len(measured), "measured cell")
    timed = [row for row in measured if choice.by == "usd_per_mtok" or row["energy_basis"] == "given"]
    bare = sum(row[f"{choice.by}_lo"] is None for row in timed) if choice.by else 0
    if bare:
        yield f"no interval in {bare} of {cells}: there is only one repetition; measure with more --launches"
    sources = Counter(row["energy_basis"] for row in measured)
    if set(sources) - {"unknown"}:
        found = [f"{words} in {sources[basis]}" for basis, words in BASES.items() if sources[basis]]
        yield f"energy: {', '.join(found)} of {cells}"
    elif options.price_per_kwh is not None or options.idle_power_w is not None:
        yield f"energy is not known in the {cells}: there is no measured energy; give --power-w"
    negative = sum(
        row["energy_j_per_mtok"] is not None and row["idle_j_per_mtok"] is not None and row["above_idle_j_per_mtok"] is None
        for row in measured
    )
    if negative:
        yield f"no energy above idle in {negative} of {cells}: --idle-power-w is above the measured power"


def with_interval(row: CellRow, name: str, scale: float = 1) -> str:
    """0.0273 [0.0251, 0.0302]; the value alone where it has no interval."""
    return f"{number(row[name], scale)} {interval(row, name, scale)}".rstrip()


def interval(row: CellRow, name: str, scale: float = 1) -> str:
    """The interval of a value in brackets; empty where there is none."""
    return format.interval(row[f"{name}_lo"], row[f"{name}_hi"], scale)


def machines_text(row: CellRow) -> str:
    """8 (7.34): whole ones, and how many are busy."""
    return format.MISSING if row["machines"] is None else f"{row['machines_whole']:,} ({number(row['machines'])})"


def limits_text(ratio: float | None) -> str:
    """Met, or how far a latency lies above its limit."""
    return format.MISSING if ratio is None else "met" if ratio <= 1 else format.times(ratio)

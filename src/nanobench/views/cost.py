"""What the cells cost, as a table and in sentences. Every number comes from analysis.cost."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from nanobench.analysis.cost import Choice
from nanobench.analysis.cost_options import CostOptions
from nanobench.views import format
from nanobench.views.cell_table import CellTable, named
from nanobench.views.markdown import Row

DOLLARS, JOULES, BARE_JOULES = "USD / Mtok\n[95 %]", "kJ / Mtok\n[95 %]", "kJ /\nMtok"
BASES = {"measured": "measured", "given": "from given power", "unknown": "unknown"}
COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "TTFT": ("ttft_s", lambda cell: format.text(cell["ttft_s"], "s")),
    "TPOT": ("tpot_s", lambda cell: format.text(cell["tpot_s"], "s")),
    "limits": ("limit_ratio", lambda cell: limits_text(cell["limit_ratio"])),
    DOLLARS: ("usd_per_mtok", lambda cell: with_bounds(cell, "usd_per_mtok")),
    "USD /\nbatch": ("usd_per_batch", lambda cell: number(cell["usd_per_batch"])),
    "USD /\nreply": ("usd_per_reply", lambda cell: number(cell["usd_per_reply"])),
    "machines": ("machines", lambda cell: machines_text(cell)),
    "USD /\nyear": ("usd_per_year", lambda cell: number(cell["usd_per_year"])),
    JOULES: ("energy_j_per_mtok", lambda cell: with_bounds(cell, "energy_j_per_mtok", 1e-3)),
    BARE_JOULES: ("energy_j_per_mtok", lambda cell: number(cell["energy_j_per_mtok"], 1e-3)),
    "above\nidle": ("above_idle_j_per_mtok", lambda cell: number(cell["above_idle_j_per_mtok"], 1e-3)),
    "energy": ("energy_j_per_mtok", lambda cell: BASES[cell["energy_basis"]]),
    "power\nUSD /\nMtok": ("electricity_usd_per_mtok", lambda cell: number(cell["electricity_usd_per_mtok"])),
    "GPU-\nhours": ("gpu_hours", lambda cell: number(cell["gpu_hours"])),
    "USD for\ntokens": ("usd_for_tokens", lambda cell: number(cell["usd_for_tokens"])),
}
DROPPABLE = ("USD /\nbatch", "TTFT", "TPOT", "power\nUSD /\nMtok", "above\nidle", "USD /\nreply")
TABLE = CellTable(COLUMNS, DROPPABLE, left=("limits", "energy"))
PRICES = {
    "usd_per_mtok": lambda value: f"${number(value)} per million output tokens",
    "electricity_usd_per_mtok": lambda value: f"${number(value)} of electricity per million output tokens",
    "energy_j_per_mtok": lambda value: f"{number(value)} J per million output tokens",
}
MOST_NAMES = 4
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT"}


def fitting(rows: list[Row], options: CostOptions, console: Console) -> Iterator[Table | str]:
    """The table as wide as the console allows, and which of its columns that leaves out."""
    return TABLE.fitting(rows, shown(rows, options), console)


def shown(rows: list[Row], options: CostOptions) -> list[str]:
    """The heads of what some cell knows: latencies that have a limit, the source of energy where cells differ in it.

    Energy has its interval where no price has one: they are alike.
    """
    alike = len({row["energy_basis"] for row in rows if row["output_tok_s"] is not None}) < 2
    unasked = {title for name, title in LATENCIES.items() if name not in options.limits}
    droppable = unasked | {JOULES if options.price_per_hour is not None else BARE_JOULES} | ({"energy"} if alike else set())
    return [head for head in TABLE.known(rows) if head not in droppable]


def sentences(rows: list[Row], choice: Choice, options: CostOptions) -> Iterator[str]:
    """The cheapest cell, the cheapest within the limits or the one nearest to them, and what is not known."""
    if choice.by is None and choice.training is None:
        mend = "; training is priced by its tokens: give --tokens N" if any(row["seq_len"] for row in rows) else ""
        yield f"nothing is named cheapest: none of the {len(rows)} cells is measured, stable and priced{mend}"
    if choice.cheapest is not None:
        yield f"cheapest: {cost_of(rows, choice.cheapest, choice.rivals, choice)}"
        if options.requests_per_day:
            yield yearly(rows[choice.cheapest], options.requests_per_day)
        yield from within_limits(rows, choice, options)
    yield from of_training(rows, choice, options)
    yield from unknown(rows, choice, options)


def cost_of(rows: list[Row], index: Any, rivals: list[Any], choice: Choice) -> str:
    """A cell's name and price with its interval, and those that may be as cheap."""
    row, by = rows[index], str(choice.by)
    text = f"{named(rows, row)}, {PRICES[by](row[by])} {bounds(row, by) or '(no interval)'}"
    names = [named(rows, rows[rival]) for rival in rivals]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return text + (f"; as cheap within the intervals: {', '.join(names[:MOST_NAMES])}{more}" if names else "")


def within_limits(rows: list[Row], choice: Choice, options: CostOptions) -> Iterator[str]:
    """The cheapest cell within the limits, or that none is and which comes nearest."""
    if not options.limits:
        return
    limits = " and ".join(f"{LATENCIES[name]} at most {format.text(limit, 's')}" for name, limit in options.limits.items())
    if choice.within is not None:
        yield f"cheapest with {limits}: {cost_of(rows, choice.within, choice.within_rivals, choice)}"
        if options.requests_per_day and choice.within != choice.cheapest:
            yield yearly(rows[choice.within], options.requests_per_day)
    elif choice.nearest is None:
        yield f"no judged cell is known to have {limits}"
    else:
        row = rows[choice.nearest]
        reached = ", ".join(f"{LATENCIES[name]} {format.text(row[name], 's')}" for name in options.limits)
        over = f"{number(row['limit_ratio'])}x a limit"
        yield f"no judged cell has {limits}; nearest comes {named(rows, row)}, {reached} ({over})"


def yearly(row: Row, requests_per_day: float) -> str:
    """What the request rate takes with a cell."""
    busy = (
        f"{requests_per_day:,.0f} requests a day of {row['new_tokens']} new tokens keep {number(row['machines'])} machines busy"
    )
    whole = f"{row['machines_whole']:,} whole machine{'' if row['machines_whole'] == 1 else 's'}"
    power = row["electricity_usd_per_year"]
    electricity = "" if power is None else f"; electricity ${number(power)} a year"
    if row["usd_per_year"] is None:
        return f"{busy}: {whole}{electricity}"
    by_use, rented = number(row["usd_per_year"]), number(row["usd_per_year_whole"])
    return f"{busy}: ${by_use} a year paid by use, ${rented} for {whole}{electricity}"


def of_training(rows: list[Row], choice: Choice, options: CostOptions) -> Iterator[str]:
    """What training on the tokens takes, or that it is not known."""
    if options.tokens is None:
        return
    if all(row.get("gpu_hours") is None for row in rows):
        yield "GPU-hours for --tokens are not known: no cell has a training throughput (train_tok_s)"
    elif choice.training is not None:
        row = rows[choice.training]
        usd = f", ${number(row['usd_for_tokens'])}" if row["usd_for_tokens"] is not None else ""
        yield f"fewest GPU-hours for {options.tokens:,.0f} tokens: {named(rows, row)}, {number(row['gpu_hours'])}{usd}"


def unknown(rows: list[Row], choice: Choice, options: CostOptions) -> Iterator[str]:
    """Which cells lack an interval or an energy, and what would give it."""
    measured = [row for row in rows if row["output_tok_s"] is not None]
    timed = [row for row in measured if choice.by == "usd_per_mtok" or row["energy_basis"] == "given"]
    bare = sum(row[f"{choice.by}_lo"] is None for row in timed) if choice.by else 0
    if bare:
        yield f"no interval in {bare} of {counted(len(measured))}: a lone repetition; measure with more --launches"
    sources = Counter(row["energy_basis"] for row in measured)
    if set(sources) - {"unknown"}:
        found = [f"{words} in {sources[basis]}" for basis, words in BASES.items() if sources[basis]]
        yield f"energy: {', '.join(found)} of {counted(len(measured))}"
    elif options.price_per_kwh is not None or options.idle_power_w is not None:
        yield f"energy is not known in the {counted(len(measured))}: it was not measured; give --power-w"
    negative = sum(
        row["energy_j_per_mtok"] is not None and row["idle_j_per_mtok"] is not None and row["above_idle_j_per_mtok"] is None
        for row in measured
    )
    if negative:
        yield f"no energy above idle in {negative} of {counted(len(measured))}: --idle-power-w is above what was measured"


def counted(cells: int) -> str:
    """14 measured cells."""
    return f"{cells} measured cell{'' if cells == 1 else 's'}"


def with_bounds(row: Row, name: str, scale: float = 1) -> str:
    """0.0273 [0.0251, 0.0302]; the value alone where it has no interval."""
    return f"{number(row[name], scale)} {bounds(row, name, scale)}".rstrip()


def bounds(row: Row, name: str, scale: float = 1) -> str:
    """The interval of a value in brackets; empty where there is none."""
    low, high = row[f"{name}_lo"], row[f"{name}_hi"]
    return "" if low is None else f"[{number(low, scale)}, {number(high, scale)}]"


def number(value: float | None, scale: float = 1) -> str:
    """12,345 or 0.0123 or 3.93e-05; a dash for what is not known."""
    if value is None:
        return format.MISSING
    return f"{value * scale:,.0f}" if value * scale >= 1000 else f"{value * scale:.3g}"


def machines_text(row: Row) -> str:
    """8 (7.34): whole ones, and how many are busy."""
    return format.MISSING if row["machines"] is None else f"{row['machines_whole']:,} ({number(row['machines'])})"


def limits_text(ratio: float | None) -> str:
    """Met, or how far a latency lies above its limit."""
    return format.MISSING if ratio is None else "met" if ratio <= 1 else f"{ratio:.3g}x"

"""The cost of each cell in money and energy, from the price and power that the user gives, and the cheapest cell.

Every figure is proportional to the machine's seconds per output token, and so are its bounds.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nanobench.analysis.cost_options import CostOptions
from nanobench.errors import UserError
from nanobench.records import JUDGED, MEASURED
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS

HOUR_S = 3600
DAY_S = 24 * HOUR_S
YEAR_DAYS = 365
MILLION = 1e6
KWH_J = 3.6e6
TAILS = ("", "_lo", "_hi")
"""A quantity's column, and the two of its 95 % interval."""
HEAD = (
    *("run", *POINT_FIELDS, *ARM_FIELDS, "arm", "arm_index", "status", "reason", "gate", "synthetic"),
    *("output_tok_s", "ttft_s", "tpot_s"),
)
BY = ("usd_per_mtok", "electricity_usd_per_mtok", "energy_j_per_mtok")
"""The cheapest cell has the smallest value of the first of these columns that is known."""
ROUNDING = 1e-12


@dataclass(frozen=True)
class Choice:
    """Row numbers of the result of `costs`: the cheapest reliable cell, and the cheapest or nearest one for the limits."""

    by: str | None
    """the column that decided"""
    cheapest: int | None
    rivals: list[int]
    """reliable cells that may be as cheap: their intervals overlap"""
    within: int | None
    within_rivals: list[int]
    nearest: int | None
    training: int | None
    """the reliable cell that trains on the tokens in the fewest GPU-hours"""


def costs(cells: pd.DataFrame, options: CostOptions) -> pd.DataFrame:
    """The cells by point and arm, with their costs; null for what is not known. Raises UserError if nothing can be known."""
    cells = in_order(cells)
    basis = energy_basis(cells, options)
    trains = options.tokens is not None and known(cells, "train_tok_s").notna().any()
    if options.price_per_hour is None and basis.eq("unknown").all() and options.power_w is None and not trains:
        fix = "--price-per-hour USD for dollars, --power-w W for joules, or both"
        raise UserError(f"neither a price nor a power was given, and no cell has measured energy; give {fix}")
    found = cells.reindex(columns=list(HEAD))
    seconds = seconds_per_token(cells)
    priced = {
        tail: {**of_time(cells, options, seconds[tail]), **of_energy(cells, options, seconds[tail], tail)} for tail in TAILS
    }
    found = found.assign(**{name + tail: priced[tail][name] for name in priced[""] for tail in TAILS}, energy_basis=basis)
    if options.limits:
        found["limit_ratio"] = limit_ratio(cells, options)
    return found.assign(**of_training(cells, options))


def in_order(cells: pd.DataFrame) -> pd.DataFrame:
    """Sorted by run, point and arm, and numbered from 0."""
    by = [name for name in ("run", *POINT_FIELDS, "arm_index") if name in cells]
    return cells.sort_values(by, kind="stable", ignore_index=True)


def known(cells: pd.DataFrame, name: str) -> pd.Series:
    """A column of the measured cells as floats; null for other cells, and null everywhere if there is no such column."""
    values = cells[name].astype(float) if name in cells else pd.Series(np.nan, cells.index)
    return values.where(cells["status"].isin(MEASURED))


def given(value: float | None) -> float:
    """An option as a number; if it was not given, everything computed from it is null."""
    return math.nan if value is None else value


def seconds_per_token(cells: pd.DataFrame) -> dict[str, pd.Series]:
    """Tail of a column -> the machine's seconds per output token of all rows: the value, and the bounds of its 95 % interval.

    The inverse of output_tok_s and of its bounds, which are over the launches. Null if there is only one value.
    """
    names = {"": "output_tok_s", "_lo": "output_tok_s_hi", "_hi": "output_tok_s_lo"}
    return {tail: 1 / known(cells, name) for tail, name in names.items()}


def of_time(cells: pd.DataFrame, options: CostOptions, seconds: pd.Series) -> dict[str, pd.Series]:
    """Money and machines, from seconds per token. A machine that is rented by the year is paid for all hours."""
    price, requests = given(options.price_per_hour), given(options.requests_per_day)
    reply_s = known(cells, "new_tokens") * seconds
    usd_per_reply = price / HOUR_S * reply_s
    machines = requests / DAY_S * reply_s
    whole = rounded_up(machines)
    return {
        "usd_per_mtok": price / HOUR_S * MILLION * seconds,
        "usd_per_batch": usd_per_reply * known(cells, "batch_size"),
        "usd_per_reply": usd_per_reply,
        "machines": machines,
        "machines_whole": whole.astype("Int64"),
        "usd_per_year": usd_per_reply * requests * YEAR_DAYS,
        "usd_per_year_whole": whole * price * 24 * YEAR_DAYS,
    }


def rounded_up(machines: pd.Series) -> pd.Series:
    """The whole number of machines; 2 stays 2 if floating point makes it slightly larger."""
    return np.ceil(machines * (1 - ROUNDING))


def of_energy(cells: pd.DataFrame, options: CostOptions, seconds: pd.Series, tail: str) -> dict[str, pd.Series]:
    """Energy and electricity, from seconds per token; idle energy and the energy above idle are separate.

    A measured energy has no interval. Above idle is null if the idle energy is more than the measured one.
    """
    measured = known(cells, "energy_j_per_token") * MILLION if not tail else pd.Series(np.nan, cells.index)
    energy_j = (given(options.power_w) * MILLION * seconds).mask(has_measured_energy(cells), measured)
    idle_j = given(options.idle_power_w) * MILLION * seconds
    above_j = energy_j - idle_j
    electricity = energy_j / KWH_J * given(options.price_per_kwh)
    tokens_per_year = given(options.requests_per_day) * YEAR_DAYS * known(cells, "new_tokens")
    return {
        "energy_j_per_mtok": energy_j,
        "idle_j_per_mtok": idle_j,
        "above_idle_j_per_mtok": above_j.where(above_j >= 0),
        "electricity_usd_per_mtok": electricity,
        "electricity_usd_per_year": electricity * tokens_per_year / MILLION,
    }


def has_measured_energy(cells: pd.DataFrame) -> pd.Series:
    """Whether a cell generates and the energy counter ran long enough for it."""
    valid = cells["energy_valid"].eq(True).fillna(False) if "energy_valid" in cells else False
    return known(cells, "energy_j_per_token").notna() & known(cells, "output_tok_s").notna() & valid


def energy_basis(cells: pd.DataFrame, options: CostOptions) -> pd.Series:
    """Where a cell's energy comes from: measured, given (the power that the user gave), or unknown."""
    by_power = known(cells, "output_tok_s").notna() & (options.power_w is not None)
    return pd.Series(np.select([has_measured_energy(cells), by_power], ["measured", "given"], "unknown"), cells.index)


def limit_ratio(cells: pd.DataFrame, options: CostOptions) -> pd.Series:
    """The largest of a cell's median latencies over their limits: at most 1 if it meets all, null if one is not known."""
    shares = [known(cells, name) / limit for name, limit in options.limits.items()]
    return pd.concat(shares, axis=1).max(axis=1, skipna=False)


def of_training(cells: pd.DataFrame, options: CostOptions) -> dict[str, pd.Series]:
    """GPU-hours and money for the tokens to be trained on; no column if no cell has a training throughput."""
    rate = known(cells, "train_tok_s")
    if options.tokens is None or rate.isna().all():
        return {}
    hours = options.tokens / rate / HOUR_S
    return {"gpu_hours": hours * options.gpus, "usd_for_tokens": hours * given(options.price_per_hour)}


def choose(found: pd.DataFrame, options: CostOptions) -> Choice:
    """The cheapest reliable cells; of equal ones the one with the lower TTFT, then TPOT."""
    judged = found[found["status"].isin(JUDGED)]
    by = next((name for name in BY if judged[name].notna().any()), None)
    priced = judged.dropna(subset=[by]) if by else judged.iloc[:0]
    meeting = priced[priced["limit_ratio"] <= 1] if options.limits else priced.iloc[:0]
    nearest = least(priced, "limit_ratio", by) if by and options.limits and meeting.empty else None
    training = least(judged, "gpu_hours") if "gpu_hours" in judged else None
    (cheapest, rivals), (within, within_rivals) = (with_rivals(rows, by) for rows in (priced, meeting))
    return Choice(by, cheapest, rivals, within, within_rivals, nearest, training)


def with_rivals(priced: pd.DataFrame, by: str | None) -> tuple[int | None, list[int]]:
    """The cheapest cell, and those whose interval begins below the end of its interval."""
    cheapest = least(priced, by) if by else None
    if cheapest is None:
        return None, []
    low, high = (priced[f"{by}{tail}"].fillna(priced[by]) for tail in ("_lo", "_hi"))
    return cheapest, [int(index) for index in priced.index[low <= high[cheapest]] if index != cheapest]


def least(rows: pd.DataFrame, *by: str) -> int | None:
    """The row with the smallest value; of equal ones that of the next column, then TTFT, then TPOT, then the first."""
    ordered = rows.dropna(subset=[by[0]]).sort_values([*by, "ttft_s", "tpot_s"], kind="stable")
    return None if ordered.empty else int(ordered.index[0])

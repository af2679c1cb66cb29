"""Dollars and joules worked by hand, their bounds, which cell is named cheapest, and the command."""

import io
import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from nanobench.analysis import cost
from nanobench.analysis.cost_options import VALID, CostOptions
from nanobench.cli import app
from nanobench.errors import UserError
from nanobench.records import MEASURED, Status
from nanobench.results import finder
from nanobench.results.store import cells_schema, records
from nanobench.views import cost as views
from nanobench.views import format

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference-cpu"
PAGE = ROOT / "docs" / "cost.md"
POINT = {"model": "gpt2", "dtype": "bfloat16", "device": "cuda", "threads": 1, "prompt_len": 50, "new_tokens": 200}
NUMBERS = (
    "usd_per_mtok",
    "usd_per_batch",
    "usd_per_reply",
    "machines",
    "machines_whole",
    "usd_per_year",
    "usd_per_year_whole",
    "energy_j_per_mtok",
    "idle_j_per_mtok",
    "above_idle_j_per_mtok",
    "electricity_usd_per_mtok",
    "electricity_usd_per_year",
)
RELIABLE = ["ok", "imprecise"]
UNRELIABLE = ["unstable", "no_steady_state"]
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=20)
amounts = st.floats(1e-3, 1e6)
shares = st.floats(0.01, 1)


def cell(e2e_s=None, batch_size=93, arm="cached", arm_index=1, status="ok", spread=None, **known):
    """A cell whose calls all take e2e_s; `spread` is by which factor the bounds of that time lie apart from it."""
    seen = {**POINT, "engine": arm, "arm": arm, "arm_index": arm_index, "batch_size": batch_size, "status": status, **known}
    if e2e_s is not None:
        seen |= {"output_tok_s": batch_size * seen["new_tokens"] / e2e_s, "e2e_s": e2e_s}
    if spread is not None:
        rate = seen["output_tok_s"]
        seen |= {"output_tok_s_lo": rate / spread, "output_tok_s_hi": rate * spread}
    return seen


def frame(*cells):
    """Cells as finder.load gives them."""
    return pa.Table.from_pylist(list(cells), schema=cells_schema()).to_pandas().assign(run="here")


def costs(*cells, **asked):
    """The cells with their costs, as rows of plain values."""
    return records(cost.costs(frame(*cells), CostOptions(**asked)))


def only(*cells, **asked):
    (row,) = costs(*cells, **asked)
    return row


def chosen(*cells, **asked):
    """What is chosen among the cells, which are sorted already."""
    wish = CostOptions(**asked)
    return cost.choose(cost.costs(frame(*cells), wish), wish)


def said(*cells, **asked):
    """The sentences under the table."""
    wish = CostOptions(**asked)
    found = cost.costs(frame(*cells), wish)
    return list(views.sentences(records(found), cost.choose(found, wish), wish))


def printed(*cells, width=140, **asked):
    """The table and what stands below it, as a terminal of this width shows it."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for part in views.fitting(costs(*cells, **asked), CostOptions(**asked), console):
        console.print(part, soft_wrap=True)
    return console.file.getvalue()


# Money


def test_a_batch_of_93_replies_in_22_seconds_at_3_dollars_an_hour():
    row = only(cell(22.04), price_per_hour=3, requests_per_day=10e6)
    assert row["usd_per_batch"] == pytest.approx(22.04 * 3 / 3600) == pytest.approx(0.018367, abs=1e-6)
    assert row["usd_per_reply"] == pytest.approx(0.018366667 / 93)
    assert row["usd_per_mtok"] == pytest.approx(0.987455, abs=1e-6)
    assert row["machines"] == pytest.approx(10e6 / 93 * 22.04 / 86400) == pytest.approx(27.4293, abs=1e-4)
    assert row["machines_whole"] == 28
    assert row["usd_per_year"] == pytest.approx(720_842, abs=1)
    assert row["usd_per_year_whole"] == pytest.approx(28 * 3 * 8760)


def test_a_request_is_one_row_whatever_the_batch():
    one, eight = costs(cell(1.0, batch_size=1), cell(8.0, batch_size=8), price_per_hour=3.6, requests_per_day=86400)
    assert one["machines"] == eight["machines"] == pytest.approx(1)
    assert one["usd_per_reply"] == eight["usd_per_reply"] == pytest.approx(0.001)
    assert (one["usd_per_batch"], eight["usd_per_batch"]) == pytest.approx((0.001, 0.008))


@pytest.mark.parametrize(("requests", "whole"), [(86400, 1), (172800, 2), (172801, 3), (1, 1), (10 * 86400, 10)])
def test_machines_are_whole_and_rounding_adds_none(requests, whole):
    for e2e_s in (1.0, 1 + 1e-15):
        assert only(cell(e2e_s, batch_size=1), price_per_hour=1, requests_per_day=requests)["machines_whole"] == whole


# Bounds


def test_the_bounds_are_those_of_the_time_in_the_same_ratio_to_the_value():
    row = only(
        cell(10.0, spread=1.25), price_per_hour=3, power_w=300, idle_power_w=60, price_per_kwh=0.15, requests_per_day=1e6
    )
    for name in set(NUMBERS) - {"machines_whole", "usd_per_year_whole"}:
        assert row[f"{name}_lo"] == pytest.approx(row[name] / 1.25), name
        assert row[f"{name}_hi"] == pytest.approx(row[name] * 1.25), name
    assert [row[f"machines_whole{tail}"] for tail in ("_lo", "", "_hi")] == [1, 2, 2]
    assert row["machines_lo"] == pytest.approx(1e6 / 93 * 8 / 86400)


@fixed
@given(amounts, amounts, amounts, shares, shares)
def test_the_interval_of_a_cost_is_the_inverse_of_the_interval_of_the_rate(price, rate, e2e_s, below, above):
    rates = rate * below, rate, rate / above
    seen = {**cell(e2e_s), **dict(zip(("output_tok_s_lo", "output_tok_s", "output_tok_s_hi"), rates, strict=True))}
    row = only(seen, price_per_hour=price)
    found = [row[f"usd_per_mtok{tail}"] for tail in ("_hi", "", "_lo")]
    assert found == pytest.approx([price / 3600 / each * 1e6 for each in rates], rel=1e-9)
    assert found == sorted(found, reverse=True)


@fixed
@given(amounts, st.integers(1, 500), amounts, st.floats(1, 1e9), st.floats(1, 3))
def test_all_that_is_paid_follows_from_the_price_of_a_reply(e2e_s, batch_size, price, requests, spread):
    row = only(cell(e2e_s, batch_size=batch_size, spread=spread), price_per_hour=price, requests_per_day=requests)
    for tail in ("", "_lo", "_hi"):
        assert row[f"usd_per_batch{tail}"] == pytest.approx(batch_size * row[f"usd_per_reply{tail}"])
        assert row[f"usd_per_year{tail}"] == pytest.approx(365 * requests * row[f"usd_per_reply{tail}"])
        assert row[f"usd_per_year{tail}"] == pytest.approx(row[f"machines{tail}"] * price * 8760)
        assert row[f"machines_whole{tail}"] == pytest.approx(
            math.ceil(row[f"machines{tail}"]), abs=1e-6 * row["machines"] + 1e-9
        )
        assert row[f"usd_per_year_whole{tail}"] >= row[f"usd_per_year{tail}"] * (1 - 1e-9)


# Energy


def test_energy_from_a_given_power_and_what_is_above_idle():
    row = only(cell(22.04), power_w=300, idle_power_w=60, price_per_kwh=0.15, requests_per_day=10e6)
    assert row["energy_basis"] == "given"
    assert row["energy_j_per_mtok"] == pytest.approx(300 * 22.04 / 18600 * 1e6) == pytest.approx(355_484, abs=1)
    assert row["idle_j_per_mtok"] == pytest.approx(71_097, abs=1)
    assert row["above_idle_j_per_mtok"] == pytest.approx(284_387, abs=1)
    assert row["electricity_usd_per_mtok"] == pytest.approx(355_484 / 3.6e6 * 0.15, abs=1e-6)
    assert row["electricity_usd_per_year"] == pytest.approx(365 * 10e6 * 200 / 1e6 * row["electricity_usd_per_mtok"])
    assert row["usd_per_mtok"] is None


def test_a_measured_energy_comes_before_a_given_power_and_has_no_interval():
    row = only(cell(10.0, spread=1.1, energy_j_per_token=0.5, energy_valid=True), power_w=300, idle_power_w=60)
    assert (row["energy_basis"], row["energy_j_per_mtok"]) == ("measured", 500_000)
    assert (row["energy_j_per_mtok_lo"], row["energy_j_per_mtok_hi"]) == (None, None)
    assert row["above_idle_j_per_mtok"] == pytest.approx(500_000 - 60 * 10 / 18600 * 1e6)
    assert row["idle_j_per_mtok_lo"] == pytest.approx(row["idle_j_per_mtok"] / 1.1)


@pytest.mark.parametrize("valid", [False, None])
def test_an_energy_that_is_not_valid_is_not_used(valid):
    seen = cell(10.0, energy_j_per_token=0.5, energy_valid=valid)
    assert only(seen, price_per_hour=3)["energy_basis"] == "unknown"
    assert only(seen, price_per_hour=3)["energy_j_per_mtok"] is None
    assert only(seen, power_w=300)["energy_basis"] == "given"


def test_a_measured_energy_alone_is_enough_to_ask_for_nothing():
    assert only(cell(10.0, energy_j_per_token=0.5, energy_valid=True))["energy_j_per_mtok"] == 500_000


def test_above_idle_is_unknown_where_idle_is_more_than_what_was_measured_and_that_is_said():
    seen = cell(10.0, energy_j_per_token=0.01, energy_valid=True)
    assert only(seen, idle_power_w=60)["above_idle_j_per_mtok"] is None
    assert said(seen, idle_power_w=60)[-1].startswith("no energy above idle in 1 of 1 measured cell: --idle-power-w is above")


def test_energy_that_nobody_knows_is_asked_for():
    assert said(cell(10.0), price_per_hour=3, price_per_kwh=0.15)[-1] == (
        "energy is not known in the 1 measured cell: there is no measured energy; give --power-w"
    )


def test_the_source_of_the_energy_is_told_in_words():
    measured = cell(10.0, batch_size=1, energy_j_per_token=0.5, energy_valid=True)
    assert said(cell(10.0), power_w=300)[-1] == "energy: from given power in 1 of 1 measured cell"
    assert said(measured, cell(10.0), power_w=300)[-1] == "energy: measured in 1, from given power in 1 of 2 measured cells"
    text = printed(measured, cell(10.0), power_w=300)
    assert "from given power" in text
    assert "measured" in text


@fixed
@given(amounts, amounts, shares)
def test_total_is_idle_and_what_is_above_it(e2e_s, power_w, idle):
    row = only(cell(e2e_s, spread=1.5), power_w=power_w, idle_power_w=power_w * idle)
    for tail in ("", "_lo", "_hi"):
        total = row[f"idle_j_per_mtok{tail}"] + row[f"above_idle_j_per_mtok{tail}"]
        assert total == pytest.approx(row[f"energy_j_per_mtok{tail}"])


# What is not known


@pytest.mark.parametrize("status", [status for status in Status if status not in MEASURED])
def test_a_cell_that_was_not_measured_has_its_status_and_no_number(status):
    seen = cell(status=str(status), reason="because")
    everything = {"price_per_hour": 3, "power_w": 300, "idle_power_w": 60, "price_per_kwh": 0.15, "requests_per_day": 1e6}
    row = only({**seen, "output_tok_s": 5.0, "e2e_s": 1.0}, **everything, max_ttft=1)
    assert row["status"] == status
    assert {row[f"{name}{tail}"] for name in NUMBERS for tail in ("", "_lo", "_hi")} == {None}
    assert row["energy_basis"] == "unknown"
    text = printed(cell(10.0, batch_size=1), seen, **everything)
    assert f"{status}: because" in text
    (line,) = [line for line in text.splitlines() if str(status) in line]
    assert line.split()[2:-2] == [format.MISSING] * (len(line.split()) - 4)


def test_what_was_not_asked_for_or_cannot_be_known_is_null_and_never_0():
    row = only(cell(10.0), price_per_hour=3)
    null = set(NUMBERS) - {"usd_per_mtok", "usd_per_batch", "usd_per_reply"}
    assert {row[name] for name in null} == {None}
    assert {row[f"usd_per_mtok{tail}"] for tail in ("_lo", "_hi")} == {None}


def test_cells_without_an_interval_are_counted_with_the_fix():
    lines = said(cell(10.0, batch_size=1), cell(10.0, spread=1.1), price_per_hour=3)
    assert lines[-1] == "no interval in 1 of 2 measured cells: there is only one repetition; measure with more --launches"
    assert len(said(cell(10.0, spread=1.1), price_per_hour=3)) == 1


def test_cells_are_sorted_by_point_and_arm():
    mixed = [cell(1.0, batch_size=8), cell(1.0, batch_size=16, arm="uncached", arm_index=0), cell(1.0, batch_size=1)]
    mixed += [cell(1.0, batch_size=16), cell(1.0, batch_size=8, arm="uncached", arm_index=0)]
    found = [(row["batch_size"], row["arm"]) for row in costs(*mixed, price_per_hour=3)]
    assert found == [(1, "cached"), (8, "uncached"), (8, "cached"), (16, "uncached"), (16, "cached")]


# The cheapest


def test_the_cheapest_cell_and_those_whose_intervals_reach_it():
    cells = [cell(4.0, 1, spread=1.1), cell(9.0, 8, spread=1.1), cell(17.0, 16, spread=1.1), cell(30.0, 32, spread=1.1)]
    choice = chosen(*cells, price_per_hour=3)
    assert (choice.by, choice.cheapest, choice.rivals) == ("usd_per_mtok", 3, [1, 2])
    first, *_ = said(*cells, price_per_hour=3)
    assert first == (
        "cheapest: cached at batch 32, $3.91 per million output tokens [3.55, 4.3]; "
        "as cheap within the intervals: cached at batch 8, cached at batch 16"
    )


def test_an_interval_that_begins_above_the_cheapest_one_is_no_rival():
    assert chosen(cell(10.0, 1, spread=1.1), cell(50.0, 10, spread=1.1), price_per_hour=3).rivals == []


def test_many_rivals_are_counted():
    cells = [cell(1.0 * batch_size, batch_size) for batch_size in range(1, 9)]
    assert said(*cells, price_per_hour=3)[0].endswith("cached at batch 4, cached at batch 5 and 3 more")


@pytest.mark.parametrize("status", UNRELIABLE)
def test_a_cell_that_is_unreliable_is_shown_and_never_named(status):
    cells = [cell(10.0, 8, ttft_s=0.5), cell(1.0, 16, status=status, ttft_s=0.1, tpot_s=0.1)]
    assert costs(*cells, price_per_hour=3)[1]["usd_per_mtok"] == pytest.approx(3 / 3600 / 3200 * 1e6)
    choice = chosen(*cells, price_per_hour=3, max_ttft=0.2)
    assert (choice.cheapest, choice.rivals, choice.within, choice.nearest) == (0, [], None, 0)
    assert status in printed(*cells, price_per_hour=3)


@pytest.mark.parametrize("status", RELIABLE)
def test_an_imprecise_cell_may_be_the_cheapest(status):
    assert chosen(cell(10.0, 8), cell(1.0, 16, status=status), price_per_hour=3).cheapest == 1


def test_nothing_is_named_where_nothing_is_reliable():
    cells = [cell(1.0, 8, status="unstable"), cell(batch_size=16, status="oom", reason="too large")]
    assert chosen(*cells, price_per_hour=3, max_ttft=1) == cost.Choice(None, None, [], None, [], None, None)
    assert said(*cells, price_per_hour=3, max_ttft=1) == [
        "no cheapest cell: none of the 2 cells is measured, stable and priced"
    ]


def test_of_equal_prices_the_lower_ttft_then_the_lower_tpot_then_the_first_cell_is_named():
    slow, fast, faster = ({"ttft_s": ttft, "tpot_s": tpot} for ttft, tpot in ((0.3, 0.01), (0.2, 0.03), (0.2, 0.02)))
    cells = [cell(1.0, 1, **slow), cell(2.0, 2, **fast), cell(4.0, 4, **faster), cell(8.0, 8, **faster)]
    choice = chosen(*cells, price_per_hour=3, max_ttft=0.2)
    assert (choice.cheapest, choice.rivals) == (2, [0, 1, 3])
    assert (choice.within, choice.within_rivals) == (2, [1, 3])


def test_without_a_price_per_hour_the_least_electricity_or_energy_is_cheapest():
    cells = [cell(10.0, 8), cell(10.0, 16)]
    assert chosen(*cells, power_w=300).by == "energy_j_per_mtok"
    assert chosen(*cells, power_w=300, price_per_kwh=0.15).by == "electricity_usd_per_mtok"
    assert chosen(*cells, power_w=300, price_per_kwh=0.15, price_per_hour=3).by == "usd_per_mtok"
    assert said(*cells, power_w=300)[0] == "cheapest: cached at batch 16, 937,500 J per million output tokens (no interval)"
    assert "$0.0391 of electricity per million" in said(*cells, power_w=300, price_per_kwh=0.15)[0]


def test_the_request_rate_is_told_for_the_cheapest_cell():
    assert said(cell(22.04), price_per_hour=3, requests_per_day=10e6)[1] == (
        "10,000,000 requests a day of 200 new tokens keep 27.4 machines busy: "
        "$720,842 a year paid by use, $735,840 for 28 whole machines"
    )
    assert said(cell(1.0), power_w=100, price_per_kwh=0.1, requests_per_day=93)[1] == (
        "93 requests a day of 200 new tokens keep 1.16e-05 machines busy: 1 whole machine; electricity $0.00101 a year"
    )


# Limits


LATENCIES = ({"ttft_s": 0.1, "tpot_s": 0.01}, {"ttft_s": 0.2, "tpot_s": 0.02}, {"ttft_s": 0.4, "tpot_s": 0.015})
THREE = [cell(float(3 - n), 8 << n, **seen) for n, seen in enumerate(LATENCIES)]


@pytest.mark.parametrize(
    ("asked", "within", "nearest"),
    [
        ({"max_ttft": 0.4}, 2, None),
        ({"max_ttft": 0.39}, 1, None),
        ({"max_ttft": 0.1}, 0, None),
        ({"max_tpot": 0.015}, 2, None),
        ({"max_ttft": 0.3, "max_tpot": 0.015}, 0, None),
        ({"max_ttft": 0.05}, None, 0),
        ({"max_ttft": 0.05, "max_tpot": 0.001}, None, 0),
        ({"max_ttft": 0.3, "max_tpot": 0.009}, None, 0),
    ],
)
def test_the_cheapest_within_the_limits_or_the_one_nearest_to_them(asked, within, nearest):
    choice = chosen(*THREE, price_per_hour=3, **asked)
    assert (choice.cheapest, choice.within, choice.nearest) == (2, within, nearest)


def test_nearest_is_the_cell_whose_worst_latency_is_least_above_its_limit_and_then_the_cheaper_one():
    cells = [
        cell(1.0, 1, ttft_s=0.2, tpot_s=0.05),
        cell(4.0, 2, ttft_s=0.3, tpot_s=0.02),
        cell(4.0, 4, ttft_s=0.3, tpot_s=0.02),
    ]
    assert chosen(*cells, price_per_hour=3, max_ttft=0.1, max_tpot=0.01).nearest == 2


def test_sentences_name_the_limits_and_what_is_reached():
    assert said(*THREE, price_per_hour=3, max_ttft=0.3, max_tpot=0.02)[1].startswith(
        "cheapest with TTFT at most 300 ms and TPOT at most 20 ms: cached at batch 16, $0.521 per million output tokens"
    )
    assert said(*THREE, price_per_hour=3, max_ttft=0.05)[1] == (
        "no reliable cell has TTFT at most 50 ms; the nearest is cached at batch 8, TTFT 100 ms (2x a limit)"
    )


def test_a_latency_that_is_not_known_meets_no_limit():
    seen = cell(1.0, new_tokens=1, ttft_s=0.01)
    choice = chosen(seen, price_per_hour=3, max_tpot=1)
    assert (choice.cheapest, choice.within, choice.nearest) == (0, None, None)
    assert said(seen, price_per_hour=3, max_tpot=1)[1] == "no reliable cell is known to have TPOT at most 1 s"
    assert only(seen, price_per_hour=3, max_tpot=1)["limit_ratio"] is None


@fixed
@given(st.lists(st.tuples(amounts, amounts, amounts), min_size=1, max_size=8), amounts, amounts)
def test_what_is_named_meets_the_limits_and_nothing_that_meets_them_is_cheaper(found, max_ttft, max_tpot):
    cells = [cell(e2e_s, n + 1, ttft_s=ttft, tpot_s=tpot) for n, (e2e_s, ttft, tpot) in enumerate(found)]
    rows = costs(*cells, price_per_hour=3, max_ttft=max_ttft, max_tpot=max_tpot)
    choice = chosen(*cells, price_per_hour=3, max_ttft=max_ttft, max_tpot=max_tpot)
    meeting = [row["usd_per_mtok"] for row in rows if row["limit_ratio"] <= 1]
    assert (choice.within is None) == (not meeting) == (choice.nearest is not None)
    if meeting:
        assert rows[choice.within]["usd_per_mtok"] == min(meeting)
        assert rows[choice.within]["ttft_s"] <= max_ttft * (1 + 1e-12)
    else:
        assert rows[choice.nearest]["limit_ratio"] == min(row["limit_ratio"] for row in rows)


# Training


def trained(*rates):
    """Cells of a training sweep: no generation column is known."""
    cells = frame(*(cell(batch_size=4 << n, arm="eager") for n in range(len(rates))))
    return cells.assign(train_tok_s=pd.Series(rates, dtype=float))


def test_training_on_a_budget_of_tokens_takes_gpu_hours_and_money():
    asked = CostOptions(price_per_hour=24, gpus=8, tokens=36e9)
    found = cost.costs(trained(1e6, 2e6, None), asked)
    assert found["gpu_hours"].tolist()[:2] == pytest.approx([80, 40])
    assert found["usd_for_tokens"].tolist()[:2] == pytest.approx([240, 120])
    assert found.loc[2, ["gpu_hours", "usd_for_tokens"]].isna().all()
    choice = cost.choose(found, asked)
    assert (choice.cheapest, choice.training) == (None, 1)
    assert list(views.sentences(records(found), choice, asked)) == [
        "fewest GPU-hours for 36,000,000,000 tokens: eager at batch 8, 40, $120"
    ]


def test_gpu_hours_need_no_price_and_energy_of_training_is_none_of_generation():
    measured = trained(1e6).assign(energy_j_per_token=2.0, energy_valid=True)
    asked = CostOptions(tokens=36e8, price_per_kwh=0.15)
    found = cost.costs(measured, asked)
    assert found["gpu_hours"].tolist() == pytest.approx([1.0])
    assert found["energy_j_per_mtok"].isna().all()
    assert list(views.sentences(records(found), cost.choose(found, asked), asked)) == [
        "fewest GPU-hours for 3,600,000,000 tokens: eager at batch 4, 1"
    ]
    with pytest.raises(UserError, match="neither a price nor a power was given"):
        cost.costs(measured, CostOptions())


def test_without_a_training_throughput_there_are_no_gpu_hours_and_that_is_said():
    line = "GPU-hours for --tokens are not known: no cell has a training throughput (train_tok_s)"
    assert line in said(cell(10.0, spread=1.1), price_per_hour=3, tokens=1e9)
    assert "gpu_hours" not in only(cell(10.0), price_per_hour=3, tokens=1e9)
    assert "gpu_hours" not in cost.costs(trained(None, None), CostOptions(price_per_hour=3, tokens=1e9))


# The table

ALL = {
    "price_per_hour": 3,
    "power_w": 300,
    "idle_power_w": 60,
    "price_per_kwh": 0.15,
    "requests_per_day": 10e6,
    "max_ttft": 0.3,
    "max_tpot": 0.02,
}


@pytest.mark.parametrize("width", [100, 120, 140, 200])
def test_no_number_is_cut_and_what_a_narrow_terminal_leaves_out_is_named(width):
    bounds = {"output_tok_s_lo": 1 / 1.222, "output_tok_s_hi": 1.111}
    rows = [{**seen, **{name: seen["output_tok_s"] * factor for name, factor in bounds.items()}} for seen in THREE]
    text = printed(*rows, cell(batch_size=93, status="oom", reason="out of memory " * 5), width=width, **ALL)
    assert "…" not in text
    assert "[0." in text
    assert ("left out at this width: USD / batch" in text) == (width < 140)


def test_only_what_was_asked_for_has_a_column():
    head = " ".join(printed(cell(10.0), price_per_hour=3).split("─")[0].split())
    assert "TTFT" not in head
    assert not {"machines", "kJ", "idle", "limits", "GPU-"} & set(head.split())
    assert "TTFT" in printed(*THREE, price_per_hour=3, max_ttft=1)
    assert "TPOT" not in printed(*THREE, price_per_hour=3, max_ttft=1)


def test_runs_and_settings_that_differ_are_told_apart():
    cells = [cell(10.0, 8), cell(1.0, 8, prompt_len=900)]
    assert said(*cells, price_per_hour=3)[0].startswith("cheapest: cached at batch 8 (prompt_len 900), ")
    assert "prompt len" in printed(*cells, price_per_hour=3)


# The command


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A copy of the run that comes along."""
    folder = tmp_path_factory.mktemp("cost")
    shutil.copytree(REFERENCE, folder / "run", ignore=shutil.ignore_patterns("plots"))
    return folder / "run"


def command(*arguments, code=0):
    done = CliRunner().invoke(app, ["cost", *map(str, arguments)])
    assert done.exit_code == code, done.output
    if code:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    return done.stderr if code else done.stdout


def test_the_command_ends_in_one_json_document_that_agrees_with_the_cells(reference):
    before = sorted(reference.rglob("*"))
    text = command(reference, "--price-per-hour", 0.1, "--requests-per-day", "10e6", "--max-ttft", 0.1, "--json")
    document = json.loads(text.splitlines()[-1])
    cells = finder.load(reference)
    assert [row["usd_per_mtok"] for row in document["cells"]] == pytest.approx((0.1 / 3600e-6 / cells["output_tok_s"]).tolist())
    assert all(row["energy_basis"] == "unknown" and row["energy_j_per_mtok"] is None for row in document["cells"])
    cheapest, within = document["cheapest"], document["cheapest_within_limits"]
    judged = [row for row in document["cells"] if row["status"] in RELIABLE]
    assert cheapest["usd_per_mtok"] == min(row["usd_per_mtok"] for row in judged)
    assert within["usd_per_mtok"] == min(row["usd_per_mtok"] for row in judged if row["ttft_s"] <= 0.1)
    assert document["nearest"] is None
    assert document["requested"]["requests_per_day"] == 10e6
    assert all(sentence in text for sentence in document["sentences"])
    assert sorted(reference.rglob("*")) == before


def test_a_folder_of_runs_is_priced_run_by_run(reference, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(reference, tmp_path / "runs" / name)
    document = json.loads(command(tmp_path / "runs", "--power-w", 65, "--json").splitlines()[-1])
    assert [row["run"] for row in document["cells"]] == ["one"] * 14 + ["two"] * 14
    assert {row["energy_basis"] for row in document["cells"]} == {"given"}
    assert "(run one)" in document["sentences"][0]


def test_the_newest_run_is_meant_where_none_is_named(reference, tmp_path, monkeypatch):
    shutil.copytree(reference, tmp_path / "results" / "run")
    monkeypatch.chdir(tmp_path)
    assert command("--price-per-hour", 3) == command("results", "--price-per-hour", 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["neither a price nor a power", "--price-per-hour", "--power-w"]),
        (["run", "--idle-power-w", 5, "--price-per-kwh", 0.1], ["neither a price nor a power"]),
        (["run", "--price-per-hour", -3], ["--price-per-hour -3", "above 0", "like 3"]),
        (["run", "--price-per-hour", 0], ["--price-per-hour 0", "above 0"]),
        (["run", "--price-per-hour", "nan"], ["--price-per-hour nan", "above 0"]),
        (["run", "--price-per-hour", "inf"], ["--price-per-hour inf", "above 0"]),
        (["run", "--price-per-hour", "three"], ["--price-per-hour"]),
        (["run", "--price-per-hour", 3, "--max-ttft", 0], ["--max-ttft 0", "seconds", "like 0.5"]),
        (["run", "--price-per-hour", 3, "--max-tpot", -1], ["--max-tpot -1", "seconds"]),
        (["run", "--price-per-hour", 3, "--gpus", 0], ["--gpus 0", "a whole number from 1 up"]),
        (["run", "--price-per-hour", 3, "--tokens", -5], ["--tokens -5", "like 1e9"]),
        (["run", "--price-per-hour", 3, "--requests-per-day", 0], ["--requests-per-day 0", "like 10e6"]),
        (["run", "--power-w", 50, "--idle-power-w", 60], ["--idle-power-w 60 is above --power-w 50"]),
        (["run", "--power-w", 50, "--idle-power-w", -1], ["--idle-power-w -1", "from 0 up"]),
        (["nowhere", "--price-per-hour", 3], ["no run in nowhere", "nanobench kv-sweep"]),
        (["run", "--price", 3], ["--price"]),
    ],
)
def test_a_mistake_gets_one_line_with_the_fix(reference, monkeypatch, arguments, words):
    monkeypatch.chdir(reference.parent)
    message = command(*arguments, code=2)
    for word in words:
        assert word in message


def test_the_options_know_their_valid_values():
    assert set(VALID) == set(CostOptions().given) == set(CostOptions.__dataclass_fields__)
    for name in VALID:
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} -1 is out of range; give "):
            CostOptions(**{name: -1})
    assert CostOptions(idle_power_w=0, power_w=5).idle_power_w == 0


def test_the_page_shows_what_the_command_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    asked, shown = re.search(r"```\nnanobench cost (.*?)\n```.*?```\n(.*?)```", PAGE.read_text(), re.DOTALL).groups()
    assert shown.split() == command(*asked.split()).split()

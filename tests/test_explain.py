"""Reasons worked by hand, the sentences that say them, where an arm begins to pay, published figures, and the command."""

import csv
import io
import json
import math
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from nanobench import registry
from nanobench.analysis import crossover, explain, published
from nanobench.analysis.crossover import MOST_BATCH, Pays
from nanobench.analysis.explain import PUBLISHED
from nanobench.cli import app
from nanobench.errors import UserError
from nanobench.records import MEASURED, ArmRecord, Description, LaunchRecord, Outcome, Repetition, Status, Verdict
from nanobench.results import finder, store
from nanobench.results.cell import Cell, make_cells
from nanobench.results.run_context import Calibration, Machine
from nanobench.results.run_info import RunInfo, calibration_event
from nanobench.results.store import records
from nanobench.roofline import datasheet, flops
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import Limit, Limits
from nanobench.schema import COMPILE_MODES, DTYPES, Arm, GPTShape, Point, Trial
from nanobench.sweep.options import SweepOptions
from nanobench.sweep.plan import Plan
from nanobench.views import explain as views

ROOT = Path(__file__).parents[1]
REFERENCE, SEEDS, PAGE = ROOT / "results" / "reference-cpu", ROOT / "results" / "seeds", ROOT / "docs" / "explain.md"
POINT = vars(Point(model="tiny", dtype="float32", device="cpu", threads=1, batch_size=4, prompt_len=2, new_tokens=3))
SHAPE = GPTShape(architecture="gpt2", n_layer=1, n_head=1, n_kv_head=1, n_embd=4, vocab_size=8, block_size=16, n_params=1000)
PLAIN, CACHED, COMPILED = Arm(engine="uncached"), Arm(engine="cached"), Arm(engine="cached", compile_mode="default")
PATH_OF = {"uncached": "uncached", "cached": "static", "cached-cat": "cat"}
RATE = 1e9
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def limits(operation_s=1e-3, flops=1e10, rate=RATE):
    """A calibration whose limits depend on nothing."""
    rates = dict.fromkeys(("read", "copy", "elementwise", "argmax"), rate) | dict.fromkeys(
        ("matmul", "lm_head", "attention"), flops
    )
    return [Limit(kind=kind, value=value, spread=0.0) for kind, value in {**rates, "operation": operation_s}.items()]


def machine(dtypes=("float32",), sheet=None, device="cpu", **changed):
    calibrations = {f"{device} {dtype} 1": Limits(tuple(limits(**changed))) for dtype in dtypes}
    return Machine({"tiny": SHAPE}, calibrations, sheet)


MACHINE = machine()


def a_cell(batch_size=4, arm=CACHED, machine=None, operations=10.0, **point):
    """A cell without repetitions: what a prediction needs."""
    point = Point(**{**POINT, "batch_size": batch_size, **point})
    trial = Trial(point=point, arms=(PLAIN, CACHED, COMPILED, arm), launch=1, seed=0, target_ci=0.05, max_seconds=1.0)
    outcome = Outcome(
        status=Status.OK, kv_access=PATH_OF.get(arm.engine), operations_prefill=operations, operations_per_step=operations
    )
    launches = [LaunchRecord.of(trial, 0, ArmRecord(arm=arm, outcome=outcome))]
    return Cell(launches, machine=MACHINE if machine is None else machine)


def a_row(batch_size=4, arm=CACHED, status="ok", **known):
    """A row of plain values, as tables.records gives it."""
    head = {"run": "here", **POINT, "batch_size": batch_size, "arm": arm.label, "arm_index": 0 if arm == PLAIN else 1}
    return {**dict.fromkeys(explain.COLUMNS), **head, **vars(arm), "status": str(status), **known}


def explained(*rows, made=(), cores=2):
    return explain.explained(list(rows), list(made), cores)


def only(row, *made, cores=2):
    (found,) = explained(row, made=made, cores=cores)
    return found


def said(*rows, made=(), cores=2):
    """The sentences without the names of the cells."""
    return [line.partition(": ")[2] for line in views.sentences(explained(*rows, made=made, cores=cores))]


# Flatness


def series(*steps_s, first=1, **known):
    """Cells of one arm at doubling batch sizes."""
    return [a_row(batch_size=first * 2**n, tpot_s=step_s, **known) for n, step_s in enumerate(steps_s)]


def flat(*steps_s):
    found = explained(*series(*steps_s))
    return (found[0]["flat_from"], found[0]["flat_to"]), [row["is_flat"] for row in found]


def test_a_step_is_flat_over_the_batches_within_a_quarter_of_its_smallest():
    assert flat(1.0, 1.1, 1.25, 1.26, 1.0) == ((1, 4), [True, True, True, False, False])
    assert flat(1.0, 1.0) == ((1, 2), [True, True])


def test_the_range_holds_the_smallest_step_wherever_it_is():
    assert flat(2.0, 1.2, 1.0, 1.1, 3.0) == ((2, 8), [False, True, True, True, False])


def test_a_step_that_grows_from_the_start_is_flat_nowhere():
    assert flat(1.0, 2.0, 4.0) == ((1, 1), [False, False, False])
    assert said(*series(1.0, 2.0, 4.0)) == [
        "step time is the smallest of its arm: no reason is known without a prediction",
        "step time is 2x that at batch 1: no reason is known without a prediction",
        "step time is 4x that at batch 1: no reason is known without a prediction",
    ]


def test_a_single_batch_size_is_neither_flat_nor_not():
    (row,) = explained(a_row(tpot_s=1.0))
    assert (row["flat_from"], row["is_flat"], row["over_least_step"]) == (None, None, None)
    assert said(a_row(tpot_s=1.0)) == ["no reason is known without a prediction"]


def test_arms_settings_and_runs_have_ranges_of_their_own():
    rows = [
        *series(1.0, 1.0),
        *series(5.0, 9.0, arm=PLAIN),
        *series(7.0, 7.1, prompt_len=9),
        *series(3.0, 9.0, run="there"),
    ]
    assert [row["is_flat"] for row in explained(*rows)] == [True, True, False, False, True, True, False, False]


def test_a_cell_that_is_unreliable_sets_no_range_where_others_do():
    rows = series(1.0, 1.0, 1.0)
    rows[1] |= {"status": "unstable", "tpot_s": 0.1, "reason": "noise"}
    assert [row["is_flat"] for row in explained(*rows)] == [True, True, True]
    assert [row["is_flat"] for row in explained(*(row | {"status": "unstable"} for row in rows))] == [False] * 3
    rows[1] |= {"tpot_s": 9.0}
    assert [row["is_flat"] for row in explained(*rows)] == [True, False, True]


@fixed
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9))
def test_a_flat_range_is_one_stretch_around_the_smallest_step(steps_s):
    found = explained(*series(*steps_s))
    inside = [row["flat_from"] <= row["batch_size"] <= row["flat_to"] for row in found]
    assert all(step_s <= 1.25 * min(steps_s) * (1 + 1e-12) for step_s, within in zip(steps_s, inside, strict=True) if within)
    assert inside[steps_s.index(min(steps_s))]
    beyond = [n for n, within in enumerate(inside) if not within and (inside[n - 1 : n] + inside[n + 1 : n + 2]).count(True)]
    assert all(steps_s[n] > 1.25 * min(steps_s) for n in beyond)


# Floors and shares


def test_the_weight_read_floor_is_the_weights_of_a_step_over_the_calibrated_rate():
    row = only(a_row(tpot_s=2e-6), a_cell())
    # 4 tokens look up 4 values each; 12 x 4 x 4 weights in the block and 4 x 8 in the head; four bytes each
    assert row["weight_floor_s"] == pytest.approx(4 * (12 * 16 + 32 + 4 * 4) / RATE)
    assert row["floor_ratio"] == pytest.approx(2e-6 / 0.96e-6)
    assert row["floor_basis"] == "calibration"


def test_without_a_calibration_the_datasheet_gives_the_rate():
    sheet = Datasheet(name="imagined", bytes_per_s=2 * RATE)
    row = only(a_row(tpot_s=2e-6), a_cell(machine=Machine({"tiny": SHAPE}, {}, sheet)))
    assert (row["weight_floor_s"], row["floor_basis"]) == (pytest.approx(0.48e-6), "datasheet")


@pytest.mark.parametrize("blind", [Machine(), Machine({"tiny": SHAPE}), machine()])
def test_without_shape_rate_or_path_there_is_no_floor(blind):
    cell = a_cell(machine=blind, arm=Arm(engine="fakes:slow"))
    assert only(a_row(tpot_s=1.0, arm=Arm(engine="fakes:slow")), cell)["weight_floor_s"] is None


def test_the_predicted_parts_are_those_of_a_step():
    cell = a_cell()
    row = only(a_row(tpot_s=1.0, bound_by="host", prediction_error=0.1), cell)
    parts = [row[f"predicted_{name}_s"] for name in ("host", "bandwidth", "compute")]
    assert parts[0] == pytest.approx(10 * 1e-3)
    assert sum(parts) == pytest.approx(cell.prediction.tpot_s)
    assert row["bound_share"] == pytest.approx(parts[0] / sum(parts))


def test_a_call_of_one_token_is_explained_by_its_prefill():
    cell = a_cell(new_tokens=1)
    row = only(a_row(new_tokens=1, bound_by="host", prediction_error=0.0), cell)
    assert row["predicted_host_s"] == pytest.approx(cell.prediction.prefill.host_s)
    assert said(a_row(new_tokens=1, bound_by="host", prediction_error=0.0), made=[cell])[0].startswith(
        "the host's dispatching takes 1"
    )


def test_the_shares_reached_are_the_speedup_over_what_was_promised():
    row = only(a_row(speedup=3.0, predicted_speedup=4.0, naive_speedup=12.0, prediction_error=-0.25))
    assert (row["predicted_share"], row["naive_share"], row["over_predicted"]) == (0.75, 0.25, 0.75)
    row = only(a_row())
    assert (row["predicted_share"], row["naive_share"], row["over_predicted"]) == (None, None, None)


@pytest.mark.parametrize("status", [status for status in Status if status not in MEASURED])
def test_a_cell_that_was_not_measured_has_no_reason_but_its_own(status):
    row = only(a_row(status=status, reason="because"), a_cell())
    known = {name for name in set(row) - set(explain.COLUMNS) if row[name] not in (None, [])}
    assert known == set()
    assert said(a_row(status=status, reason="because")) == [f"{status}, because"]
    assert said(a_row(status=status)) == [f"{status}, no reason given"]


# Sentences and what to try


def suggested(row, *made, cores=1):
    return only(row, *made, cores=cores)["suggestions"]


def test_a_flat_step_far_above_its_floor_is_the_hosts():
    rows = [
        a_row(
            batch_size=2**n,
            tpot_s=96e-6,
            bound_by="host",
            prediction_error=0.1,
            operations_per_step=160,
            device="cuda",
            dtype="bfloat16",
        )
        for n in range(3)
    ]
    cells = [
        a_cell(2**n, device="cuda", dtype="bfloat16", machine=machine(("bfloat16",), device="cuda"), operations=160.0)
        for n in range(3)
    ]
    mode = "reduce-overhead" if "reduce-overhead" in COMPILE_MODES else "default"
    assert said(*rows, made=cells)[0] == (
        "step time is flat from batch 1 to 4 and 211x the weight-read floor: the host dispatches 160 operations per step, "
        f"100 % of the predicted time; try --compile-mode {mode} or a larger --batch"
    )


def test_the_compile_mode_that_is_named_is_one_that_the_device_and_the_engine_can_have():
    host = {"bound_by": "host", "prediction_error": 0.0}
    assert suggested(a_row(device="cuda:1", **host)) == ["--compile-mode reduce-overhead", "a larger --batch"]
    assert suggested(a_row(device="cpu", **host))[0] == "--compile-mode default"
    for engine in ("cuda-graph", "cached-cat"):
        assert suggested(a_row(device="cuda", arm=Arm(engine=engine), **host))[0] == "--compile-mode default"
    assert suggested(a_row(arm=Arm(engine="speculative:draft_len=4"), **host)) == ["a larger --batch"]


@pytest.mark.parametrize("status", ["skipped", "wrong", "oom", "error"])
def test_an_arm_that_failed_beside_a_cell_is_not_suggested_for_it(status):
    rows = [a_row(arm=PLAIN, bound_by="bandwidth", prediction_error=0.0), a_row(status=status)]
    assert explained(*rows)[0]["suggestions"] == []
    rows[1] = a_row(status=status, batch_size=8)
    assert explained(*rows)[0]["suggestions"] == ["--engine cached"]


def test_what_the_run_has_already_is_named_as_an_arm():
    rows = [a_row(bound_by="host", prediction_error=0.0), a_row(arm=COMPILED)]
    assert explained(*rows)[0]["suggestions"] == ["cached default (in this run)", "a larger --batch"]
    rows = [a_row(arm=PLAIN, bound_by="compute", prediction_error=0.0), a_row()]
    assert explained(*rows)[0]["suggestions"] == ["cached (in this run)", "--threads 2"]


def test_a_compiled_arm_is_not_told_to_compile():
    assert suggested(a_row(arm=COMPILED, bound_by="host", prediction_error=0.0)) == ["a larger --batch"]


def test_bandwidth_asks_for_more_rows_while_weights_are_most_of_what_is_read_and_for_fewer_bytes_where_they_are_fast():
    bandwidth = {"bound_by": "bandwidth", "prediction_error": 0.0}
    assert suggested(a_row(batch_size=1, **bandwidth), a_cell(1)) == ["a larger --batch"]
    assert suggested(a_row(batch_size=64, **bandwidth), a_cell(64)) == []
    assert suggested(a_row(arm=PLAIN, **bandwidth), a_cell(arm=PLAIN)) == ["--engine cached"]


def test_a_narrower_dtype_is_named_where_it_multiplies_faster():
    compute = {"bound_by": "compute", "prediction_error": 0.0}
    slow, fast = limits(flops=1e9), limits(flops=1e11)
    for others, expected in ((slow, []), (fast, ["--dtype bfloat16"])):
        both = {"cpu float32 1": Limits(tuple(limits())), "cpu bfloat16 1": Limits(tuple(others))}
        assert suggested(a_row(**compute), a_cell(machine=Machine({"tiny": SHAPE}, both))) == expected
    sheet = Datasheet(name="imagined", flops={"float32": 1e12, "bfloat16": 1e14})
    assert suggested(a_row(**compute), a_cell(machine=machine(sheet=sheet))) == ["--dtype bfloat16"]
    assert (
        suggested(a_row(**compute), a_cell(machine=machine(sheet=Datasheet(name="imagined", flops={"bfloat16": 1e14})))) == []
    )
    half = a_cell(machine=machine(("bfloat16",), sheet=sheet), dtype="bfloat16")
    assert suggested(a_row(dtype="bfloat16", **compute), half) == []


@pytest.mark.parametrize(("cores", "expected"), [(None, []), (1, []), (8, ["--threads 8"])])
def test_threads_are_named_where_there_are_more_cores(cores, expected):
    assert suggested(a_row(bound_by="compute", prediction_error=0.0), a_cell(), cores=cores) == expected
    assert suggested(a_row(bound_by="compute", prediction_error=0.0, device="cuda"), a_cell(), cores=cores) == []


def test_every_bound_has_a_sentence():
    sentences = {
        "bandwidth": "moving bytes takes 0 % of the predicted time; try a larger --batch",
        "compute": "multiplying takes",
        "allocator": "CUDA's allocator ran out and freed its cache to go on (3 times); try a smaller --batch",
        "unexplained": "measured 1.5x the prediction; cause unknown; try nanobench env, repeat or --calibration fresh",
    }
    for bound, words in sentences.items():
        cell = a_cell(1, machine=machine(operation_s=1e-12)) if bound != "bandwidth" else a_cell(1)
        row = a_row(1, bound_by=bound, prediction_error=0.5, alloc_retries=3)
        found = said(row, made=[cell])[0]
        if bound == "bandwidth":
            assert re.fullmatch(r"moving bytes takes \d+ % of the predicted time; try a larger --batch", found)
        else:
            assert words in found


@pytest.mark.parametrize("status", ["unstable", "no_steady_state"])
def test_a_cell_that_is_unreliable_says_so_first(status):
    row = a_row(status=status, reason="tasks waited", tpot_s=1.0, bound_by="host", prediction_error=0.1, operations_per_step=7)
    (sentence,) = said(row, made=[a_cell()])
    assert sentence.startswith(f"{status}, excluded from conclusions (tasks waited); step time is ")
    assert "the host dispatches 7 operations per step" in sentence


def test_weights_that_are_read_faster_than_memory_gives_them_stay_in_a_cache():
    sentence = said(a_row(tpot_s=0.48e-6), made=[a_cell()])[0]
    assert sentence.startswith("step time is 0.5x the weight-read floor (the weights stay in a processor's cache): ")


BOUNDS = ["host", "bandwidth", "compute", "allocator", "unexplained", None]


@fixed
@given(
    st.sampled_from(BOUNDS),
    st.sampled_from([PLAIN, CACHED, COMPILED, Arm(engine="uncached-full-logits"), Arm(engine="fakes:slow")]),
    st.sampled_from(["cpu", "cuda", "cuda:1"]),
    st.sampled_from(DTYPES),
    st.sampled_from([*MEASURED, PUBLISHED]),
    st.integers(1, 64),
)
def test_only_options_of_this_version_are_named(bound, arm, device, dtype, status, cores):
    row = a_row(arm=arm, device=device, dtype=dtype, status=status, bound_by=bound, prediction_error=0.1)
    cell = a_cell(arm=arm, device=device, dtype=dtype, machine=machine(DTYPES, device=device))
    found = " ".join(explain.suggestions({**row, "over_floors": 1.0}, cell, cores, {arm.label: True}))
    options = {"--" + field.name.replace("_", "-"): field for field in fields(SweepOptions)}
    assert set(re.findall(r"--[a-z-]+", found)) <= set(options)
    for mode in re.findall(r"--compile-mode (\S+)", found):
        assert mode in COMPILE_MODES
    for engine in re.findall(r"--engine (\S+)", found):
        assert engine in registry.names("engines")
    for name in re.findall(r"nanobench (\S+)", found):
        assert name in {command.name for command in app.registered_commands}


# Where an arm begins to pay


def forecasts(wins_from, most=MOST_BATCH):
    """A reference and an arm that is faster from a batch size on."""
    return lambda batch_size: 1.0, lambda batch_size: 0.5 if batch_size >= wins_from else 2.0


@fixed
@given(st.integers(1, MOST_BATCH))
def test_the_crossing_is_the_smallest_whole_batch_from_which_an_arm_wins(wins_from):
    assert crossover.crossing(*forecasts(wins_from), 1.0) == Pays(wins_from, 1, MOST_BATCH)


def test_an_arm_that_never_wins_has_no_crossing_and_one_that_always_does_crosses_at_1():
    assert crossover.crossing(*forecasts(MOST_BATCH + 1), 1.0) == Pays(None, 1, MOST_BATCH)
    assert crossover.crossing(lambda batch: 1.0, lambda batch: 1.0, 1.0) == Pays(1, 1, MOST_BATCH)


@pytest.mark.parametrize("until", [1, 2, 37, 99, 128, 2047, MOST_BATCH - 1])
def test_an_arm_that_wins_in_small_batches_alone_pays_up_to_the_last_of_them(until):
    falls = lambda batch: 0.5 if batch <= until else 2.0  # noqa: E731
    assert crossover.crossing(lambda batch: 1.0, falls, 1.0) == Pays(None, 1, MOST_BATCH, until)


def test_the_interval_is_where_predictions_that_err_as_these_do_would_cross():
    """Measured over predicted is 2 and 1/2: s = log 2, and t at 2 degrees of freedom is 4.30: a factor of 19.7 either way."""
    reference, arm = (lambda batch: float(batch)), (lambda batch: 100.0)
    judged = [a_row(speedup=2.0, predicted_speedup=1.0), a_row(speedup=1.0, predicted_speedup=2.0)]
    factor = 2 ** scipy.stats.t.ppf(0.975, 2)
    found, earliest, latest = crossover.predicted(reference, arm, judged)
    assert found == Pays(100, 1, MOST_BATCH)
    assert earliest.start == math.ceil(100 / factor) == 6
    assert latest.start == math.ceil(100 * factor) == 1974
    assert crossover.predicted(reference, arm, judged[:1]) == (found, None, None)
    assert crossover.predicted(reference, None, judged) == (None, None, None)


@fixed
@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=6), st.integers(2, 2000))
def test_the_interval_holds_the_prediction(ratios, crosses):
    judged = [a_row(speedup=ratio, predicted_speedup=1.0) for ratio in ratios]
    found, earliest, latest = crossover.predicted(lambda batch: float(batch), lambda batch: float(crosses), judged)
    assert earliest.start <= found.start == crosses
    assert latest.start is None or latest.start >= crosses


def test_perfect_predictions_have_an_interval_of_no_width():
    judged = [a_row(speedup=2.0, predicted_speedup=2.0)] * 3
    found, earliest, latest = crossover.predicted(*forecasts(37), judged)
    assert found == earliest == latest == Pays(37, 1, MOST_BATCH)


def pays(*found):
    """(batch size, lower bound) -> where it pays."""
    return crossover.measured([a_row(batch_size, speedup_lo=low) for batch_size, low in found])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(1, 1.1), (4, 2.0)], Pays(1, 1, 4)),
        ([(4, 2.0), (1, 0.9)], Pays(4, 1, 4)),
        ([(1, 1.1), (4, 0.9), (8, 1.2)], Pays(8, 1, 8)),
        ([(1, 1.1), (4, 1.0)], Pays(None, 1, 4, until=1)),
        ([(1, 2.1), (4, 1.3), (16, 0.4), (64, 0.3)], Pays(None, 1, 64, until=4)),
        ([(1, 0.9), (4, 1.3), (16, 0.4)], Pays(None, 1, 16)),
        ([(1, 0.9)], Pays(None, 1, 1)),
        ([(2, None), (4, 1.5)], Pays(4, 4, 4)),
        ([(2, None)], None),
        ([], None),
    ],
)
def test_measured_is_the_first_batch_from_which_every_interval_lies_above_1(found, expected):
    assert pays(*found) == expected


def swept(speedup_status="ok", status="ok"):
    """Two batch sizes with two arms; the arm loses at 1 and wins at 4."""
    return [
        row
        for batch, low in ((1, 0.5), (4, 2.0))
        for row in (
            a_row(batch, PLAIN, status=status),
            a_row(
                batch,
                speedup=1.1 * low,
                speedup_lo=low,
                predicted_speedup=low,
                status=status,
                speedup_status=speedup_status if batch == 1 else "ok",
            ),
        )
    ]


def test_what_is_not_judged_decides_nothing():
    assert crossover.crossovers(swept(), [])[0].measured == Pays(4, 1, 4)
    assert crossover.crossovers(swept(speedup_status="unstable"), [])[0].measured == Pays(4, 4, 4)


def test_a_ratio_whose_absolute_figures_are_unstable_decides_by_its_own_status():
    assert crossover.crossovers(swept(status="unstable"), [])[0].measured == Pays(4, 1, 4)


def test_crossovers_are_told_by_setting_and_arm():
    rows = [*swept(), a_row(4, COMPILED, arm_index=2, speedup_lo=1.5, speedup_status="ok")]
    rows += [{**row, "prompt_len": 9} for row in rows]
    found = crossover.crossovers(rows, [])
    assert [(each.arm, each.where["prompt_len"]) for each in found] == [
        ("cached", 2),
        ("cached default", 2),
        ("cached", 9),
        ("cached default", 9),
    ]
    assert {each.reference for each in found} == {"uncached"}
    assert crossover.crossovers([a_row(4)], []) == []


def test_the_prediction_is_that_of_the_roofline_with_the_median_count_of_operations():
    fast = machine(operation_s=1e-6)
    made = [a_cell(batch, arm, fast, count) for arm, counts in ((PLAIN, (5, 7, 6)), (CACHED, (40, 60, 50)))
            for batch, count in zip((1, 4, 16), counts, strict=True)]  # fmt: skip
    found = crossover.crossovers(swept(), made)[0]
    seconds = {arm: crossover.forecast(made[n : n + 3]) for arm, n in (("uncached", 0), ("cached", 3))}
    same = a_cell(16, PLAIN, fast, 6).prediction.call.total_s
    assert seconds["uncached"](16) == pytest.approx(same)
    start = found.predicted.start
    assert start > 1
    for batch in (start, start + 1, MOST_BATCH):
        assert seconds["uncached"](batch) >= seconds["cached"](batch)
    assert seconds["uncached"](start - 1) < seconds["cached"](start - 1)
    assert (found.earliest.start or MOST_BATCH) <= start <= (found.latest.start or MOST_BATCH)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((Pays(1, 1, 4096), None, None, Pays(1, 1, 93)), "predicted: pays from batch 1 on; measured: pays from batch 1 on"),
        (
            (Pays(12, 1, 4096), Pays(3, 1, 4096), Pays(None, 1, 4096), Pays(8, 8, 93)),
            "predicted: pays from batch 12 on [3, never up to 4096]; measured: pays from batch 8 on, the smallest reliable one",
        ),
        (
            (Pays(None, 1, 4096), None, None, Pays(None, 1, 93)),
            "predicted: never pays up to batch 4096; measured: never pays up to batch 93",
        ),
        (
            (Pays(None, 1, 4096, 5), Pays(1, 1, 4096), Pays(None, 1, 4096), Pays(None, 1, 64, until=4)),
            "predicted: pays up to batch 5 [never, 4096]; measured: pays up to batch 4",
        ),
        ((None, None, None, None), "predicted: not known; measured: no reliable ratio with an interval"),
    ],
)
def test_a_crossover_in_words(places, words):
    found = crossover.Crossover({"prompt_len": 50}, "uncached", "cached", *places)
    assert views.crossing(found, []) == f"cached vs uncached: {words}"
    assert views.crossing(found, ["prompt_len"]) == f"cached vs uncached (prompt_len 50): {words}"


# What somebody else published

A100 = datasheet.named("a100-80gb")


def figures(path=SEEDS / "seed_results.csv"):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figure(batch_size, value, arm="cached", **changed):
    """One published row."""
    row = {"source": "x", "hardware": "A100-SXM4-80GB", "model": "nanochat d12", "n_params": "178e6", "what": "generate"}
    sizes = {"arm": arm, "batch_size": str(batch_size), "prompt_len": "50", "new_tokens": "200"}
    return {**row, **sizes, "value": str(value), "unit": "output_tok_s", **changed}


def test_the_seeds_cached_arm_is_bound_by_the_host_at_every_batch_size():
    rows = published.published(figures(), A100)
    cached = [row for row in rows if row["arm"] == "cached"]
    assert [row["batch_size"] for row in cached] == [1, 4, 8, 16, 32, 64, 93]
    assert {row["bound_by"] for row in cached} == {"host"}
    assert {(row["flat_from"], row["flat_to"]) for row in cached} == {(1, 93)}
    assert all(75 < row["floor_ratio"] < 85 for row in cached)
    uncached = [row["bound_by"] for row in rows if row["arm"] == "uncached"]
    assert uncached == ["host"] * 3 + ["unexplained"] * 4
    (found,) = crossover.crossovers(rows, [])
    assert (found.predicted, found.measured) == (None, Pays(8, 1, 93))


def test_a_published_step_and_its_floors_by_hand():
    rows = published.published([figure(1, 99.3)], A100)
    (row,) = rows
    assert row["step_s"] == pytest.approx(1 / 99.3)
    block = 12 * 768 * ((12 + 2 * 6) * 64 + 768 + 8 * 768)
    weights = 2 * (block + 768 * 65536 + 768 * (1 * 199 + 50) / 200)  # one row looked up a step, fifty in the prefill
    assert row["weight_floor_s"] == pytest.approx(weights / A100.bytes_per_s)
    point = Point(model="x", dtype="bfloat16", device="cuda", threads=1, batch_size=1, prompt_len=50, new_tokens=200)
    shape = GPTShape(**registry.presets()["nanochat-d12"], n_params=178_000_000)
    passes = [flops.cost(shape, "bfloat16", one) for one in flops.KV_ACCESS["static"](point)]
    assert row["bandwidth_floor_s"] == pytest.approx(sum(each.bytes for each in passes) / 200 / A100.bytes_per_s)
    assert row["compute_floor_s"] == pytest.approx(sum(each.flops for each in passes) / 200 / 312e12)
    assert row["bound_by"] == "unexplained"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((20.0, 24.0), "host"),
        ((20.0, 26.0), "unexplained"),
        ((9.0, 9.0), "unexplained"),
        ((1.9, 1.9), "bandwidth"),
    ],
)
def test_flat_and_ten_times_above_both_floors_is_the_host(steps, expected):
    """Steps as multiples of the higher floor at batch 1; at batch 2 it is within 7 % of that."""
    floor_s = published.published([figure(1, 1.0)], A100)[0]["bandwidth_floor_s"]
    table = [figure(batch, batch / (step * floor_s)) for batch, step in zip((1, 2), steps, strict=True)]
    assert published.published(table, A100)[0]["bound_by"] == expected


def test_a_step_near_its_operations_is_bound_by_compute():
    table = [figure(512, 1.0, arm="uncached", prompt_len="900", new_tokens="10")]
    floor_s = published.published(table, A100)[0]["compute_floor_s"]
    row = published.published([{**table[0], "value": str(512 / (1.5 * floor_s))}], A100)[0]
    assert row["bound_by"] == "compute"
    assert views.published_cause(row) == "compute-bound: the step takes 1.5x the datasheet minimum"


def test_rows_of_other_devices_work_models_and_without_sizes_are_left_out():
    others = [
        figure(1, 1.0, hardware="CPU (unnamed)"),
        figure(1, 1.0, hardware="2x A100-SXM4-80GB"),
        figure(1, 1.0, what="train base"),
        figure(1, 1.0, unit="ratio"),
        figure(1, 1.0, model="somebody's own"),
        figure(1, 1.0, arm="speedup"),
        figure(1, 1.0, prompt_len=""),
        figure(1, 1.0, new_tokens=""),
        figure("", 1.0),
    ]
    assert len(published.published([figure(1, 99.3), *others], A100)) == 1
    with pytest.raises(UserError, match=r"no generation throughput on NVIDIA A100 80GB SXM .*CPU \(unnamed\).*another --gpu"):
        published.published(others, A100)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"value": "fast"}, "value 'fast'"),
        ({"value": "0"}, "value '0'"),
        ({"value": "nan"}, "value 'nan'"),
        ({"batch_size": "-4"}, "batch_size '-4'"),
        ({"n_params": ""}, "n_params ''"),
    ],
)
def test_a_published_number_that_is_none_is_named(changed, words):
    with pytest.raises(UserError, match=f"{words} .* not a number above 0"):
        published.published([{**figure(1, 99.3), **changed}], A100)


@pytest.mark.parametrize(("name", "value"), [("batch_size", "0.3"), ("new_tokens", "2.5"), ("prompt_len", "1e9")])
def test_a_published_count_is_a_whole_number_that_can_be_computed_with(name, value):
    with pytest.raises(UserError, match=f"{name} '{value}' .* not a whole number up to 1,000,000"):
        published.published([{**figure(1, 99.3), name: value}], A100)


def test_a_preset_with_sizes_that_no_closed_form_knows_has_no_floors_and_says_why(monkeypatch):
    known = registry.presets()
    presets = {**known, "nanochat-d12": {**known["nanochat-d12"], "experts": 8}}
    monkeypatch.setattr(registry, "presets", lambda: presets)
    rows = published.published(figures(), A100)
    assert {row["reason"] for row in rows} == {
        "the preset of nanochat-d12 has sizes for which there is no closed form: experts"
    }
    assert all(row[name] is None for row in rows for name in (*published.FLOORS, "bound_by"))
    assert all(row["step_s"] > 0 for row in rows)
    assert [row["speedup"] for row in rows if row["batch_size"] == 93] == [None, pytest.approx(10.73, abs=0.01)]
    assert all("no minimum time is known: the preset of nanochat-d12" in line for line in views.sentences(rows))


def test_a_table_without_a_column_and_a_device_without_a_bandwidth_are_refused():
    bare = {name: value for name, value in figure(1, 1.0).items() if name not in ("unit", "arm")}
    with pytest.raises(UserError, match="lacks arm, unit"):
        published.published([bare], A100)
    with pytest.raises(UserError, match="has no bandwidth"):
        published.published([figure(1, 1.0)], Datasheet(name="imagined"))
    with pytest.raises(UserError, match="hardware there: none"):
        published.published([], A100)


# What is not known


def test_a_run_without_a_calibration_says_in_one_line_what_gives_it():
    rows = explained(a_row(), a_row(arm=PLAIN))
    command = "nanobench kv-sweep --batch 1,4 --calibration auto"
    (line,) = views.unknown(rows, "kv-sweep", {"batch": "1,4"})
    assert line == f"nothing is predicted: this run has no calibration and no operation counts; measure again: {command}"
    (line,) = views.unknown(rows, "kv-sweep", {"batch": "1,4", "calibration": "off", "out": "run"})
    assert line == f"nothing is predicted without a calibration; measure again with one: {command}"
    (line,) = views.unknown(rows, "ab", {"base": "main", "new": "."})
    assert line == "nothing is predicted: nanobench ab measures without a calibration"


def test_an_engine_without_a_path_is_named():
    bare = a_row(arm=Arm(engine="fakes:slow"), operations_per_step=3, prediction_note="the engine has no attribute kv_access")
    (line,) = views.unknown(explained(a_row(predicted_e2e_s=1.0), bare), "kv-sweep", {})
    assert line == "nothing is predicted in 1 of 2 cells (fakes:slow): the engine has no attribute kv_access"


def test_a_limit_that_was_not_resolved_is_the_reason_and_another_calibration_the_fix():
    made = [a_cell(machine=Machine({"tiny": SHAPE}, {"cpu float32 1": Limits(tuple(limits()))}))]
    rows = explained(a_row(operations_per_step=3, prediction_note="the limit 'operation' has no value: noise"), made=made)
    (line,) = views.unknown(rows, "kv-sweep", {})
    assert line.endswith(
        "(cached): the limit 'operation' has no value: noise; measure again: nanobench kv-sweep --calibration auto"
    )


@pytest.mark.parametrize(
    ("uncertainty", "note", "column", "words"),
    [
        (None, None, "2 ms", ""),
        (0.12, None, "2 ms ±12%", ""),
        (0.5, None, "2 ms ±50%", "; the prediction is uncertain (±50%)"),
        (1.5, "argmax counts at the rate of copy", "2 ms within 2.5x", "; the prediction is uncertain (within 2.5x); argmax"),
        (0.1, "argmax counts at the rate of copy", "2 ms ±10%", "; argmax counts at the rate of copy"),
    ],
)
def test_an_uncertain_prediction_says_how_uncertain_it_is(uncertainty, note, column, words):
    row = only(a_row(predicted_tpot_s=2e-3, prediction_uncertainty=uncertainty, prediction_note=note, bound_by="host"))
    assert views.predicted(row, "predicted_tpot_s") == column
    assert views.doubt_of_prediction(row).startswith(words)
    assert bool(words) == bool(views.doubt_of_prediction(row))
    assert views.doubt_of_prediction(row) in views.because(row)


def test_where_all_is_predicted_or_nothing_was_measured_nothing_is_missing():
    assert list(views.unknown(explained(a_row(predicted_e2e_s=1.0)), "kv-sweep", {})) == []
    assert list(views.unknown(explained(a_row(status="oom")), "kv-sweep", {})) == []


# The command


OPERATION_S = 2e-4


def make_run(folder, batches=(1, 4, 16), calibrated=True, slower=1.1, launches=3, asked=None):
    """A run whose calls take `slower` times what is predicted, by a calibration that depends on nothing."""
    arms, name = (PLAIN, CACHED), "cpu float32 1"
    points = tuple(Point(**{**POINT, "batch_size": batch}) for batch in batches)
    plan = Plan(points=points, arms=arms, launches=launches, seed=0, target_ci=0.05, max_seconds=1.0,
                memory_limit_bytes=None, timeout_s=60.0, isolation="forkserver")  # fmt: skip
    known = Limits(tuple(limits(OPERATION_S, flops=1e8)))
    identity = {"cpu": "imagined", "cores": 4, "gpus": [], "torch": "2", "hash": "0123456789ab"}
    description = Description(device="cpu", gpus=[], identity=identity, models={"tiny": SHAPE})
    asked = {"batch": ",".join(map(str, batches)), "out": str(folder), **(asked or {})}
    facts = {"plan": plan, "description": description, "started_at": "2026-01-01T00:00:00+00:00"}
    run = store.create(folder, RunInfo(command="kv-sweep", requested=asked, **facts))
    if calibrated:
        run.append(calibration_event(name, Calibration(known)))
    there = Machine({"tiny": SHAPE}, {name: known})
    for trial in (trial for trials in plan.rounds() for trial in trials):
        rows = []
        for arm in arms:
            prediction = a_cell(trial.point.batch_size, arm, there).prediction
            first_s, step_s = prediction.prefill.total_s * slower, prediction.tpot_s * slower
            token_times_s = tuple(first_s + n * step_s for n in range(trial.point.new_tokens))
            timed = tuple(
                Repetition(
                    kind="steady",
                    repetition=block,
                    block=block,
                    timestamped=True,
                    wall_s=token_times_s[-1] * (1 + 0.001 * block),
                    token_times_s=token_times_s,
                    tokens=trial.point.batch_size * trial.point.new_tokens,
                )
                for block in range(3)
            )
            path = PATH_OF[arm.engine] if calibrated else None
            count = 10.0 if calibrated else None
            outcome = Outcome(
                status=Status.OK, gate=Verdict.EXACT, kv_access=path, operations_prefill=count, operations_per_step=count
            )
            rows += [LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=timed, outcome=outcome))]
        run.write_raw(trial, rows)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("explain") / "run")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A copy of the run that comes along."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(REFERENCE, folder, ignore=shutil.ignore_patterns("plots"))
    return folder


def command(*arguments, code=0):
    done = CliRunner().invoke(app, ["explain", *map(str, arguments)])
    assert done.exit_code == code, done.output
    if code:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    return done.stderr if code else done.stdout


def document(text):
    return json.loads(text.splitlines()[-1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_command_explains_every_cell_and_ends_in_one_json_document(run):
    text = command(run.folder, "--json", "--no-plot")
    found = document(text)
    cells = finder.load(run.folder)
    assert [row["tpot_s"] for row in found["cells"]] == cells["tpot_s"].tolist()
    assert [row["prediction_error"] for row in found["cells"]] == pytest.approx([0.1] * 6)
    assert [row["predicted_share"] for row in found["cells"] if row["arm_index"]] == pytest.approx([1.0] * 3, rel=1e-3)
    assert set(found["cells"][0]) >= {"suggestions", "flat_from", "weight_floor_s", "bound_by", "naive_share"}
    assert len(found["sentences"]) == 6
    assert all(sentence in text for sentence in found["sentences"])
    assert found["unknown"] == []
    assert found["paths"] == []
    assert {row["bound_by"] for row in found["cells"]} <= {"host", "bandwidth", "compute"}
    (crossover,) = found["crossovers"]
    assert crossover["predicted"]["start"] == crossover["earliest"]["start"] == crossover["latest"]["start"]
    (waterfall,) = found["waterfalls"]
    assert [each["step"] for each in waterfall["arms_first"]] == ["cache", "batch"]
    assert waterfall["total"]["ratio"]["value"] == pytest.approx(
        math.prod(each["ratio"]["value"] for each in waterfall["arms_first"])
    )


def test_the_reasons_are_those_of_the_cells(run):
    cells = finder.load(run.folder)
    rows = explain.explained(records(cells), make_cells(run.read_raw(), run.info().machine), 4)
    for row, (_, cell) in zip(rows, cells.iterrows(), strict=True):
        for name in explain.COLUMNS:
            assert row[name] == cell[name] or (row[name] is None and cell[name] != cell[name]) or (row[name] is cell[name])
        assert row["bound_share"] > 1 / 3
        assert max(("host", "bandwidth", "compute"), key=lambda part: row[f"predicted_{part}_s"]) == row["bound_by"]


def test_the_waterfall_is_drawn_unless_it_is_not_wanted(run):
    assert not run.plots.exists()
    found = document(command(run.folder, "--json"))
    assert [Path(path).name for path in found["paths"]] == ["waterfall.png", "waterfall.svg"]
    assert all(Path(path).stat().st_size > 5000 for path in found["paths"])


def test_an_old_run_says_what_is_missing_and_how_to_get_it(tmp_path, old):
    for folder in (old, make_run(tmp_path / "bare", calibrated=False).folder):
        text = command(folder, "--no-plot", "--json")
        found = document(text)
        if all(row["predicted_e2e_s"] is None for row in found["cells"]):
            (line,) = found["unknown"]
            assert line.startswith("nothing is predicted: this run has no calibration and no operation counts; ")
            assert line in text
            assert all(row["bound_by"] is None and row["suggestions"] == [] for row in found["cells"])
            assert all(each["predicted"] is None and each["measured"] for each in found["crossovers"])
            assert "predicted" not in text.partition("\nuncached at batch 1")[0]
        assert len(found["waterfalls"]) == 1
    assert line.endswith("measure again: nanobench kv-sweep --batch 1,4,16 --calibration auto")


def test_several_runs_are_explained_one_after_the_other(run, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(run.folder, tmp_path / "runs" / name)
    text = command(tmp_path / "runs", "--json", "--no-plot")
    found = document(text)
    assert sorted(row["run"] for row in found["cells"]) == ["one"] * 6 + ["two"] * 6
    assert {each["where"]["run"] for each in found["waterfalls"]} == {"one", "two"}
    assert "runs/one" in text.replace("\n", "")


def test_one_arm_alone_is_explained_without_a_waterfall(tmp_path):
    run = make_run(tmp_path / "run")
    for path in run.raw.glob("*.parquet"):
        rows = [row for row in store.pq.read_table(path).to_pylist() if row["engine"] == "uncached"]
        store.pq.write_table(store.pa.Table.from_pylist(rows, schema=store.RAW_SCHEMA), path)
    text = command(run.folder)
    assert "waterfall needs two arms of" in text
    assert "pays" not in text


def test_published_figures_are_told_to_be_nobody_elses_measurement_but_theirs(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = command("results/seeds", "--gpu", "a100-80gb", "--json")
    assert text.startswith(
        "published, not measured here: 14 of 28 rows of results/seeds/seed_results.csv: generation on NVIDIA"
    )
    found = document(text)
    assert {row["bound_by"] for row in found["cells"] if row["arm"] == "cached"} == {"host"}
    assert {row["status"] for row in found["cells"]} == {PUBLISHED}
    assert "cached vs uncached: predicted: not known; published: pays from batch 8 on" in text
    assert command("results/seeds/seed_results.csv", "--gpu", "a100-80gb") in text


@pytest.mark.parametrize("width", [100, 120, 140, 200])
def test_no_number_is_cut_and_what_a_narrow_terminal_leaves_out_is_named(run, width):
    rows = explain.explained(records(finder.load(run.folder)), make_cells(run.read_raw(), run.info().machine), 4)
    (failed,) = explained(a_row(93, status="oom", reason="out of memory " * 5, run=rows[0]["run"]))
    rows.append(failed)
    for shown in (rows, published.published(figures(), A100)):
        console = Console(width=width, file=io.StringIO(), highlight=False)
        table, *notes = views.fitting(shown, console)
        console.print(table)
        text = console.file.getvalue()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        heads = " ".join(text.split("─")[0].split())
        for head in ("batch", "arm", "speedup", "bound by", "status"):
            assert head in heads
        assert ("try" in " ".join(notes)) == ("try" not in heads)
        if width >= 150:
            assert "try" in heads


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["no run in nowhere", "nanobench kv-sweep"]),
        (["figures"], ["published figures", "--gpu a100-80gb"]),
        (["figures/some.csv"], ["published figures", "--gpu a100-80gb"]),
        (["figures", "--gpu", "a100-80g"], ["'a100-80g'", "did you mean 'a100-80gb'"]),
        (["figures", "--gpu", "h200"], ["no generation throughput on NVIDIA H200", "A100-SXM4-80GB", "another --gpu"]),
        (["run", "--gpu", "h200"], ["--gpu h200", "a CSV", "run is not one", "drop --gpu"]),
        (["--gpu", "h200"], ["--gpu h200", "a CSV"]),
        (["binary.csv", "--gpu", "h200"], ["binary.csv", "cannot be read", "a CSV"]),
        (["other.csv", "--gpu", "h200"], ["lacks source, hardware"]),
        (["empty"], ["empty", "no finished trial", "--resume empty"]),
        (["run", "--jsn"], ["--jsn"]),
    ],
)
def test_a_mistake_gets_one_line_with_the_fix(run, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "run").symlink_to(run.folder)
    shutil.copytree(SEEDS, tmp_path / "figures")
    (tmp_path / "figures" / "seed_results.csv").rename(tmp_path / "figures" / "some.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    store.create(tmp_path / "empty", run.info())
    monkeypatch.chdir(tmp_path)
    message = command(*arguments, code=2)
    for word in words:
        assert word in message


EXAMPLES = r"```\nnanobench explain (.*?)\n```\n```\n(.*?)```"


@pytest.mark.parametrize("example", range(2))
def test_the_page_shows_what_the_command_prints(monkeypatch, example):
    monkeypatch.chdir(ROOT)
    asked, shown = re.findall(EXAMPLES, PAGE.read_text(), re.DOTALL)[example]
    printed = [line.split() for line in command(*asked.split()).splitlines()]
    for line in (line for line in shown.splitlines() if line.strip() != "..."):
        assert line.split() in printed


def test_the_page_has_the_numbers_of_the_rules():
    text = PAGE.read_text()
    for number in (explain.FLAT, published.FAR, published.NEAR, crossover.MOST_BATCH):
        words = f"{number:.0%}".replace("%", " %") if number < 1 else f"{number:,.0f}"
        assert words in text

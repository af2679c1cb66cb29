"""A run predicted for a device that is not here."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import test_metrics_roofline as here
from nanobench.analysis import predict
from nanobench.errors import UserError
from nanobench.results.metrics import roofline
from nanobench.roofline import prediction
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import Limit, Limits, Unresolved
from nanobench.schema import Arm
from nanobench.views import predict as views

THERE = Datasheet("There", bytes_per_s=1e12, flops={"float32": 1e13, "bfloat16": 1e14})
LIMITS = Limits(
    (
        Limit(kind="read", value=1e9, spread=0.0),
        Limit(kind="copy", value=5e8, spread=0.0),
        Limit(kind="elementwise", value=4e9, spread=0.0),
        Limit(kind="matmul", value=1e9, spread=0.0, rows=1),
        Limit(kind="matmul", value=1e12, spread=0.0, rows=4096),
        Limit(kind="lm_head", value=5e11, spread=0.0, rows=4096),
        Limit(kind="operation", value=7e-6, spread=0.0),
    )
)


def moved(read=1e12, peak=1e13, dtype="float32"):
    found = predict.transferred(LIMITS, read, peak, dtype)
    return {(limit.kind, limit.rows): limit.value for limit in found}


def test_a_product_with_one_row_takes_as_long_as_its_weights_take_to_be_read():
    assert moved()["matmul", 1] == pytest.approx(2 / 4 * 1e12)
    assert moved(dtype="bfloat16")["matmul", 1] == pytest.approx(1e12)


def test_a_product_with_many_rows_reaches_the_peak_and_a_head_its_share_of_it():
    assert moved()["matmul", 4096] == pytest.approx(1e13)
    assert moved()["lm_head", 4096] == pytest.approx(0.5e13)


def test_what_moves_bytes_keeps_its_share_of_reading_and_never_more_than_all_of_it():
    assert (moved()["read", 1], moved()["copy", 1], moved()["elementwise", 1]) == pytest.approx((1e12, 5e11, 1e12))


def test_dispatching_costs_what_it_costs_here():
    assert moved()["operation", 1] == 7e-6


@pytest.mark.parametrize(("reached", "promised", "share"), [(5.0, 10.0, 0.5), (5.0, None, 1.0), (12.0, 10.0, 1.0)])
def test_the_share_of_a_promise(reached, promised, share):
    assert predict.share(reached, promised) == share


def test_a_row_holds_the_prediction_for_the_other_device_and_nothing_measured():
    rows = predict.rows(here.cells(), THERE, None, None)
    assert [row["engine"] for row in rows] == ["uncached", "cached"]
    found = predict.elsewhere(here.cells()[1], THERE)
    assert rows[1]["predicted_tpot_s"] == found.tpot_s
    assert rows[1]["predicted_output_tok_s"] == pytest.approx(2 * 3 / found.call.total_s)
    reference = predict.elsewhere(here.cells()[0], THERE)
    assert rows[1]["predicted_speedup"] == pytest.approx(reference.call.total_s / found.call.total_s)
    assert rows[0]["predicted_speedup"] is None
    assert (rows[1]["gpu"], rows[1]["device"], rows[1]["dtype"]) == ("There", "cuda", "float32")
    assert (rows[1]["measured_output_tok_s"], rows[1]["prediction_error"]) == (None, None)


def test_attention_that_no_calibration_measures_is_predicted_nowhere():
    cell = here.cells()[1]
    flex = replace(cell, launches=[replace(each, arm=replace(cell.arm, attention="flex")) for each in cell.launches])
    assert cell.prediction
    assert flex.prediction is None
    assert predict.elsewhere(flex, THERE) is None
    assert roofline.prediction_note(flex) == "FlexAttention is not calibrated"
    assert flex.kv_access is None


def test_a_host_that_takes_a_millisecond_an_operation_binds_a_fast_device():
    rows = predict.rows(here.cells(), THERE, None, None)
    assert {row["predicted_bound_by"] for row in rows} == {"host"}
    assert rows[1]["predicted_tpot_s"] == pytest.approx(5e-3)


def measured(**others):
    seen = {**vars(here.POINT), "device": "cuda", **vars(Arm(engine="cached"))}
    return pd.DataFrame([{**seen, "status": "ok", "output_tok_s": 100.0, **others}])


def test_where_that_device_was_measured_the_error_stands_beside():
    row = predict.rows(here.cells(), THERE, None, measured())[1]
    assert row["measured_output_tok_s"] == 100.0
    assert row["prediction_error"] == pytest.approx(row["predicted_output_tok_s"] / 100.0 - 1)


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 9},
        {"engine": "uncached-full-logits"},
        {"status": "oom"},
        {"dtype": "float16"},
        {"shared_prompt": "on"},
        {"world_size": 2},
        {"optimizer": "sgd"},
    ],
)
def test_another_point_or_arm_or_a_failed_one_is_no_measurement_of_this(other):
    assert predict.rows(here.cells(), THERE, None, measured(**other))[1]["measured_output_tok_s"] is None


def test_another_dtype_may_be_asked_for_there():
    row = predict.rows(here.cells(), THERE, "bfloat16", None)[1]
    assert row["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "sheet", [Datasheet("Bare"), Datasheet("Slow", bytes_per_s=1e9), Datasheet("Half", bytes_per_s=1e9, flops={"float16": 1})]
)
def test_a_sheet_without_what_is_needed_gives_one_line(sheet):
    with pytest.raises(UserError, match=f"nothing to predict for {sheet.name}"):
        predict.rows(here.cells(), sheet, None, None)


def test_a_run_without_a_calibration_gives_one_line():
    with pytest.raises(UserError, match="--calibration auto"):
        predict.rows(here.cells(machine=here.Machine()), THERE, None, None)


def machine(*found, unresolved=()):
    return here.Machine({"m": here.SHAPE}, {here.NAME: Limits(found, unresolved)})


def test_a_run_whose_calibration_resolved_too_little_says_what():
    lost = machine(*here.LIMITS.found[:-1], unresolved=(Unresolved("operation", "noise"),))
    with pytest.raises(UserError, match="nothing to predict for There: the limit 'operation' has no value: noise; measure"):
        predict.rows(here.cells(machine=lost), THERE, None, None)


def test_limits_that_are_uncertain_here_are_uncertain_there():
    spread = machine(*(replace(limit, spread=0.5) for limit in here.LIMITS.found))
    rows = predict.rows(here.cells(machine=spread), THERE, None, None)
    assert [row["prediction_uncertainty"] for row in rows] == pytest.approx([0.25, 0.25])
    (line,) = views.doubts(rows)
    assert "may take 1.25x as long or as short (median; at most 1.25x)" in line
    assert line.endswith("the assumptions about There come on top")


@pytest.mark.parametrize("lost", ["read", "matmul", "argmax"])
def test_a_limit_that_was_not_resolved_here_is_named_there(lost):
    kept = [limit for limit in here.LIMITS.found if limit.kind != lost]
    rows = predict.rows(here.cells(machine=machine(*kept, unresolved=(Unresolved(lost, "noise"),))), THERE, None, None)
    assert all(0 < row["predicted_tpot_s"] < math.inf for row in rows)
    # `read` only classifies: no time depends on it.
    assert [bool(row["prediction_note"]) for row in rows] == [lost != "read"] * 2
    assert len(list(views.doubts(rows))) == 1 + (lost != "read")


def test_a_device_whose_sheet_is_known_passes_its_own_shares_on():
    same = Datasheet("Same", bytes_per_s=2e9, flops={"float32": 4e9})
    cell = here.cells(machine=here.Machine({"m": here.SHAPE}, {here.NAME: here.LIMITS}, same))[1]
    found = predict.elsewhere(cell, same)
    plain = prediction.predict(here.SHAPE, here.POINT, "static", here.LIMITS, here.OPERATIONS)
    assert found.decode.total_s <= plain.decode.total_s
    assert math.isclose(found.host_floor_s, plain.host_floor_s)


def test_the_variant_that_a_short_name_stands_for_is_said(nanobench_here, tmp_path):
    run = Path(__file__).parent / "runs" / "protocol-4"
    text = nanobench_here("predict", run, "--gpu", "a100,h100", cwd=tmp_path, code=0).stdout
    taken = "a100 is taken as NVIDIA A100 80GB SXM; its variants: a100-40gb, a100-40gb-pcie, a100-80gb, a100-80gb-pcie"
    assert [line for line in text.splitlines() if "is taken as" in line] == [taken]
    assert "predicted for NVIDIA A100 80GB SXM" in text


@pytest.mark.parametrize(
    ("about", "answer"),
    [
        ({"device": "cuda", "identity": {"gpus": ["NVIDIA H200"]}}, True),
        ({"device": "cuda", "identity": {"gpus": ["NVIDIA A100-SXM4-80GB"]}}, False),
        ({"device": "cpu", "identity": {"gpus": ["NVIDIA H200"]}}, False),
        ({"device": "cuda", "identity": {}}, False),
    ],
)
def test_a_run_is_on_the_device_that_it_was_measured_on(about, answer):
    from nanobench.records import Description
    from nanobench.results.run_info import RunInfo
    from nanobench.roofline import datasheet

    facts = {"plan": None, "started_at": "2026-01-01T00:00:00+00:00", "description": Description.from_json(about)}
    info = RunInfo(command="kv-sweep", requested={}, **facts)
    assert predict.is_on(info, datasheet.named("h200")) is answer

"""Bytes, floors, predictions and explanations follow the width of the weights."""

from dataclasses import replace

import pytest

import test_metrics_roofline as here
from nanobench.analysis import explain
from nanobench.records import ArmRecord, LaunchRecord
from nanobench.results import floor
from nanobench.results.metrics import roofline
from nanobench.results.run_context import Calibration, DriftCheck, Machine, Setting
from nanobench.roofline import flops, prediction
from nanobench.roofline.limits import Limit, Limits
from nanobench.schema import WEIGHTS, Arm, GPTShape
from nanobench.sweep import calibration
from nanobench.views import explain as views

SHAPE = GPTShape(
    architecture="gpt2",
    n_layer=2,
    n_head=4,
    n_kv_head=4,
    n_embd=256,
    vocab_size=512,
    block_size=64,
    n_params=1_800_000,
    matmul_params=1_700_000,
    lookup_params=16_384,
)


def test_a_weight_has_the_bytes_of_its_number_and_its_share_of_the_scales():
    assert flops.weight_width(SHAPE, "bfloat16") == 2
    assert flops.weight_width(SHAPE, "bfloat16", "int8") == 1 + 2 / 256
    assert flops.weight_width(SHAPE, "bfloat16", "int4") == 0.5 + 2 * 2 / 128
    assert flops.weight_width(replace(SHAPE, n_embd=320, n_head=5), "float32", "int4") == 0.5 + 2 * 4 / 64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_weights_of_matmuls_become_narrower(dtype):
    size, others = flops.DTYPE_BYTES[dtype], SHAPE.read_params - 1_700_000
    assert flops.read_bytes(SHAPE, dtype) == size * SHAPE.read_params
    for kind in WEIGHTS[1:]:
        width = flops.weight_width(SHAPE, dtype, kind)
        assert flops.read_bytes(SHAPE, dtype, kind) == pytest.approx(width * 1_700_000 + size * others)


def test_operations_stay_and_bytes_follow():
    one = flops.prompt(here.POINT)
    plain, narrow = (flops.cost(SHAPE, "float32", one, kind) for kind in ("float", "int4"))
    assert narrow.flops == plain.flops
    assert narrow.weight_bytes < 0.2 * plain.weight_bytes
    assert replace(narrow, weight_bytes=plain.weight_bytes) == plain


def test_an_int8_cache_has_a_scale_for_each_head():
    assert flops.kv_bytes_per_token(SHAPE, "bfloat16") == 2 * 2 * 4 * 64 * 2
    assert flops.kv_bytes_per_token(SHAPE, "bfloat16", "int8") == 2 * 2 * 4 * (64 + 2)


def cell_of(weights="int8", kv_cache="float", machine=None):
    """The second cell of the roofline's tests, with other weights."""
    cell = here.cells(machine=machine or here.MACHINE)[1]
    arm = replace(cell.arm, weights=weights, kv_cache=kv_cache)
    return replace(cell, launches=[replace(each, arm=arm) for each in cell.launches])


def with_limits(factor=1.0):
    """A machine that is calibrated for int8 weights too; they multiply at `factor` times the rate."""
    found = tuple(replace(each, value=each.value * factor) if each.kind == "matmul" else each for each in here.LIMITS.found)
    both = {here.NAME: here.LIMITS, f"{here.NAME} int8": Limits(found)}
    return replace(here.MACHINE, limits=both)


def test_a_prediction_needs_a_calibration_of_the_weights():
    assert cell_of().prediction is None
    assert roofline.prediction_note(cell_of()) == "there is no calibration with int8 weights"
    found = cell_of(machine=with_limits(0.5)).prediction
    plain = cell_of("float", machine=with_limits(0.5)).prediction
    assert found.call.total_s > plain.call.total_s
    expected = prediction.predict(
        here.SHAPE, here.POINT, "static", with_limits(0.5).limits[f"{here.NAME} int8"], here.OPERATIONS, "int8"
    )
    assert found.call.total_s == expected.call.total_s


def test_attention_over_an_int8_cache_is_not_predicted():
    cell = cell_of("float", "int8")
    assert cell.prediction is None
    assert roofline.prediction_note(cell) == "attention over a quantised cache is not calibrated"


def test_settings_are_those_of_the_arms_weights():
    arms = [Arm(engine="cached", weights=kind) for kind in WEIGHTS]
    assert [each.name for each in calibration.settings([here.POINT], arms)] == [
        "cpu float32 1",
        "cpu float32 1 int4",
        "cpu float32 1 int8",
    ]


def test_drift_checks_of_float_weights_move_the_limits_of_the_others():
    passes = [Limit("pass", value, 0.0) for value in (1.0, 2.0)]
    check = DriftCheck(here.POINT, Limits((passes[1],)), Limits((passes[1],)))
    known = {
        "cpu float32 1": Calibration(Limits((passes[0], Limit("matmul", 12.0, 0.0))), drift_checks=(check,)),
        "cpu float32 1 int8": Calibration(Limits((passes[0], Limit("matmul", 6.0, 0.0)))),
    }
    machine = Machine.of({}, known, "")
    assert machine.limits_of(here.POINT).at("matmul") == pytest.approx(6.0)
    assert machine.limits_of(here.POINT, "int8").at("matmul") == pytest.approx(3.0)
    assert machine.limits_of_run(here.POINT, "int8").at("matmul") == pytest.approx(3.0)
    assert Setting.of(here.POINT, "int8").name == "cpu float32 1 int8"


def test_the_floor_of_narrow_weights_is_lower():
    works = {kind: list(floor.works_of(cell_of(kind))) for kind in ("float", "int4")}
    assert all(narrow.bytes < 0.5 * plain.bytes for plain, narrow in zip(works["float"], works["int4"], strict=True))
    assert all(narrow.flops == plain.flops for plain, narrow in zip(works["float"], works["int4"], strict=True))


@pytest.mark.parametrize(("factor", "words"), [(2.0, "int8 weights pay here: "), (0.25, "int8 weights do not pay here: ")])
def test_it_is_said_why_quantised_weights_pay_or_not(factor, words):
    found = explain.of_weights(cell_of(machine=with_limits(factor)))
    assert found["weights_rate_share"] == pytest.approx(factor, rel=0.3)
    width = flops.weight_width(here.SHAPE, "float32", "int8")
    assert found["weights_bytes_share"] == pytest.approx(width / 4)
    said = views.of_weights({**found, "weights": "int8"})
    assert words in said
    assert explain.of_weights(cell_of("float")) == dict.fromkeys(explain.WEIGHTS_FIELDS)
    assert views.of_weights({**dict.fromkeys(explain.WEIGHTS_FIELDS), "weights": "float"}) == ""


def test_records_keep_the_weights():
    launch = cell_of().launches[0]
    record = ArmRecord(arm=launch.arm, outcome=launch.outcome)
    document = {"arm": vars(record.arm), "repetitions": [], "outcome": vars(record.outcome)}
    assert ArmRecord.from_json(document).arm.weights == "int8"
    assert isinstance(launch, LaunchRecord)
    assert launch.arm.label.endswith("int8")

"""The columns that say why, of one cell with a machine whose limits are round numbers."""

from dataclasses import replace

import pytest

from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results.cell import make_cells
from nanobench.results.metrics import roofline
from nanobench.results.run_context import Machine, Setting
from nanobench.roofline import flops, prediction
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import Limit, Limits, Unresolved
from nanobench.roofline.prediction import Operations
from nanobench.schema import Arm, GPTShape, Point, Trial

SHAPE = GPTShape(
    architecture="gpt2", n_layer=2, n_head=2, n_kv_head=2, n_embd=8, vocab_size=100, block_size=64, n_params=10_000
)
POINT = Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=4, new_tokens=3)
UNCACHED, CACHED = Arm(engine="uncached"), Arm(engine="cached")
KINDS = ("matmul", "lm_head", "attention", "read", "copy", "elementwise", "argmax")
LIMITS = Limits((*(Limit(kind=kind, value=1e9, spread=0.0) for kind in KINDS), Limit(kind="operation", value=1e-3, spread=0.0)))
NAME = Setting("cpu", "float32", 1).name
MACHINE = Machine({"m": SHAPE}, {NAME: LIMITS}, Datasheet("some", bytes_per_s=1e6, flops={"float32": 1e7}))
OPERATIONS = Operations(prefill=8, step=5)


def outcome(path, **known):
    return Outcome(status=Status.OK, kv_access=path, operations_prefill=8, operations_per_step=5, **known)


def cells(machine=MACHINE, factor=1.0, point=POINT, reference_path="uncached", path="static", **known):
    """An uncached and a cached cell, the cached one `factor` times as slow as predicted."""
    trial = Trial(point=point, arms=(UNCACHED, CACHED), launch=1, seed=0, target_ci=0.05, max_seconds=1.0)
    found = prediction.predict(SHAPE, point, "static", LIMITS, OPERATIONS)
    first = factor * found.prefill.total_s
    marks = tuple(first + factor * (found.tpot_s or 0.0) * step for step in range(point.new_tokens))
    timed = Repetition(kind="steady", block=0, timestamped=True, wall_s=marks[-1], token_times_s=marks, tokens=6)
    rows = [LaunchRecord.of(trial, 0, ArmRecord(arm=UNCACHED, repetitions=(timed,), outcome=outcome(reference_path)))]
    rows += [LaunchRecord.of(trial, 0, ArmRecord(arm=CACHED, repetitions=(timed,), outcome=outcome(path, **known)))]
    return make_cells(rows, machine)


def cached(**asked):
    return cells(**asked)[1]


def test_what_runs_as_predicted_has_no_error_and_what_takes_a_fifth_more_has_one_of_a_fifth():
    assert roofline.prediction_error(cached()) == pytest.approx(0.0)
    assert roofline.prediction_error(cached(factor=1.2)) == pytest.approx(0.2)


def test_the_predicted_times_are_the_rooflines():
    found = prediction.predict(SHAPE, POINT, "static", LIMITS, OPERATIONS)
    cell = cached()
    assert roofline.predicted_ttft_s(cell) == found.prefill.total_s
    assert roofline.predicted_tpot_s(cell) == found.tpot_s
    assert roofline.predicted_e2e_s(cell) == found.call.total_s
    assert roofline.host_floor_s(cell) == pytest.approx(5e-3)


def test_of_a_single_token_the_error_is_that_of_the_whole_call():
    cell = cached(point=replace(POINT, new_tokens=1), factor=1.5)
    assert roofline.predicted_tpot_s(cell) is None
    assert roofline.host_floor_s(cell) is None
    assert roofline.prediction_error(cell) == pytest.approx(0.5)


def test_the_predicted_speedup_is_the_ratio_of_two_predictions_and_none_for_the_reference():
    reference, cell = cells()
    asked = [prediction.predict(SHAPE, POINT, path, LIMITS, OPERATIONS).call.total_s for path in ("uncached", "static")]
    assert roofline.predicted_speedup(cell) == pytest.approx(asked[0] / asked[1])
    assert roofline.predicted_speedup(reference) is None


def test_the_naive_speedup_counts_tokens():
    # Uncached takes in 4 + 5 + 6, cached each of the 7 once.
    assert roofline.naive_speedup(cached()) == pytest.approx(15 / 7)
    assert roofline.naive_speedup(cells()[0]) is None


def test_at_a_thousandth_of_a_second_an_operation_the_host_binds():
    assert roofline.bound_by(cached()) == "host"


def test_a_third_off_is_unexplained_and_a_quarter_is_not():
    assert roofline.bound_by(cached(factor=1.34)) == "unexplained"
    assert roofline.bound_by(cached(factor=0.66)) == "unexplained"
    assert roofline.bound_by(cached(factor=1.25)) == "host"


def test_the_share_of_what_binds_is_that_of_the_largest_part_of_the_step():
    found = prediction.predict(SHAPE, POINT, "static", LIMITS, OPERATIONS).decode
    assert found.host_s == max(found.host_s, found.bandwidth_s, found.compute_s)
    assert roofline.bound_share(cached()) == pytest.approx(found.host_s / found.total_s)
    assert roofline.bound_share(cached(factor=2.0)) == roofline.bound_share(cached())
    assert roofline.bound_share(cached(machine=Machine())) is None


def test_an_allocator_that_had_to_retry_comes_first():
    assert roofline.bound_by(cached(factor=2.0, alloc_retries=1)) == "allocator"
    assert roofline.bound_by(cached(alloc_retries=0)) == "host"


def test_mfu_and_hfu_are_shares_of_the_datasheets_peak():
    cell = cached()
    seconds = cell.calls[0].e2e_s
    assert roofline.mfu(cell) == pytest.approx(flops.useful_flops(SHAPE, POINT) / seconds / 1e7)
    executed = sum(flops.cost(SHAPE, "float32", one).flops for one in flops.static(POINT))
    assert roofline.hfu(cell) == pytest.approx(executed / seconds / 1e7)
    assert roofline.hfu(cell) > roofline.mfu(cell)


def test_mbu_counts_the_weights_that_are_read_and_the_cache():
    cell = cached()
    step = flops.cost(SHAPE, "float32", flops.static(POINT)[1])
    read = step.weight_bytes + 2 * 7 * SHAPE.kv_bytes_per_token("float32")
    assert roofline.mbu(cell) == pytest.approx(read / (cell.calls[0].decode_s / 2) / 1e6)


COLUMNS = (
    roofline.predicted_ttft_s,
    roofline.predicted_tpot_s,
    roofline.predicted_e2e_s,
    roofline.prediction_error,
    roofline.predicted_speedup,
    roofline.prediction_uncertainty,
    roofline.bound_by,
    roofline.host_floor_s,
)
WITHOUT_DISPATCH = Limits(LIMITS.found[:-1], (Unresolved("operation", "noise"),))


@pytest.mark.parametrize(
    "machine",
    [
        Machine(),
        replace(MACHINE, shapes={}),
        replace(MACHINE, limits={}),
        replace(MACHINE, limits={Setting("cpu", "float32", 2).name: LIMITS}),
        replace(MACHINE, limits={NAME: WITHOUT_DISPATCH}),
    ],
)
@pytest.mark.parametrize("column", COLUMNS)
def test_without_sizes_or_limits_nothing_is_predicted(machine, column):
    assert column(cached(machine=machine)) is None


@pytest.mark.parametrize("column", [*COLUMNS, roofline.naive_speedup, roofline.hfu, roofline.mbu])
@pytest.mark.parametrize("path", [None, "magic"])
def test_an_engine_that_does_not_say_how_it_walks_is_not_predicted(column, path):
    assert column(cached(path=path)) is None


@pytest.mark.parametrize("column", [roofline.mfu, roofline.hfu, roofline.mbu])
@pytest.mark.parametrize("sheet", [None, Datasheet("bare"), Datasheet("other", bytes_per_s=None, flops={"bfloat16": 1e12})])
def test_of_a_device_without_peaks_no_share_of_them_is_known_and_the_prediction_stays(column, sheet):
    cell = cached(machine=replace(MACHINE, sheet=sheet))
    assert column(cell) is None
    assert roofline.prediction_error(cell) == pytest.approx(0.0)


def with_limits(*found, unresolved=()):
    return cached(machine=replace(MACHINE, limits={NAME: Limits(found, unresolved)}))


def test_the_uncertainty_is_that_of_the_step_and_nothing_needs_a_note():
    cell = with_limits(*(replace(limit, spread=0.2) for limit in LIMITS.found))
    assert roofline.prediction_uncertainty(cell) == pytest.approx(0.1)
    assert roofline.prediction_note(cell) is None


def test_a_limit_that_was_not_resolved_is_named_beside_the_prediction():
    cell = with_limits(*(each for each in LIMITS.found if each.kind != "argmax"), unresolved=(Unresolved("argmax", "noise"),))
    assert roofline.predicted_tpot_s(cell) == pytest.approx(roofline.predicted_tpot_s(cached()))
    assert roofline.prediction_uncertainty(cell) > 0
    assert roofline.prediction_note(cell) == "argmax counts at the rate of copy: noise"


@pytest.mark.parametrize(
    ("known", "note"),
    [
        ({"machine": Machine({"m": SHAPE})}, "there is no calibration"),
        ({"machine": replace(MACHINE, limits={NAME: WITHOUT_DISPATCH})}, "the limit 'operation' has no value: noise"),
        ({"machine": replace(MACHINE, shapes={})}, "the sizes of the model are not known"),
        ({"path": "magic"}, f"the engine has no attribute kv_access that is one of {', '.join(flops.KV_ACCESS)}"),
    ],
)
def test_where_nothing_is_predicted_the_reason_is_known(known, note):
    assert roofline.prediction_note(cached(**known)) == note


def test_a_cell_whose_operations_were_not_counted_says_so():
    trial = Trial(point=POINT, arms=(UNCACHED,), launch=1, seed=0, target_ci=0.05, max_seconds=1.0)
    record = ArmRecord(arm=UNCACHED, outcome=Outcome(status=Status.OK, kv_access="uncached"))
    (cell,) = make_cells([LaunchRecord.of(trial, 0, record)], MACHINE)
    assert roofline.prediction_note(cell) == "its operations were not counted"


# The place of a cell on the roofline


def test_a_step_moves_weights_and_cache_and_is_the_mean_over_the_growing_lengths():
    reference, cell = cells()
    for each, path in ((reference, flops.uncached), (cell, flops.static)):
        costs = [flops.cost(SHAPE, "float32", one) for one in path(POINT)[1:]]
        assert roofline.step_flops(each) == pytest.approx(sum(one.flops for one in costs) / 2)
        assert roofline.step_bytes(each) == pytest.approx(sum(one.weight_bytes + one.kv_bytes for one in costs) / 2)
        assert roofline.flops_per_byte(each) == pytest.approx(roofline.step_flops(each) / roofline.step_bytes(each))
        assert roofline.step_flops_per_s(each) == pytest.approx(roofline.step_flops(each) / (each.calls[0].decode_s / 2))
    assert roofline.flops_per_byte(reference) > roofline.flops_per_byte(cell)


def test_a_step_of_quantised_arms_moves_the_bytes_that_they_keep():
    whole = cached()
    arms = {"weights": replace(CACHED, weights="int8"), "cache": replace(CACHED, kv_cache="int8")}
    found = {name: replace(whole, launches=[replace(each, arm=arm) for each in whole.launches]) for name, arm in arms.items()}
    (cost, *_) = costs = [flops.cost(SHAPE, "float32", one) for one in flops.static(POINT)[1:]]
    saved = {name: roofline.step_bytes(whole) - roofline.step_bytes(cell) for name, cell in found.items()}
    narrow = flops.cost(SHAPE, "float32", flops.static(POINT)[1], "int8").weight_bytes
    assert saved["weights"] == pytest.approx(cost.weight_bytes - narrow)
    share = flops.kv_bytes_per_token(SHAPE, "float32", "int8") / SHAPE.kv_bytes_per_token("float32")
    assert saved["cache"] == pytest.approx((1 - share) * sum(one.kv_bytes for one in costs) / len(costs))
    assert roofline.step_flops(found["weights"]) == roofline.step_flops(whole)


def test_of_a_single_token_the_prefill_is_on_the_roofline():
    cell = cached(point=replace(POINT, new_tokens=1))
    prefill = flops.cost(SHAPE, "float32", flops.prompt(POINT))
    assert roofline.step_flops(cell) == pytest.approx(prefill.flops)
    assert roofline.step_flops_per_s(cell) == pytest.approx(prefill.flops / cell.calls[0].ttft_s)


def test_the_limits_of_a_cell_are_the_best_of_the_calibration_of_its_run():
    cell = with_limits(*LIMITS.found, Limit(kind="matmul", value=3e9, spread=0.0, rows=64))
    assert roofline.limit_flops_per_s(cell) == pytest.approx(3e9)
    assert roofline.limit_bytes_per_s(cell) == pytest.approx(1e9)
    bare = with_limits(*(each for each in LIMITS.found if each.kind not in ("matmul", "read")))
    assert (roofline.limit_flops_per_s(bare), roofline.limit_bytes_per_s(bare)) == (None, None)


@pytest.mark.parametrize(
    "column", [roofline.step_flops, roofline.step_bytes, roofline.flops_per_byte, roofline.step_flops_per_s]
)
@pytest.mark.parametrize("known", [{"path": "magic"}, {"path": None}, {"machine": replace(MACHINE, shapes={})}])
def test_without_known_costs_a_cell_has_no_place_on_the_roofline(column, known):
    assert column(cached(**known)) is None


@pytest.mark.parametrize("column", [roofline.limit_flops_per_s, roofline.limit_bytes_per_s])
def test_without_a_calibration_there_are_no_limits(column):
    assert column(cached(machine=Machine({"m": SHAPE}))) is None

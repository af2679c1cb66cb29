"""The predicted time of an optimizer step, on a machine whose limits are round numbers."""

from dataclasses import replace

import pytest

from nanobench.analysis import predict
from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results.cell import make_cells
from nanobench.results.metrics import roofline
from nanobench.roofline import flops, training
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limits
from nanobench.schema import DTYPES, Arm, Point, Trial
from nanobench.views import predict as views
from test_metrics_roofline import LIMITS, MACHINE, SHAPE
from test_predict import THERE

POINT = Point(
    model="m",
    dtype="float32",
    device="cpu",
    threads=1,
    batch_size=2,
    seq_len=8,
    phase="pretrain",
    data="synthetic",
    optimizer="adamw",
)
EAGER, OPERATIONS = Arm(), 50


def limits(**rates):
    """Limits at which only some kinds take time."""
    instead = {each.kind: 1e-30 if each.kind == "operation" else 1e21 for each in LIMITS.found} | rates
    return Limits(tuple(replace(each, value=instead[each.kind]) for each in LIMITS.found))


def seconds(point=POINT, arm=EAGER, found=LIMITS):
    return training.predict_step(SHAPE, point, arm, found, OPERATIONS).total_s


def test_a_step_of_matmuls_alone_is_its_operations_over_their_rate():
    one = Pass(2, 8, 8, 8)
    forward = flops.cost(SHAPE, "float32", one).matmul_flops
    assert seconds(found=limits(matmul=1e6, lm_head=1e6)) == pytest.approx(3 * forward / 1e6)


def test_what_moves_alone_is_the_loss_the_optimizer_and_clipping():
    logits = 4 * 2 * 8 * SHAPE.vocab_size * 4
    update = (3 + 2 * 2 + 3) * 4 * SHAPE.n_params
    assert seconds(found=limits(copy=1e6)) == pytest.approx((logits + update) / 1e6)
    sgd = (3 + 3) * 4 * SHAPE.n_params
    assert seconds(replace(POINT, optimizer="sgd:lr=0.1"), found=limits(copy=1e6)) == pytest.approx((logits + sgd) / 1e6)


def test_the_host_dispatches_every_operation():
    assert seconds(found=limits(operation=1e-3)) == pytest.approx(OPERATIONS * 1e-3)


def test_attention_backward_computes_its_scores_again():
    forward = flops.cost(SHAPE, "float32", Pass(2, 8, 8, 8)).attention_flops
    assert seconds(found=limits(attention=1e6)) == pytest.approx(3.5 * forward / 1e6)


def test_accumulated_batches_add_up_and_the_optimizer_steps_once():
    once, twice = (seconds(replace(POINT, grad_accum=parts)) for parts in (1, 2))
    update = training.update_time(SHAPE, POINT, EAGER, LIMITS).total_s + OPERATIONS * 1e-3
    assert twice - update == pytest.approx(2 * (once - update))


def test_what_is_computed_twice_takes_longer():
    plain = training.batch_time(SHAPE, POINT, EAGER, LIMITS).total_s
    chunked = training.batch_time(SHAPE, POINT, Arm(cross_entropy="chunked"), LIMITS).total_s
    head = 2.0 * 16 * SHAPE.head_params / 1e9
    assert chunked - plain == pytest.approx(head)
    checkpointed = training.batch_time(SHAPE, POINT, Arm(checkpointing="checkpointed"), LIMITS).total_s
    assert checkpointed > plain


def test_a_gpu_works_beside_its_host():
    found = training.predict_step(SHAPE, replace(POINT, device="cuda:0"), EAGER, LIMITS, OPERATIONS)
    assert found.total_s == pytest.approx(OPERATIONS * 1e-3)
    assert found.bound_by == "host"


def test_autocast_casts_weights_and_gradients():
    narrow = replace(POINT, dtype="bfloat16")
    cast = 2.0 * (4 + 2) * SHAPE.read_params / 1e9
    assert training.cast_time(SHAPE, narrow, EAGER, LIMITS).total_s == pytest.approx(cast)
    assert training.cast_time(SHAPE, POINT, EAGER, LIMITS).total_s == 0.0


def test_narrow_parameters_are_not_cast_and_move_half_the_bytes():
    narrow, arm = replace(POINT, dtype="bfloat16"), Arm(param_dtype="bfloat16")
    assert training.cast_time(SHAPE, narrow, arm, LIMITS).total_s == 0.0
    wide = training.update_time(SHAPE, narrow, EAGER, LIMITS).total_s
    assert training.update_time(SHAPE, narrow, arm, LIMITS).total_s == pytest.approx(wide / 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phase": "sft-dynamic"}, "lengths change"),
        ({"world_size": 2}, "communication"),
        ({"optimizer": "muon:lr=0.1"}, "the work of the optimizer muon:lr=0.1 is not known"),
    ],
    ids=str,
)
def test_what_is_not_predicted_has_a_reason(change, reason):
    point = replace(POINT, **change)
    assert training.why_not(point, EAGER).startswith(reason)
    (cell,) = cells(point=point)
    assert roofline.predicted_step_s(cell) is None
    assert roofline.prediction_note(cell).startswith(reason)
    assert predict.step_elsewhere(cell, THERE) is None


def test_attention_that_no_calibration_measures_is_predicted_nowhere():
    (cell,) = cells(arms=(Arm(compile_mode="default", attention="flex"),))
    assert roofline.predicted_step_s(cell) is None
    assert roofline.prediction_note(cell) == "FlexAttention is not calibrated"
    assert predict.step_elsewhere(cell, THERE) is None


def test_narrow_parameters_are_not_predicted_for_a_dtype_that_they_cannot_have():
    both = replace(MACHINE, limits={name.replace("float32", dtype): LIMITS for name in MACHINE.limits for dtype in DTYPES})
    (cell,) = cells(replace(POINT, dtype="bfloat16"), (Arm(param_dtype="bfloat16"),), machine=both)
    assert predict.step_elsewhere(cell, THERE) is not None
    assert predict.step_elsewhere(cell, THERE, "float32") is None


def cells(point=POINT, arms=(EAGER,), factor=1.0, machine=MACHINE):
    """Cells whose steps take `factor` times what is predicted."""
    trial = Trial(point=point, arms=arms, launch=1, seed=0, target_ci=0.05, max_seconds=1.0)
    timed = Repetition(kind="steady", block=0, wall_s=factor * seconds(), tokens=16, useful_tokens=16)
    outcome = Outcome(status=Status.OK, operations_per_step=OPERATIONS)
    records = [ArmRecord(arm=arm, repetitions=(timed,), outcome=outcome) for arm in arms]
    return make_cells([LaunchRecord.of(trial, 0, record) for record in records], machine)


def test_the_columns_say_how_far_off_it_is():
    (cell,) = cells(factor=1.2)
    assert roofline.predicted_step_s(cell) == seconds()
    assert roofline.prediction_error(cell) == pytest.approx(0.2)
    assert roofline.prediction_note(cell) is None
    assert roofline.bound_by(cell) == "host"
    assert roofline.bound_by(cells(factor=1.5)[0]) == "unexplained"
    assert roofline.predicted_tpot_s(cell) is None


def test_without_a_calibration_nothing_is_predicted():
    (cell,) = cells(machine=replace(MACHINE, limits={}))
    assert roofline.predicted_step_s(cell) is None
    assert roofline.bound_by(cell) is None
    assert roofline.prediction_note(cell) == "there is no calibration"


def test_a_run_of_training_is_predicted_for_another_device():
    slow = Arm(checkpointing="checkpointed")
    first, second = predict.rows(cells(arms=(EAGER, slow)), THERE, None, None)
    there = predict.step_elsewhere(cells()[0], THERE)
    assert first["predicted_step_s"] == there.total_s
    assert first["predicted_train_tok_s"] == pytest.approx(16 / there.total_s)
    assert first["predicted_speedup"] is None
    assert second["predicted_speedup"] <= 1
    assert (first["measured_train_tok_s"], first["prediction_error"]) == (None, None)
    assert "predicted_output_tok_s" not in first


def test_the_table_has_the_columns_of_training():
    table = views.make(predict.rows(cells(), THERE, None, None), views.COLUMNS)
    heads = [column.head for column in table.columns]
    assert "predicted\nstep" in heads
    assert "predicted\nTPOT" not in heads


def test_a_run_of_training_without_a_calibration_names_its_command():
    with pytest.raises(predict.UserError, match="nanobench train-throughput --calibration auto"):
        predict.rows(cells(machine=replace(MACHINE, limits={})), THERE, None, None)

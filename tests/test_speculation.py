"""The predicted time of speculative decoding, compared with sums written out in the test; and the columns about drafts."""

import json
from dataclasses import replace

import pytest

from nanobench.analysis import explain
from nanobench.errors import UserError
from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status, Verdict
from nanobench.results.cell import make_cells
from nanobench.results.metrics import common, roofline
from nanobench.results.metrics import speculation as columns
from nanobench.results.run_context import Machine, Setting
from nanobench.roofline import flops, prediction, speculation
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limit, Limits
from nanobench.roofline.prediction import Operations
from nanobench.roofline.speculation import Drafting
from nanobench.schema import Arm, GPTShape, Point, Trial
from nanobench.sweep.axes import engines_of
from nanobench.sweep.options import GateOptions, TrainOptions
from nanobench.sweep.plan import describe_request, requested
from nanobench.views import explain as views

SIZES = {"architecture": "gpt2", "n_kv_head": 2, "n_head": 2, "vocab_size": 100, "block_size": 64, "n_params": 10_000}
SHAPE, DRAFT = GPTShape(n_layer=3, n_embd=8, **SIZES), GPTShape(n_layer=1, n_embd=4, **SIZES)
POINT = Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=4, new_tokens=4)
RATES = {"matmul": 1e6, "lm_head": 2e6, "attention": 4e6, "read": 1e30, "copy": 5e6, "elementwise": 6e6, "argmax": 7e6}
LIMITS = Limits(tuple(Limit(kind, value, 0.0) for kind, value in {**RATES, "operation": 1e-3}.items()))
MACHINE = Machine({"m": SHAPE}, {Setting("cpu", "float32", 1).name: LIMITS})
OPERATIONS = Operations(prefill=40, step=50)


def test_a_pass_writes_as_many_tokens_as_leviathan_says():
    assert speculation.expected_tokens(0.8, 4) == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4)
    assert speculation.expected_tokens(0, 4) == 1
    assert speculation.expected_tokens(1, 4) == 5


@pytest.mark.parametrize(("accept", "length", "rows"), [(0.6, 2, 1), (0.8, 4, 1), (0.95, 8, 1), (0.8, 4, 3)])
def test_over_a_long_call_the_counted_passes_agree_with_the_formula(accept, length, rows):
    drafting, point = Drafting(length, None, accept), replace(POINT, new_tokens=4001, batch_size=rows)
    steps = speculation.expected_passes(point, drafting, drafting.kept(rows)).steps
    assert 4000 / steps == pytest.approx(speculation.expected_tokens(accept**rows, length), rel=5e-3)


def test_the_last_passes_draft_what_is_still_of_use():
    """Three tokens are left, and two are drafted: both kept with chance 0.25, one with 0.25, none with 0.5."""
    found = speculation.expected_passes(POINT, Drafting(2, DRAFT, 0.5), (0.5, 0.25))
    verified = {
        (one.tokens, one.context, one.logits_positions, one.kv_read, one.kv_written): n for one, n in found.target.items()
    }
    # With 3 left: always. With 2 left: after none. With 1 left: after one, or after none and none again.
    assert verified == {(3, 7, 3, 7, 3): 1.0, (2, 7, 2, 7, 2): 0.5, (1, 7, 1, 7, 1): pytest.approx(0.25 + 0.25)}
    assert all(one.sampled_positions == one.tokens for one in found.target)
    drafted = {(one.tokens, one.context): n for one, n in found.draft.items()}
    assert drafted == {(1, 5): 1.0, (1, 6): 1.0 + 0.5}
    assert found.steps == pytest.approx(2.0)
    assert found.drafts == pytest.approx(2.5 / 2.0)


def test_after_a_draft_that_was_kept_whole_its_next_pass_reads_two_tokens():
    found = speculation.expected_passes(replace(POINT, new_tokens=6), Drafting(1, DRAFT, 1), (1.0,))
    assert {(one.tokens, one.context) for one in found.draft} == {(1, 5), (2, 7)}


def pass_s(shape, one, operations):
    """Seconds of a pass: each kind of work at its rate, and the operations that dispatch it."""
    cost = flops.cost(shape, "float32", one)
    head = 2.0 * one.rows * one.logits_positions * shape.head_params
    work = (cost.matmul_flops - head) / 1e6 + head / 2e6 + cost.attention_flops / 4e6
    return operations * 1e-3 + work + cost.elementwise_bytes / 6e6 + cost.logits_bytes / 7e6


def test_a_prediction_is_the_sum_of_its_passes():
    """Operations are divided by layers: a step has one pass of three layers and 1.25 of one."""
    found = speculation.predict(SHAPE, POINT, Drafting(2, DRAFT, 0.5), (0.5, 0.25), LIMITS, OPERATIONS)
    per_layer = 50 / (3 + 1.25)
    target = {(3, 7): 1.0, (2, 7): 0.5, (1, 7): 0.5}
    checks_s = sum(
        share * pass_s(SHAPE, Pass(1, tokens, end, tokens, end, tokens, sampled_positions=tokens), 3 * per_layer)
        for (tokens, end), share in target.items()
    )
    draft = {(1, 5): 1.0, (1, 6): 1.5}
    drafts_s = sum(share * pass_s(DRAFT, Pass(1, n, end, 1, end, n), per_layer) for (n, end), share in draft.items())
    prompt = flops.prompt(POINT)
    assert found.draft_s == pytest.approx(drafts_s)
    assert found.decode.total_s == pytest.approx(checks_s + drafts_s)
    assert found.decode.host_s == pytest.approx(2.0 * 50e-3)
    assert found.prefill.total_s == pytest.approx(pass_s(SHAPE, prompt, 30) + pass_s(DRAFT, prompt, 10))
    assert found.tpot_s == pytest.approx((checks_s + drafts_s) / 3)
    assert found.host_floor_s == pytest.approx(2.0 * 50e-3 / 3)
    plain_s = pass_s(SHAPE, Pass(1, 1, 6, 1, 6, 1), 3 * per_layer)
    assert found.draft_cost == pytest.approx(drafts_s / 2 / plain_s)
    assert found.verification_cost == pytest.approx(checks_s / 2 / plain_s)


def test_what_drafts_without_a_pass_takes_its_operations_alone():
    found = speculation.predict(SHAPE, POINT, Drafting(2), (0.5, 0.25), LIMITS, OPERATIONS)
    assert found.draft_s == 0
    assert found.prefill.total_s == pytest.approx(pass_s(SHAPE, flops.prompt(POINT), 40))


def test_with_nothing_accepted_and_one_drafted_token_a_step_is_a_plain_one_and_a_wider_pass():
    plain = prediction.predict(SHAPE, POINT, "prefix", LIMITS, OPERATIONS)
    found = speculation.predict(SHAPE, POINT, Drafting(1), (0.0,), LIMITS, OPERATIONS)
    assert found.passes == pytest.approx(3)
    assert found.decode.total_s > plain.decode.total_s


def test_drafting_stays_the_same_as_a_document():
    for drafting in (Drafting(4), Drafting(2, DRAFT, 0.7)):
        assert Drafting.from_json(json.loads(json.dumps(drafting.to_json()))) == drafting


# Columns

COUNTS = {
    "target_passes": 4,
    "drafted_by_position": (4.0, 4.0, 2.0),
    "accepted_by_position": (3.0, 2.0, 0.5),
    "kept_by_position": (2.0, 1.0, 0.0),
}


def cell_of(drafting, point=POINT, weights="float", machine=MACHINE, calibrated=True, **known):
    """A cell whose two timed repetitions have COUNTS, unless something else is known of them."""
    arm = Arm(engine="speculative", weights=weights)
    trial = Trial(point=point, arms=(arm,), launch=1, seed=0, target_ci=0.05, max_seconds=1.0)
    times = {"wall_s": 5.0, "token_times_s": (1.0, 3.0, 3.0, 5.0), "timestamped": True, "draft_s": 1.0}
    timed = [Repetition(kind="steady", block=n, **{**times, **COUNTS, **known}) for n in range(2)]
    facts = {"operations_prefill": 40.0, "operations_per_step": 50.0} if calibrated else {}
    text = None if drafting is None else json.dumps(drafting.to_json())
    outcome = Outcome(status=Status.OK, gate=Verdict.EXACT, drafting=text, timestamp_cost_s=0.01, **facts)
    records = [LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=tuple(timed), outcome=outcome))]
    return make_cells(records, machine)[0]


def test_columns_come_from_all_timed_repetitions():
    cell = cell_of(Drafting(3))
    assert columns.mean_acceptance_length(cell) == 1 + 3 / 4
    assert columns.draft_acceptance_rate(cell) == 5.5 / 10
    assert columns.acceptance_rate_by_position(cell) == "0.75 0.5 0.25"
    by_name = {metric.name: metric for metric in columns.METRICS}
    assert by_name["draft_time_share"].compute(cell) == pytest.approx(1.0 / 4.0)
    # Four tokens and two parts of four steps have a timestamp.
    assert common.timestamp_overhead(cell).value == pytest.approx(0.01 * (4 + 8) / 5)


def test_an_arm_that_drafts_nothing_has_none_of_them():
    nothing = dict.fromkeys([*COUNTS, "draft_s"])
    cell = cell_of(None, **nothing)
    assert [metric.compute(cell) for metric in columns.METRICS] == [None] * len(columns.METRICS)
    assert cell.kept(1) is None
    assert cell.prediction is None


def test_a_synthetic_arm_is_predicted_from_its_acceptance_alone():
    cell = cell_of(Drafting(2, DRAFT, 0.5))
    assert cell.prediction == speculation.predict(SHAPE, POINT, Drafting(2, DRAFT, 0.5), (0.5, 0.25), LIMITS, OPERATIONS)
    assert roofline.prediction_note(cell) is None
    assert roofline.prediction_error(cell) == pytest.approx(4 / 3 / cell.prediction.tpot_s - 1)


def test_other_arms_are_predicted_from_what_all_rows_kept_and_say_so():
    cell = cell_of(Drafting(3, DRAFT))
    assert cell.prediction == speculation.predict(SHAPE, POINT, Drafting(3, DRAFT), (0.5, 0.25, 0.0), LIMITS, OPERATIONS)
    assert roofline.prediction_note(cell) == "from the acceptance that was measured"
    # At another batch size every row keeps as many as each row of this cell did.
    assert cell_of(Drafting(3), replace(POINT, batch_size=2)).kept(4) == pytest.approx([0.25, 0.0625, 0.0])


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        (cell_of(Drafting(3), **{**COUNTS, "target_passes": 0}), "no token was drafted"),
        (cell_of(None), "the engine has no attribute kv_access that is one of"),
        (cell_of(Drafting(3), calibrated=False), "its operations were not counted"),
    ],
)
def test_what_is_not_predicted_says_why(cell, note):
    assert cell.prediction is None
    assert roofline.prediction_note(cell).startswith(note)


def test_a_share_of_fewer_passes_is_never_larger_than_the_one_before_it():
    cell = cell_of(Drafting(2), drafted_by_position=(4.0, 2.0), kept_by_position=(2.0, 2.0), accepted_by_position=(2.0, 2.0))
    assert cell.kept(1) == [0.5, 0.5]


def test_a_draft_beside_quantised_weights_is_not_predicted():
    name = Setting("cpu", "float32", 1, "int8").name
    both = replace(MACHINE, limits={**MACHINE.limits, name: LIMITS})
    cell = cell_of(Drafting(3, DRAFT), weights="int8", machine=both)
    assert cell.prediction is None
    assert roofline.prediction_note(cell) == "a draft model beside quantised weights is not predicted"
    assert cell_of(Drafting(3), weights="int8", machine=both).prediction is not None


# Explain


def test_the_reason_says_what_a_pass_writes_and_what_it_takes():
    row = {"mean_acceptance_length": 2.5, "draft_cost": 0.5, "verification_cost": 1.25}
    said = (
        "; a pass of the model writes 2.5 tokens and should take 1.75 plain steps (0.5 of drafts), so drafting should pay here"
    )
    assert views.of_drafts(row) == said
    assert views.of_drafts({**row, "mean_acceptance_length": 1.5}) == said.replace("2.5", "1.5").replace("pay", "not pay")
    assert views.of_drafts({**row, "draft_cost": None}) == "; a pass of the model writes 2.5 tokens"
    assert views.of_drafts({"mean_acceptance_length": None}) == ""


def test_its_numbers_are_those_of_the_prediction():
    found = cell_of(Drafting(2, DRAFT, 0.5)).prediction
    assert explain.of_drafts(found) == {"draft_cost": found.draft_cost, "verification_cost": found.verification_cost}
    plain = prediction.predict(SHAPE, POINT, "prefix", LIMITS, OPERATIONS)
    assert set(explain.of_drafts(plain).values()) == set(explain.of_drafts(None).values()) == {None}


# --draft-len


def test_each_engine_that_drafts_runs_with_each_draft_length():
    options = GateOptions(engine="cached,speculative,speculative:draft=gpt2-nano,accept=0.7", draft_len="auto,2-8*2")
    expected = ["cached", "speculative", *(f"speculative:draft_len={length}" for length in (2, 4, 8))]
    last = "speculative:draft=gpt2-nano,accept=0.7"
    expected += [last, *(f"{last},draft_len={length}" for length in (2, 4, 8))]
    assert engines_of(options.axes) == expected
    assert [arm.engine for arm in requested(options, "cpu")[1]] == expected
    describe_request(options)


def test_without_the_option_engines_stay_as_they_are():
    assert engines_of(GateOptions(engine="cached,speculative:draft_len=2").axes) == ["cached", "speculative:draft_len=2"]
    assert engines_of(TrainOptions().axes) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"draft_len": "2,4"}, "--draft-len 2,4 is for engines that draft tokens; add speculative to --engine"),
        ({"draft_len": "2", "engine": "speculative:draft_len=4"}, "gives draft_len already"),
        ({"draft_len": "0", "engine": "speculative"}, "--draft-len 0 is below 1"),
        ({"draft_len": "1-900+1", "engine": "cached,speculative", "batch": "1,2"}, "2 points x 901 arms = 1,802 cells"),
    ],
)
def test_wrong_draft_lengths_are_one_line(asked, words):
    with pytest.raises(UserError) as refused:
        describe_request(GateOptions(**asked))
    assert words in str(refused.value)

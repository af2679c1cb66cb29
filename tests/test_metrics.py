"""Every column computed by hand from a few raw rows, and what becomes of cells that failed."""

import math
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from nanobench.records import MEASURED, ArmRecord, LaunchRecord, Outcome, Readings, Repetition, Status, Verdict
from nanobench.results import derive, repetitions
from nanobench.results.metrics.metric import UNITS
from nanobench.results.raw_files import RAW_SCHEMA
from nanobench.results.raw_rows import rows_of
from nanobench.results.store import Run, cells_schema
from nanobench.schema import PROTOCOL, Arm, Point, Trial

POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=2, batch_size=4, prompt_len=10, new_tokens=3)
SLOW, FAST = Arm(engine="uncached"), Arm(engine="cached")
COMPILED = Arm(engine="cached", compile_mode="default")
OK = Outcome(status=Status.OK)
FAILING = [status for status in Status if status not in MEASURED]


def trial_of(launch=1, point=POINT, arms=(SLOW, FAST), target_ci=0.05):
    return Trial(point=point, arms=arms, launch=launch, seed=0, target_ci=target_ci, max_seconds=1.0)


def timed(block, wall_s, token_times_s=None, calls=1, point=POINT, **others):
    """A steady repetition; a marked one has a time for each of its calls x new_tokens tokens."""
    tokens = calls * point.batch_size * point.new_tokens
    facts = {
        "repetition": block,
        "block": block,
        "wall_s": wall_s,
        "token_times_s": token_times_s,
        "calls": calls,
        "tokens": tokens,
    }
    return Repetition(kind="steady", timestamped=token_times_s is not None, **facts, **others)


def timings(*walls_s):
    return [timed(block, wall_s) for block, wall_s in enumerate(walls_s)]


def said(trial, arm, repetitions=(), outcome=OK, process=0):
    """The rows of one arm in one launch."""
    return [LaunchRecord.of(trial, process, ArmRecord(arm=arm, repetitions=tuple(repetitions), outcome=outcome))]


def both(slow, fast, launch=1, slow_outcome=OK, fast_outcome=OK, **trial):
    """The rows of one launch of the reference and one arm in one process."""
    asked = trial_of(launch, **trial)
    return said(asked, asked.arms[0], slow, slow_outcome) + said(asked, asked.arms[1], fast, fast_outcome)


def cell_of(rows, arm=FAST):
    (cell,) = [cell for cell in derive.derive(rows) if cell["arm"] == arm.label]
    return cell


def alone(repetitions, outcome=OK, point=POINT, launch=1):
    """The cell of a lone arm with these repetitions."""
    return cell_of(said(trial_of(launch, point, (FAST,)), FAST, repetitions, outcome))


def failed(status, reason="because"):
    return Outcome(status=status, reason=reason)


# Two marked calls of POINT: the first token after 2 s and 3 s, the last after 3 s and 6 s.
TWO_CALLS = [timed(0, 3.5, (2.0, 2.25, 3.0)), timed(1, 6.5, (3.0, 5.0, 6.0))]


ONE, LONG = replace(POINT, new_tokens=1), replace(POINT, new_tokens=15)


# Throughput and latency


def test_output_tok_s_is_all_tokens_over_all_wall_time():
    # 2 repetitions x 4 rows x 3 tokens in 3.5 + 6.5 s
    assert alone(TWO_CALLS)["output_tok_s"] == pytest.approx(24 / 10)


def test_ttft_tpot_and_e2e_are_medians_over_calls():
    cell = alone([*TWO_CALLS, timed(2, 9.0, (2.5, 3.0, 8.5))])
    assert cell["ttft_s"] == 2.5  # of 2, 3, 2.5
    assert cell["e2e_s"] == 6.0  # of 3, 6, 8.5
    assert cell["tpot_s"] == 1.5  # of (3 - 2) / 2, (6 - 3) / 2, (8.5 - 2.5) / 2


def test_decode_and_prefill_rates_are_all_their_tokens_over_all_their_seconds():
    cell = alone(TWO_CALLS)
    assert cell["decode_tok_s"] == pytest.approx(2 * 4 * 2 / (1 + 3))  # 2 calls x 4 rows x (3 - 1) tokens
    assert cell["decode_tok_s_per_row"] == pytest.approx(2 * 2 / (1 + 3))
    assert cell["prefill_tok_s"] == pytest.approx(2 * 4 * 10 / (2 + 3))  # 2 calls x 4 rows x 10 prompt tokens


# Whole calls of 3 and 6 s; calls of one token in blocks 0 and 1, and in one whose whole calls do not count.
WHOLE = [
    timed(0, 6.0, calls=2),
    timed(1, 6.0),
    timed(2, 99.0, valid=False, reason="because"),
    Repetition(kind="first_token", block=0, wall_s=2.0, calls=2, tokens=8),
    Repetition(kind="first_token", block=1, wall_s=4.0, calls=2, tokens=8),
    Repetition(kind="first_token", block=2, wall_s=50.0, calls=2, tokens=8),
]


def test_whole_calls_have_their_first_token_from_calls_of_one_token_and_nothing_between_tokens():
    cell = alone(WHOLE)
    assert cell["e2e_s"] == 4.5  # of 6 / 2 and 6
    assert cell["ttft_s"] == 1.5  # of 2 / 2 and 4 / 2
    assert cell["prefill_tok_s"] == pytest.approx(2 * 4 * 10 / (1 + 2))
    assert cell["output_tok_s"] == pytest.approx(3 * 12 / 12)
    for name in ("tpot_s", "itl_p50_s", "itl_positions", "decode_tok_s", "decode_tok_s_per_row", "decode_speedup"):
        assert cell[name] is None


def test_whole_calls_of_a_single_token_are_their_own_first_token():
    cell = alone([timed(0, 2.0, point=ONE)], point=ONE)
    assert cell["ttft_s"] == cell["e2e_s"] == 2.0


def test_whole_calls_are_paired_with_the_timestamped_ones_of_the_reference():
    slow = [timed(block, wall_s, (1.0, 2.0, wall_s)) for block, wall_s in enumerate((6.0, 12.0))]
    cell = cell_of(both(slow, timings(3.0, 6.0)))
    assert cell["speedup"] == pytest.approx(2.0)
    assert cell["decode_speedup"] is None


def test_rates_hold_for_times_far_below_a_second():
    cell = alone([timed(0, 0.004, (0.001, 0.002, 0.003))])
    assert cell["decode_tok_s"] == pytest.approx(4 * 2 / 0.002)
    assert cell["prefill_tok_s"] == pytest.approx(4 * 10 / 0.001)
    assert cell["output_tok_s"] == pytest.approx(12 / 0.004)


def test_calls_back_to_back_begin_where_the_one_before_ended():
    # Calls of 1 to 4 s and 4 to 10 s: first tokens after 1 and 2 s, decode of 3 and 4 s.
    cell = alone([timed(0, 10.5, (1.0, 2.0, 4.0, 6.0, 7.0, 10.0), calls=2)])
    assert cell["ttft_s"] == 1.5
    assert cell["e2e_s"] == 5.0  # of 4 and 6
    assert cell["tpot_s"] == 1.75  # of 3 / 2 and 4 / 2
    assert cell["decode_tok_s"] == pytest.approx(2 * 4 * 2 / (3 + 4))
    assert cell["prefill_tok_s"] == pytest.approx(2 * 4 * 10 / (1 + 2))
    assert cell["output_tok_s"] == pytest.approx(24 / 10.5)


def test_split_calls_keeps_the_gaps_between_tokens_of_one_call():
    assert repetitions.split_calls(timed(0, 10.5, (1.0, 2.0, 4.0, 6.0, 7.0, 10.0), calls=2)) == [
        repetitions.Call(ttft_s=1.0, e2e_s=4.0, itl_s=(1.0, 2.0)),
        repetitions.Call(ttft_s=2.0, e2e_s=6.0, itl_s=(1.0, 3.0)),
    ]


def test_one_new_token_has_no_time_per_output_token_and_no_decode():
    point = replace(POINT, new_tokens=1)
    slow, fast = ([timed(0, wall_s, (wall_s / 2,), point=point)] for wall_s in (4.0, 2.0))
    cell = cell_of(both(slow, fast, point=point))
    assert cell["ttft_s"] == cell["e2e_s"] == 1.0
    assert cell["speedup"] == pytest.approx(2.0)
    for name in ("tpot_s", "decode_tok_s", "decode_tok_s_per_row", "decode_speedup"):
        assert cell[name] is None


def test_two_new_tokens_have_a_time_per_output_token():
    point = replace(POINT, new_tokens=2)
    assert alone([timed(0, 4.0, (1.0, 3.0), point=point)], point=point)["tpot_s"] == 2.0


def test_invalid_repetitions_and_other_phases_count_nowhere():
    others = [
        timed(4, 1000.0, (500.0, 700.0, 900.0), valid=False, reason="recompiled"),
        Repetition(kind="build", wall_s=100.0),
        Repetition(kind="first_call", wall_s=100.0, tokens=12),
        Repetition(kind="gate", wall_s=100.0),
        Repetition(kind="warmup", wall_s=100.0, tokens=12),
        Repetition(kind="sustained", started_at=0.0, wall_s=100.0, tokens=12),
    ]
    calls = [*TWO_CALLS, replace(TWO_CALLS[0], block=2), replace(TWO_CALLS[1], block=3)]
    with_others, without = alone([*others, *calls]), alone(calls)
    told = {"invalid_repetitions", "invalid_reasons", "steady_s", "gate_s", "first_call_s", "warmup_s", "energy_valid"}
    assert {name for name in without if with_others[name] != without[name]} == told
    assert with_others["repetitions"] == 4
    assert (with_others["invalid_repetitions"], with_others["invalid_reasons"]) == (1, "1 x recompiled")
    assert (without["invalid_repetitions"], without["invalid_reasons"]) == (0, None)


def test_noise_is_the_relative_interquartile_range_of_the_time_of_a_call():
    walls_s = (5.0, 1.0, 4.0, 2.0, 3.0)
    assert alone(timings(*walls_s))["relative_iqr"] == pytest.approx((4 - 2) / 3)
    several = [timed(block, calls * walls_s[block], calls=calls) for block, calls in enumerate((1, 3, 2, 4, 5))]
    assert alone(several)["relative_iqr"] == pytest.approx((4 - 2) / 3)


# Speed-ups


def test_the_speedup_is_paired_by_block_and_averaged_over_the_means_of_the_launches():
    # Launch 1: ratios 2 and 8, geometric mean 4. Launch 2: one pair of ratio 1. Over launches: 2.
    one = both(timings(4.0, 16.0), timings(2.0, 2.0))
    two = both(timings(3.0), timings(3.0), launch=2)
    cell = cell_of(one + two)
    half = scipy.stats.t.ppf(0.975, 1) * math.log(4.0) / 2
    assert cell["speedup"] == pytest.approx(2.0)
    assert cell["speedup_lo"] == pytest.approx(2.0 * math.exp(-half))
    assert cell["speedup_hi"] == pytest.approx(2.0 * math.exp(half))
    assert (cell["speedup_basis"], cell["pairing"]) == ("launches", "block")


def test_blocks_that_one_arm_lacks_are_no_pairs():
    # Unpaired, 100 s would give a ratio of 10 at least.
    slow = [timed(0, 4.0), timed(1, 100.0), timed(2, 4.0, valid=False), timed(3, 6.0)]
    fast = [timed(0, 2.0), timed(2, 2.0), timed(3, 2.0), timed(4, 0.001)]
    cell = cell_of(both(slow, fast))
    assert cell["speedup"] == pytest.approx(math.sqrt(2 * 3))
    assert cell["speedup_basis"] == "pairs of one process"


def test_the_speedup_compares_the_time_of_one_call():
    slow, fast = [timed(0, 6.0)], [timed(0, 6.0, calls=3)]
    assert cell_of(both(slow, fast))["speedup"] == pytest.approx(3.0)


def test_a_single_pair_has_a_speedup_without_bounds():
    cell = cell_of(both(timings(4.0), timings(2.0)))
    assert (cell["speedup"], cell["speedup_lo"], cell["speedup_hi"]) == (pytest.approx(2.0), None, None)
    assert (cell["status"], cell["speedup_status"]) == ("imprecise", "imprecise")
    assert cell["reason"] == "one repetition gives no interval; more --launches give one"


def test_the_decode_speedup_is_that_of_the_time_after_the_first_token():
    # Decode of 4 and 8 s against 2 s each: ratios 2 and 4; the times to the first token don't count.
    slow = [timed(0, 9.0, (5.0, 6.0, 9.0)), timed(1, 9.0, (1.0, 2.0, 9.0))]
    fast = [timed(0, 9.0, (7.0, 8.0, 9.0)), timed(1, 9.0, (7.0, 8.0, 9.0))]
    cell = cell_of(both(slow, fast))
    half = scipy.stats.t.ppf(0.975, 1) * math.log(2.0) / 2
    assert cell["speedup"] == pytest.approx(1.0)
    assert cell["decode_speedup"] == pytest.approx(math.sqrt(8))
    assert cell["decode_speedup_lo"] == pytest.approx(math.sqrt(8) * math.exp(-half))
    assert cell["decode_speedup_hi"] == pytest.approx(math.sqrt(8) * math.exp(half))


def test_the_decode_of_several_calls_is_averaged_geometrically():
    slow = [timed(0, 50.0, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 38.0), calls=3)]  # decode of 1, 2 and 32 s
    fast = [timed(0, 50.0, (1.0, 1.5, 3.0))]  # of 2 s
    assert cell_of(both(slow, fast))["decode_speedup"] == pytest.approx(2.0)


def test_blocks_without_a_time_or_with_a_time_of_0_have_no_logarithm():
    logs = repetitions.mean_logs({0: [], 1: [0.0, 1.0], 2: [2.0, 8.0]})
    assert logs == {2: pytest.approx(math.log(4.0))}


def test_the_reference_has_no_speedup_and_no_pairing():
    cell = cell_of(both(TWO_CALLS, TWO_CALLS), SLOW)
    names = [name for name in cell if "speedup" in name]
    assert len(names) == 18
    assert [cell[name] for name in (*names, "pairing")] == [None] * 19


@pytest.mark.parametrize("status", FAILING)
def test_no_arm_has_a_speedup_where_the_reference_failed(status):
    rows = both([], TWO_CALLS, slow_outcome=failed(status))
    assert cell_of(rows, SLOW)["status"] == status
    cell = cell_of(rows)
    assert cell["status"] == "imprecise"
    assert cell["output_tok_s"] == pytest.approx(2.4)
    assert (cell["speedup_status"], cell["speedup_reason"]) == (status, "reference: because")
    names = [name for name in cell if "speedup" in name or name == "pairing"]
    assert [cell[name] for name in names if name not in ("speedup_status", "speedup_reason")] == [None] * 17


def test_no_arm_has_a_speedup_where_the_reference_failed_after_a_few_repetitions():
    rows = both(timings(4.0, 4.0), timings(2.0, 2.0), slow_outcome=failed(Status.OOM))
    assert cell_of(rows)["speedup"] is None


def test_an_arm_without_a_reference_has_no_speedup():
    rows = [launch for launch in both(TWO_CALLS, TWO_CALLS) if launch.arm_index == 1]
    cell = cell_of(rows)
    assert cell["speedup"] is None
    assert cell["ttft_s"] == 2.5


def apart(launch, slow, fast):
    asked = trial_of(launch)
    return said(asked, SLOW, slow, process=0) + said(asked, FAST, fast, process=1)


def test_arms_of_different_processes_are_paired_by_their_launch():
    # Launch 1: geometric means 8 and 2; launch 2: 27 and 3. By block, 64 s and 0.5 s would make a pair.
    rows = apart(1, timings(4.0, 2.0, 64.0), timings(1.0, 16.0, 0.5)) + apart(2, timings(27.0), timings(3.0))
    cell = cell_of(rows)
    half = scipy.stats.t.ppf(0.975, 1) * math.log(9 / 4) / 2
    assert cell["speedup"] == pytest.approx(6.0)
    assert cell["speedup_lo"] == pytest.approx(6.0 * math.exp(-half))
    assert (cell["speedup_basis"], cell["pairing"]) == ("launches", "launch")


def test_one_launch_in_different_processes_is_one_value_without_bounds():
    cell = cell_of(apart(1, timings(2.0, 2.0, 2.0), timings(1.0, 1.0, 1.0)))
    assert (cell["speedup"], cell["speedup_lo"], cell["pairing"]) == (pytest.approx(2.0), None, "launch")


def test_a_launch_in_which_only_one_arm_ran_is_no_pair():
    rows = both(timings(4.0), timings(2.0))
    lone = said(trial_of(2), FAST, timings(0.001)) + said(trial_of(2), SLOW, [], failed(Status.ERROR))
    asked = trial_of(3)
    split = said(asked, SLOW, timings(1000.0)) + said(asked, FAST, [], failed(Status.ERROR), process=1)
    assert cell_of(rows + lone + split)["speedup"] == pytest.approx(2.0)


# Marked and plain repetitions

GPU = replace(POINT, device="cuda")
# Block 0 is marked, as on CUDA one in five. Its wall time must not be seen in throughput, nor a plain one's in latencies.
GPU_SLOW = [timed(0, 50.0, (10.0, 20.0, 40.0), point=GPU), *(timed(block, 4.0, point=GPU) for block in (1, 2, 3))]
GPU_FAST = [timed(0, 10.0, (2.0, 3.0, 8.0), point=GPU), *(timed(block, 2.0, point=GPU) for block in (1, 2, 3))]


def test_marked_repetitions_never_enter_throughput_noise_or_speedup():
    cell = cell_of(both(GPU_SLOW, GPU_FAST, point=GPU))
    assert cell["output_tok_s"] == pytest.approx(3 * 12 / 6.0)
    assert cell["speedup"] == pytest.approx(2.0)
    assert cell["speedup_lo"] == pytest.approx(2.0)
    assert cell["relative_iqr"] is None  # three values have no quartiles
    assert cell["repetitions"] == 4


def test_unmarked_repetitions_never_enter_latencies_or_decode_speedup():
    cell = cell_of(both(GPU_SLOW, GPU_FAST, point=GPU))
    assert (cell["ttft_s"], cell["e2e_s"], cell["tpot_s"]) == (2.0, 8.0, 3.0)
    assert cell["prefill_tok_s"] == pytest.approx(4 * 10 / 2)
    assert cell["decode_tok_s"] == pytest.approx(4 * 2 / 6)
    assert cell["decode_speedup"] == pytest.approx(30 / 6)


def test_where_every_repetition_is_marked_all_enter_both():
    cell = cell_of(both(TWO_CALLS, TWO_CALLS))
    assert cell["output_tok_s"] == pytest.approx(2.4)
    assert cell["speedup"] == pytest.approx(1.0)
    assert cell["ttft_s"] == 2.5


def test_without_marks_nothing_is_known_within_a_call():
    cell = alone(timings(2.0, 2.0))
    assert cell["output_tok_s"] == pytest.approx(6.0)
    assert cell["e2e_s"] == 2.0
    names = ("ttft_s", "tpot_s", "decode_tok_s", "decode_tok_s_per_row", "prefill_tok_s", "timestamp_overhead")
    assert [cell[name] for name in names] == [None] * 6


def test_on_the_host_the_mark_tax_is_the_cost_of_all_marks_over_the_time_they_were_taken_in():
    outcome = replace(OK, timestamp_cost_s=0.01)
    assert alone(TWO_CALLS, outcome)["timestamp_overhead"] == pytest.approx(0.01 * (3 + 3) / (3.5 + 6.5))


def test_on_cuda_the_mark_tax_is_marked_over_plain_time_of_a_call():
    # Geometric means of a call: marked 3 of 1, 1 and 27 s, plain 2 of 1, 1 and 8 s.
    token_times_s = (0.25, 0.5, 0.75)
    timestamped = [timed(0, 2.0, (*token_times_s, 1.0, 1.5, 2.0), calls=2, point=GPU)]
    timestamped += [timed(1, 1.0, token_times_s, point=GPU), timed(2, 27.0, token_times_s, point=GPU)]
    plain = [timed(3, 3.0, calls=3, point=GPU), timed(4, 1.0, point=GPU), timed(5, 8.0, point=GPU)]
    assert alone([*timestamped, *plain], point=GPU)["timestamp_overhead"] == pytest.approx(0.5)


def test_on_cuda_the_mark_tax_has_an_interval_over_launches():
    trials = [trial_of(launch, GPU, (FAST,)) for launch in (1, 2)]
    shares = ((1.25, 1.0), (4.0, 2.0))
    rows = [
        row
        for trial, (marked_s, plain_s) in zip(trials, shares, strict=True)
        for row in said(trial, FAST, [timed(0, marked_s, (0.25, 0.5, 0.75), point=GPU), timed(1, plain_s, point=GPU)])
    ]
    cell = cell_of(rows)
    middle, error = math.log(2.5) / 2, math.log(2 / 1.25) / 2
    t = 12.7062047
    assert cell["timestamp_overhead"] == pytest.approx(math.exp(middle) - 1)
    assert cell["timestamp_overhead_lo"] == pytest.approx(math.exp(middle - t * error) - 1)
    assert cell["timestamp_overhead_hi"] == pytest.approx(math.exp(middle + t * error) - 1)


def test_what_one_process_did_slower_is_no_mark_tax():
    trials = [trial_of(launch, GPU, (FAST,)) for launch in (1, 2)]
    slow = [timed(0, 20.0, (0.25, 0.5, 0.75), point=GPU), timed(1, 20.0, point=GPU), timed(2, 20.0, point=GPU)]
    quick = [timed(0, 1.0, (0.25, 0.5, 0.75), point=GPU), timed(1, 1.0, point=GPU)]
    assert cell_of(said(trials[0], FAST, slow) + said(trials[1], FAST, quick))["timestamp_overhead"] == pytest.approx(0.0)


def test_the_mark_tax_is_unknown_where_there_is_nothing_to_compare():
    assert alone(TWO_CALLS)["timestamp_overhead"] is None
    assert alone(timings(1.0, 1.0), replace(OK, timestamp_cost_s=0.01))["timestamp_overhead"] is None


# Pairs, their spread and their p values


def ratios(*launches, point=POINT, **trial):
    """Launches of pairs with these log ratios."""
    rows = []
    for launch, logs in enumerate(launches, start=1):
        slow = [timed(block, math.exp(log), point=point) for block, log in enumerate(logs)]
        rows += both(slow, [timed(block, 1.0, point=point) for block in range(len(logs))], launch, point=point, **trial)
    return rows


def test_pairs_are_counted_over_all_launches():
    assert cell_of(ratios([0.1, 0.2, 0.3], [0.4]))["pairs"] == 4
    assert cell_of(apart(1, timings(2.0, 2.0), timings(1.0, 1.0)) + apart(2, timings(2.0), timings(1.0)))["pairs"] == 2
    assert cell_of(ratios([0.1, 0.2]), SLOW)["pairs"] == 0


def test_the_spread_within_launches_is_pooled_and_what_is_left_of_that_between_them_is_theirs():
    # Within: squares of 0.02 and 0.02 over 1 + 1 degrees of freedom. Means 0.2 and 0.6: variance 0.08, 0.01 of it from within.
    cell = cell_of(ratios([0.1, 0.3], [0.5, 0.7]))
    assert cell["sd_within"] == pytest.approx(math.sqrt(0.02))
    assert cell["sd_between"] == pytest.approx(math.sqrt(0.08 - 0.01))
    assert cell["ci_advice"] == "more launches"


def test_launches_that_agree_ask_for_more_repetitions():
    cell = cell_of(ratios([0.1, 0.3], [0.3, 0.1]))
    assert cell["sd_within"] == pytest.approx(math.sqrt(0.02))
    assert (cell["sd_between"], cell["ci_advice"]) == (0.0, "more repetitions")


def test_one_launch_tells_the_spread_within_it_alone():
    cell = cell_of(ratios([0.1, 0.3]))
    assert cell["sd_within"] == pytest.approx(math.sqrt(0.02))
    assert (cell["sd_between"], cell["ci_advice"]) == (None, None)


def test_one_pair_a_launch_tells_no_spread():
    cell = cell_of(ratios([0.1], [0.3]))
    assert [cell[name] for name in ("sd_within", "sd_between", "ci_advice")] == [None] * 3


def test_the_p_value_is_that_of_the_launches_means():
    # Means 0.2 and 0.1: t = 0.3 / 0.1 = 3; with one degree of freedom p = 1 - 2 / pi * atan(t).
    cell = cell_of(ratios([0.15, 0.25], [0.1]))
    assert cell["speedup_p"] == pytest.approx(1 - 2 / math.pi * math.atan(3))
    assert cell["speedup_p_holm"] == cell["speedup_p"]


def test_the_p_value_of_one_launch_is_that_of_its_pairs():
    assert cell_of(ratios([0.2, 0.1]))["speedup_p"] == pytest.approx(1 - 2 / math.pi * math.atan(3))
    assert cell_of(ratios([0.2]))["speedup_p"] is None


def test_equal_times_are_no_difference_at_all():
    assert cell_of(ratios([0.0, 0.0], [0.0, 0.0]))["speedup_p"] == 1.0


def test_p_values_are_corrected_for_all_ratios_of_the_run():
    # Two launches of 0.01 * (k + 1) and 0.01 * k have t = 2 k + 1. By Holm the smallest of three counts three times, the next
    # twice, and none less than the one before.
    known = {8: (100,), 1: (9,), 4: (10,)}
    rows = [
        row
        for batch_size, (k,) in known.items()
        for row in ratios([0.01 * (k + 1)], [0.01 * k], point=replace(POINT, batch_size=batch_size))
    ]
    lone = ratios([0.5], point=replace(POINT, batch_size=16))
    broken = both(timings(1.0), timings(1.0), fast_outcome=failed(Status.OOM), point=replace(POINT, batch_size=32))
    found = {cell["batch_size"]: cell for cell in derive.derive(rows + lone + broken) if cell["arm"] == FAST.label}
    p_of = {k: 1 - 2 / math.pi * math.atan(2 * k + 1) for k in (100, 10, 9)}
    assert 2 * p_of[10] > p_of[9]
    assert [found[size]["speedup_p"] for size in (8, 4, 1)] == [pytest.approx(p_of[k]) for k in (100, 10, 9)]
    corrected = [found[size]["speedup_p_holm"] for size in (8, 4, 1)]
    assert corrected == [pytest.approx(p) for p in (3 * p_of[100], 2 * p_of[10], 2 * p_of[10])]
    assert [found[size]["speedup_p_holm"] for size in (16, 32)] == [None, None]


def test_cells_corrected_again_among_more_are_as_if_all_had_come_at_once():
    first, second = ratios([0.02], [0.01]), ratios([0.2], [0.1], point=replace(POINT, batch_size=8))
    together = derive.corrected(derive.in_order(derive.derive(first) + derive.derive(second)))
    assert together == derive.derive(first + second)


def test_the_trimmed_speedup_leaves_a_fifth_of_a_launchs_pairs_out_at_either_end():
    # Launch 1: of 0, 1, 2, 3 and 100 tenths the middle three, 0.2 in the mean. Launch 2: one pair of 0.4.
    cell = cell_of(ratios([0.3, 10.0, 0.1, 0.0, 0.2], [0.4]))
    assert cell["speedup_trimmed"] == pytest.approx(math.exp(0.3))
    assert cell["speedup"] == pytest.approx(math.exp((10.6 / 5 + 0.4) / 2))


def test_below_five_pairs_nothing_is_trimmed():
    cell = cell_of(ratios([0.3, 10.0, 0.1, 0.0]))
    assert cell["speedup_trimmed"] == pytest.approx(cell["speedup"])


def test_the_null_contrast_takes_the_references_repetitions_as_two_arms_that_run_as_abba():
    # Launch 1: ln (4 / 2), ln (6 / 3). Launch 2 begins the other way round: ln (8 / 1), ln (8 / 1); a fifth is left over.
    slow = ([4.0, 2.0, 3.0, 6.0], [1.0, 8.0, 8.0, 1.0, 77.0])
    rows = [row for launch, walls in enumerate(slow, 1) for row in both(timings(*walls), timings(1.0), launch)]
    half = scipy.stats.t.ppf(0.975, 1) * math.log(2)  # means ln 2 and 3 ln 2
    for cell in derive.derive(rows):
        assert cell["aa_ratio"] == pytest.approx(4.0)
        assert cell["aa_ratio_lo"] == pytest.approx(4 * math.exp(-half))
        assert cell["aa_ratio_hi"] == pytest.approx(4 * math.exp(half))


def test_without_two_repetitions_of_the_reference_there_is_no_null_contrast():
    cell = cell_of(both(timings(1.0), timings(1.0)))
    assert [cell[name] for name in ("aa_ratio", "aa_ratio_lo", "aa_ratio_hi")] == [None] * 3


# Intervals and percentiles of latencies


def marked_calls(e2e_s, block=0, point=POINT):
    """One repetition of marked calls back to back, each of new_tokens even gaps after a first token at once."""
    marks, now_s = [], 0.0
    for seconds in e2e_s:
        marks += [now_s + seconds * (index + 1) / point.new_tokens for index in range(point.new_tokens)]
        now_s += seconds
    return timed(block, now_s, tuple(marks), calls=len(e2e_s), point=point)


def launches_of(*e2e_s):
    """The cell of an arm with one repetition of marked calls in each launch."""
    rows = []
    for launch, seconds in enumerate(e2e_s, start=1):
        rows += said(trial_of(launch, arms=(FAST,)), FAST, [marked_calls(seconds)])
    return cell_of(rows)


def test_the_bounds_of_the_end_to_end_time_are_two_of_the_times():
    # Of 9 values at most one lies below the median with probability 10 / 512: the bounds are the second at either end.
    cell = launches_of(*([seconds] for seconds in (9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0)))
    assert cell["e2e_s"] == pytest.approx(5.0)
    assert (cell["e2e_lo_s"], cell["e2e_hi_s"]) == (pytest.approx(2.0), pytest.approx(8.0))


def test_six_launches_are_the_fewest_that_bound_the_end_to_end_time():
    six = launches_of([1.0], [2.0], [3.0], [4.0], [5.0], [6.0])
    assert (six["e2e_lo_s"], six["e2e_hi_s"]) == (pytest.approx(1.0), pytest.approx(6.0))
    five = launches_of([1.0], [2.0], [3.0], [4.0], [5.0])
    assert five["e2e_s"] == pytest.approx(3.0)
    assert (five["e2e_lo_s"], five["e2e_hi_s"]) == (None, None)


def test_calls_of_one_launch_never_bound_the_end_to_end_time():
    cell = launches_of([float(seconds) for seconds in range(1, 101)])
    assert cell["e2e_s"] == pytest.approx(50.5)
    assert (cell["e2e_lo_s"], cell["e2e_hi_s"]) == (None, None)


ITL = [f"itl_{percentile}{part}_s" for percentile in ("p50", "p90", "p99") for part in ("", "_lo", "_hi")]
LEAST = {"p50": 6, "p90": 36, "p99": 368}


def with_gaps(gaps_s, new_tokens=2):
    """The cell of marked calls in one repetition, each with these gaps (one, or a list of them) after its first token."""
    point = replace(POINT, new_tokens=new_tokens)
    marks, now_s = [], 0.0
    for gaps in gaps_s:
        marks += [now_s + 1.0 + sum(gaps[:index]) for index in range(new_tokens)]
        now_s = marks[-1]
    repetition = timed(0, now_s, tuple(marks), calls=len(gaps_s), point=point)
    return alone([repetition], point=point)


@pytest.mark.parametrize("percentile", LEAST)
def test_a_percentile_of_gaps_is_null_below_its_least_count(percentile):
    columns = [name for name in ITL if percentile in name]
    enough = with_gaps([[0.01 * number] for number in range(1, LEAST[percentile] + 1)])
    assert None not in [enough[name] for name in columns]
    fewer = with_gaps([[0.01 * number] for number in range(1, LEAST[percentile])])
    assert [fewer[name] for name in columns] == [None] * 3
    assert str(LEAST[percentile]) in derive.BY_NAME[columns[0]].formula


def test_percentiles_of_gaps_stand_between_two_of_them():
    # 36 calls of one gap each: 10 to 360 ms. All lie below the 90th percentile with probability 0.9 ** 36 = 2.25 %.
    cell = with_gaps([[0.01 * number] for number in range(36, 0, -1)])
    assert cell["itl_p50_s"] == pytest.approx(0.185)
    assert cell["itl_p90_s"] == pytest.approx(0.01 * (1 + 0.9 * 35))
    assert cell["itl_p90_hi_s"] == pytest.approx(0.36)
    below = sum(math.comb(36, n) * 0.5**36 for n in range(12))
    assert below < 0.025 < below + math.comb(36, 12) * 0.5**36
    assert (cell["itl_p50_lo_s"], cell["itl_p50_hi_s"]) == (
        pytest.approx(0.12),
        pytest.approx(0.25),
    )  # the twelfth at either end
    below = [sum(math.comb(36, n) * 0.9**n * 0.1 ** (36 - n) for n in range(rank)) for rank in range(37)]
    rank = max(rank for rank in range(37) if below[rank] < 0.025)
    assert cell["itl_p90_lo_s"] == pytest.approx(0.01 * rank)
    assert cell["itl_p99_s"] is None


def test_gaps_of_one_call_are_related_and_never_bound_a_percentile():
    cell = with_gaps([[0.01 * number for number in range(1, 401)]], new_tokens=401)
    assert [cell[f"itl_p{share}{bound}_s"] for share in (50, 90, 99) for bound in ("_lo", "_hi")] == [None] * 6
    assert cell["itl_p50_s"] == pytest.approx(np.quantile(0.01 * np.arange(301, 401), 0.5))


def test_gaps_of_one_launch_are_related_and_bound_a_percentile_only_together_with_those_of_others():
    """Launches differ by 3 %, and the gaps of a launch hardly: many gaps of few launches say little."""
    generator = np.random.default_rng(1)

    def cell_of_launches(number):
        rows = []
        for launch in range(1, number + 1):
            level = 0.01 * math.exp(0.03 * generator.standard_normal())
            marks = tuple(level * (token + 1) for token in range(15))
            calls = [timed(block, marks[-1], marks, point=LONG) for block in range(20)]
            rows += said(trial_of(launch, LONG, (FAST,)), FAST, calls)
        return cell_of(rows)

    few, many = cell_of_launches(5), cell_of_launches(30)
    assert few["itl_p50_s"] == pytest.approx(0.01, rel=0.1)
    assert (few["itl_p50_lo_s"], few["itl_p50_hi_s"]) == (None, None)
    assert many["itl_p50_hi_s"] / many["itl_p50_lo_s"] > 1.01


def test_percentiles_cover_all_positions_where_gaps_do_not_grow():
    cell = with_gaps([[0.1, 0.104, 0.102, 0.1, 0.1, 0.103, 0.109, 0.109]] * 40, new_tokens=9)
    assert cell["itl_positions"] == "2-9"
    assert cell["itl_p50_s"] == pytest.approx((0.102 + 0.103) / 2)


@pytest.mark.parametrize("last_s", [0.115, 0.085])
def test_percentiles_cover_the_last_quarter_where_gaps_grow_or_shrink_with_the_position(last_s):
    cell = with_gaps([[0.1, 0.1, 0.2, 0.3, 0.4, 0.5, last_s, last_s]] * 40, new_tokens=9)
    assert cell["itl_positions"] == "8-9"
    assert (cell["itl_p50_s"], cell["itl_p90_s"]) == (pytest.approx(last_s), pytest.approx(last_s))


def test_of_fewer_than_eight_gaps_none_is_left_out():
    cell = with_gaps([[0.1 * number for number in range(1, 8)]] * 40, new_tokens=8)
    assert cell["itl_positions"] == "2-8"


def test_tokens_that_come_several_at_once_have_gaps_of_0_and_percentiles_all_the_same():
    cell = with_gaps([[0.0, 0.0, 0.3] * 3] * 40, new_tokens=10)
    assert (cell["status"], cell["itl_positions"]) == ("imprecise", "2-10")
    assert (cell["itl_p50_s"], cell["itl_p90_s"]) == (pytest.approx(0.0), pytest.approx(0.3))


def test_without_gaps_there_are_neither_percentiles_nor_positions():
    for cell in (alone(timings(2.0, 2.0)), alone([timed(0, 1.0, (1.0,), point=ONE)], point=ONE)):
        assert [cell[name] for name in (*ITL, "itl_positions")] == [None] * 10


# Phases


def test_phases_are_summed_within_a_launch_and_the_median_over_launches():
    rows = []
    for launch, scale in enumerate((1.0, 5.0, 2.0), start=1):
        phases = [("import", 3.0), ("load", 2.0), ("first_call", 10.0), ("warmup", 0.25), ("warmup", 0.5)]
        phases += [("gate", 7.0)] if launch == 1 else []
        seen = [Repetition(kind=kind, wall_s=scale * wall_s) for kind, wall_s in phases]
        rows += said(trial_of(launch, arms=(FAST,)), FAST, [*seen, *timings(scale, 3 * scale)])
    cell = cell_of(rows)
    names = ("import_s", "load_s", "first_call_s", "warmup_s", "steady_s")
    assert [cell[name] for name in names] == [6.0, 4.0, 20.0, 1.5, 8.0]
    assert cell["gate_s"] == 7.0  # the first launch alone passed it


def test_a_phase_that_was_not_run_or_not_timed_is_null():
    cell = alone([Repetition(kind="import", wall_s=None), *timings(1.0)])
    names = ("import_s", "load_s", "first_call_s", "gate_s", "warmup_s")
    assert [cell[name] for name in names] == [None] * 5


# Readings of the probes

WATCHED = {
    "cpu_s": 0.98,
    "involuntary_switches": 3,
    "pressure_s": 0.05,
    "quota_throttled_periods": 0,
    "steal_s": 0.01,
    "load_1m": 1.5,
    "cpu_hz": 2.4e9,
    "spin_s": 0.005,
    "rss_bytes": 1000,
    "clock_sm_hz": 1.4e9,
    "clock_memory_hz": 2.6e9,
    "temperature_c": 60.0,
    "gpu_memory_used_bytes": 5000,
    "clock_event_reasons": "",
    "power_violation_s": 0.25,
    "thermal_violation_s": 0.125,
    "foreign_processes": 0,
    "ecc_errors": 0,
}
"""What a repetition of one second in a healthy launch saw."""
SUSTAINED = Repetition(kind="sustained", started_at=100.0, wall_s=4.0, calls=100, tokens=1200, energy_j=600.0)
COLUMNS_OF = {
    "cpu_s": {"on_cpu_fraction": 0.98},
    "involuntary_switches": {"involuntary_switches": 24},
    "pressure_s": {"pressure_fraction": 0.05},
    "quota_throttled_periods": {"throttled_fraction": 0.0},
    "steal_s": {"steal_fraction": 0.01},
    "load_1m": {"load_1m": 1.5},
    "cpu_hz": {"cpu_hz": 2.4e9},
    "spin_s": {"spin_drift": 0.0},
    "rss_bytes": {"rss_bytes": 1000},
    "gpu_util": {"gpu_util": 0.75},
    "clock_sm_hz": {"clock_sm_hz": 1.4e9},
    "clock_memory_hz": {"clock_memory_hz": 2.6e9},
    "power_w": {"power_w": 150.0},
    "energy_j": {"energy_j": 6.0, "energy_j_per_token": 0.5, "energy_valid": True},
    "temperature_c": {"temperature_c": 65.0},
    "gpu_memory_used_bytes": {"gpu_memory_used_bytes": 6000},
    "clock_event_reasons": {"clock_event_reasons": "", "throttled_fraction": 0.0},
    "power_violation_s": {"power_violation_s": 2.0},
    "thermal_violation_s": {"thermal_violation_s": 1.0},
    "foreign_processes": {"foreign_processes": 0},
    "ecc_errors": {"ecc_errors": 0},
}
"""Reading -> the columns that follow from it, with their values in `watched`."""


def sample(started_at, **readings):
    return Repetition(kind="sample", started_at=started_at, **readings)


def watched():
    """The rows of an arm with eight repetitions of a second, a sustained phase and samples."""
    hot = {"temperature_c": 65.0, "gpu_memory_used_bytes": 6000, "foreign_processes": 0}
    samples = [
        sample(at, gpu_util=share, power_w=watts, **hot) for at, share, watts in ((101.0, 0.5, 100.0), (103.0, 1.0, 200.0))
    ]
    return said(trial_of(arms=(FAST,)), FAST, [*(timed(block, 1.0, **WATCHED) for block in range(8)), SUSTAINED, *samples])


def test_every_reading_has_its_columns():
    cell = cell_of(watched())
    assert set(COLUMNS_OF) == {field.name for field in fields(Readings)}
    expected = {name: value for columns in COLUMNS_OF.values() for name, value in columns.items()}
    assert {name: cell[name] for name in expected} == {name: pytest.approx(value) for name, value in expected.items()}
    assert (cell["status"], cell["reason"]) == ("ok", None)


@pytest.mark.parametrize("reading", COLUMNS_OF)
def test_a_file_without_a_reading_lacks_its_own_columns_and_no_others(tmp_path, reading):
    (old,), (new,) = derive.derive(stored(tmp_path, watched(), [reading])), derive.derive(watched())
    own = {name for name in COLUMNS_OF[reading] if name != "throttled_fraction"}  # of two readings, one of which is left
    assert {name for name in new if old[name] != new[name]} == own
    assert [old[name] for name in sorted(own)] == [False if name == "energy_valid" else None for name in sorted(own)]


def test_without_both_readings_nothing_is_known_of_throttling():
    (launch,) = watched()
    unread = {"quota_throttled_periods": None, "clock_event_reasons": None}
    repetitions = tuple(replace(each, **unread) for each in launch.repetitions)
    assert cell_of([replace(launch, repetitions=repetitions)])["throttled_fraction"] is None


def test_levels_are_medians_and_counts_are_sums_over_the_repetitions_that_tell_them():
    levels = ("load_1m", "cpu_hz", "rss_bytes", "clock_sm_hz", "clock_memory_hz")
    counts = ("involuntary_switches", "power_violation_s", "thermal_violation_s", "ecc_errors")
    values = (100, None, 101, 102, 100)
    seen = [timed(block, 1.0, **dict.fromkeys((*levels, *counts), value)) for block, value in enumerate(values)]
    cell = alone([*seen, timed(5, 1.0, valid=False, reason="late", **dict.fromkeys((*levels, *counts), 1000))])
    assert [cell[name] for name in levels] == [100.5] * 5
    assert [cell[name] for name in counts] == [403] * 4


def test_shares_are_of_the_time_of_the_repetitions_that_tell_them():
    seen = [timed(0, 2.0, pressure_s=0.1), timed(1, 8.0), timed(2, 6.0, pressure_s=0.5)]
    assert alone(seen)["pressure_fraction"] == pytest.approx(0.6 / 8.0)


@pytest.mark.parametrize("name", ["temperature_c", "gpu_memory_used_bytes", "foreign_processes"])
def test_peaks_are_the_largest_of_repetitions_and_of_samples_while_the_arm_ran(name):
    def peak(*seen):
        cell = alone([timed(0, 1.0, **{name: 3}), SUSTAINED, *(sample(at, **{name: value}) for at, value in seen)])
        return cell[name]

    assert peak((101.0, 2)) == 3
    assert peak((101.0, 5), (102.0, 4)) == 5
    assert peak((99.9, 7), (104.1, 7), (102.0, None)) == 3


def test_the_reasons_for_low_clocks_are_told_each_once():
    seen = [
        timed(block, 1.0, clock_event_reasons=text) for block, text in enumerate(("", "sw_power_cap,display", "display", None))
    ]
    assert alone(seen)["clock_event_reasons"] == "display,sw_power_cap"
    assert alone([timed(0, 1.0, clock_event_reasons="")])["clock_event_reasons"] == ""
    assert alone([timed(0, 1.0)])["clock_event_reasons"] is None


def sustained_cell(*phases, samples=()):
    """The cell of an arm with one sustained phase a launch, in which it was sampled."""
    rows = []
    for launch, phase in enumerate(phases, start=1):
        rows += said(trial_of(launch, arms=(FAST,)), FAST, [*timings(1.0), phase, *(samples if launch == 1 else ())])
    return cell_of(rows)


SLOW_COUNTERS = ("gpu_util", "power_w", "energy_j", "energy_j_per_token")


def test_utilization_and_power_are_means_over_the_samples_of_the_sustained_phase():
    seen = [(99.9, 0.0, 1.0), (100.0, 1.0, 100.0), (102.0, 0.5, 200.0), (104.0, None, 600.0), (104.1, 0.0, 1.0)]
    samples = [sample(at, gpu_util=share, power_w=watts) for at, share, watts in seen]
    cell = sustained_cell(SUSTAINED, samples=samples)
    assert (cell["gpu_util"], cell["power_w"]) == (pytest.approx(0.75), pytest.approx(300.0))


def test_energy_is_that_of_the_sustained_phase_over_its_tokens_and_its_calls():
    cell = sustained_cell(SUSTAINED)
    assert cell["energy_valid"] is True
    assert cell["energy_j_per_token"] == pytest.approx(0.5)
    assert cell["energy_j"] == pytest.approx(0.5 * 12)  # 12 tokens a call


def test_energy_of_several_launches_is_all_of_it_over_all_their_tokens():
    cell = sustained_cell(SUSTAINED, replace(SUSTAINED, energy_j=200.0, tokens=400), replace(SUSTAINED, energy_j=None))
    assert cell["energy_j_per_token"] == pytest.approx(800 / 1600)


def test_of_several_sustained_phases_of_a_launch_the_last_one_counts():
    first = replace(SUSTAINED, started_at=50.0, wall_s=0.5, energy_j=9.0, tokens=12)
    cell = alone([*timings(1.0), first, SUSTAINED, sample(50.1, gpu_util=0.0), sample(101.0, gpu_util=1.0)])
    assert (cell["energy_j_per_token"], cell["gpu_util"], cell["energy_valid"]) == (pytest.approx(0.5), 1.0, True)


@pytest.mark.parametrize(("wall_s", "long_enough"), [(2.99, False), (3.0, True)])
def test_below_three_seconds_the_slow_counters_say_nothing(wall_s, long_enough):
    samples = [sample(101.0, gpu_util=0.5, power_w=100.0)]
    cell = sustained_cell(replace(SUSTAINED, wall_s=wall_s), samples=samples)
    assert cell["energy_valid"] is long_enough
    assert [cell[name] is not None for name in SLOW_COUNTERS] == [long_enough] * 4


def test_one_short_sustained_phase_makes_all_of_them_say_nothing():
    cell = sustained_cell(SUSTAINED, replace(SUSTAINED, wall_s=1.0), samples=[sample(101.0, gpu_util=0.5, power_w=100.0)])
    assert [cell[name] for name in (*SLOW_COUNTERS, "energy_valid")] == [None] * 4 + [False]


@pytest.mark.parametrize("energy_j", [None, 0.0])
def test_an_energy_counter_that_gives_nothing_is_not_valid(energy_j):
    cell = sustained_cell(replace(SUSTAINED, energy_j=energy_j))
    assert [cell[name] for name in ("energy_valid", "energy_j", "energy_j_per_token")] == [False, None, None]


def test_without_a_sustained_phase_the_slow_counters_are_null():
    cell = alone([*timings(1.0), sample(101.0, gpu_util=0.5, power_w=100.0)])
    assert [cell[name] for name in (*SLOW_COUNTERS, "energy_valid")] == [None] * 5


def test_energy_of_timed_repetitions_is_no_energy_of_the_sustained_phase():
    cell = alone([timed(0, 5.0, energy_j=70.0, power_w=70.0, gpu_util=1.0)])
    assert [cell[name] for name in (*SLOW_COUNTERS, "energy_valid")] == [None] * 5


def test_a_cell_knows_by_which_machine_and_protocol_it_was_measured():
    rows = said(replace(trial_of(arms=(FAST,)), identity="0123456789ab", protocol=7), FAST, timings(1.0))
    assert (cell_of(rows)["identity"], cell_of(rows)["protocol"]) == ("0123456789ab", 7)
    assert (alone(timings(1.0))["identity"], alone(timings(1.0))["protocol"]) == (None, PROTOCOL)


def test_a_failed_cell_still_says_by_what_it_was_measured_and_why_readings_are_missing():
    asked = replace(trial_of(arms=(FAST,)), identity="0123456789ab")
    cell = cell_of(said(asked, FAST, [], replace(failed(Status.OOM), probe_note="cpu_hz: this machine does not tell")))
    assert (cell["identity"], cell["protocol"]) == ("0123456789ab", PROTOCOL)
    assert cell["probe_note"] == "cpu_hz: this machine does not tell"


def test_the_note_of_the_probes_is_the_first_that_a_launch_left():
    outcomes = (OK, replace(OK, probe_note="first"), replace(OK, probe_note="second"))
    assert launched(*outcomes)["probe_note"] == "first"
    assert launched(OK)["probe_note"] is None


# Compiling


def compiled(launch, first_call_s, slow_s=2.0, fast=None):
    first = Repetition(kind="first_call", wall_s=first_call_s, tokens=12)
    return both(timings(slow_s), [first, *(fast or timings(1.0))], launch=launch, arms=(FAST, COMPILED))


def test_compile_time_is_the_first_call_minus_a_steady_one_cold_in_round_1_and_warm_later():
    cell = cell_of(compiled(1, 10.0) + compiled(2, 3.0) + compiled(3, 4.0), COMPILED)
    assert cell["compile_s"] == pytest.approx(10.0 - 1.0)
    assert cell["compile_warm_s"] == pytest.approx(3.5 - 1.0)


def test_the_steady_call_that_compile_time_is_measured_by_is_one_of_several_in_a_repetition():
    fast = [timed(0, 3.0, calls=3), timed(1, 8.0, calls=4), timed(2, 5.0)]  # 1, 2 and 5 s a call
    cell = cell_of(compiled(1, 10.0, fast=fast), COMPILED)
    assert cell["compile_s"] == pytest.approx(10.0 - 2.0)
    assert cell["compile_warm_s"] is None


def test_an_engine_that_compiles_while_it_is_built_counts_that_too():
    """Minus what building the same arm takes uncompiled."""
    plain, graphs = Arm(engine="cuda-graph"), Arm(engine="cuda-graph", compile_mode="default")
    phases = [[Repetition(kind="build", wall_s=wall_s), Repetition(kind="first_call", wall_s=10.0)] for wall_s in (2.0, 30.0)]
    rows = both([*phases[0], *timings(2.0)], [*phases[1], *timings(1.0)], launch=1, arms=(plain, graphs))
    assert cell_of(rows, graphs)["compile_s"] == pytest.approx(10.0 - 1.0 + 30.0 - 2.0)
    assert cell_of(rows, plain)["compile_s"] is None


def test_the_first_launch_of_an_arm_is_cold_although_it_comes_in_a_later_round():
    others = said(trial_of(launch=1, arms=(FAST,)), FAST, timings(2.0))
    cell = cell_of(others + compiled(2, 10.0) + compiled(3, 3.0), COMPILED)
    assert cell["compile_s"] == pytest.approx(10.0 - 1.0)
    assert cell["compile_warm_s"] == pytest.approx(3.0 - 1.0)


def test_without_a_first_round_the_cold_compile_time_is_unknown():
    cell = cell_of(compiled(2, 10.0) + compiled(3, 10.0), COMPILED)
    assert (cell["compile_s"], cell["breakeven_tokens"]) == (None, None)
    assert cell["compile_warm_s"] == pytest.approx(9.0)


def test_without_a_steady_call_the_compile_time_is_unknown():
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    cell = cell_of(said(trial_of(arms=(COMPILED,)), COMPILED, [first]), COMPILED)
    assert [cell[name] for name in ("compile_s", "compile_warm_s", "breakeven_tokens")] == [None] * 3


def test_an_arm_that_is_not_compiled_has_no_compile_time():
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    cell = cell_of(both(timings(2.0), [first, *timings(1.0)]))
    assert [cell[name] for name in ("compile_s", "compile_warm_s", "breakeven_tokens")] == [None] * 3


@pytest.mark.parametrize(("slow_s", "tokens"), [(4.0, 36), (1.25, 432)])
def test_breakeven_tokens_pay_the_compile_time_back(slow_s, tokens):
    # 12 tokens take the arm 1 s, the same engine uncompiled 4 (1.25): a token saves 3/12 (0.25/12) s, 9 s are 36 (432) tokens.
    assert cell_of(compiled(1, 10.0, slow_s), COMPILED)["breakeven_tokens"] == pytest.approx(tokens)


@pytest.mark.parametrize("slow_s", [1.0, 0.5])
def test_an_arm_that_is_no_faster_never_pays_its_compile_time_back(slow_s):
    cell = cell_of(compiled(1, 10.0, slow_s), COMPILED)
    assert cell["compile_s"] == pytest.approx(9.0)
    assert cell["breakeven_tokens"] is None


def test_compile_time_is_not_paid_back_out_of_what_another_engine_saves():
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    cell = cell_of(both(timings(4.0), [first, *timings(1.0)], arms=(SLOW, COMPILED)), COMPILED)
    assert cell["speedup"] == pytest.approx(4.0)
    assert cell["breakeven_tokens"] is None


def test_without_a_speedup_the_breakeven_is_unknown():
    asked = trial_of(arms=(FAST, COMPILED))
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    cell = cell_of(said(asked, COMPILED, [first, *timings(1.0)]), COMPILED)
    assert cell["compile_s"] == pytest.approx(9.0)
    assert cell["breakeven_tokens"] is None


# Readings of the outcome


def test_sizes_and_counts_are_the_largest_over_the_launches():
    names = (
        "kv_cache_bytes",
        "weight_bytes",
        "peak_memory_bytes",
        "rss_peak_bytes",
        "compiled_graphs",
        "recompiles",
        "graph_breaks",
    )
    names += ("kv_cache_expected_bytes", "prefill_peak_bytes", "decode_peak_bytes")
    rows = []
    for launch, value in enumerate((5, None, 7, 6), start=1):
        rows += said(trial_of(launch, arms=(FAST,)), FAST, timings(1.0), replace(OK, **dict.fromkeys(names, value)))
    cell = cell_of(rows)
    assert [cell[name] for name in names] == [7] * 10


def test_the_gates_words_are_the_first_known_and_the_cache_allocation_is_the_median():
    rows = []
    for launch, (gate, alloc_s) in enumerate(((None, 1.0), (Verdict.ROUNDING, None), (Verdict.EXACT, 3.0)), start=1):
        known = {"gate": gate, "gate_note": gate and f"note {gate}", "gate_max_error": gate and launch / 8}
        outcome = replace(OK, cache_alloc_s=alloc_s, gate_tolerance=gate and launch / 4, **known)
        rows += said(trial_of(launch, arms=(FAST,)), FAST, timings(1.0), outcome)
    cell = cell_of(rows)
    assert (cell["gate"], cell["gate_note"]) == ("rounding", "note rounding")
    assert (cell["gate_max_error"], cell["gate_tolerance"]) == (0.25, 0.5)
    assert cell["cache_alloc_s"] == 2.0


def test_what_no_launch_knows_is_null():
    cell = alone(timings(1.0, 1.0))
    names = [field.name for field in fields(Outcome) if field.name in cell and field.name != "status"]
    assert len(names) > 10
    assert [cell[name] for name in names] == [None] * len(names)


# Status


def launched(*outcomes):
    """The cell of an arm that measured something in every launch that ended ok."""
    rows = []
    for launch, outcome in enumerate(outcomes, start=1):
        repetitions = TWO_CALLS if outcome.status is Status.OK else []
        rows += said(trial_of(launch, arms=(FAST,)), FAST, repetitions, outcome)
    return cell_of(rows)


def test_one_launch_that_finished_makes_a_cell_and_the_others_are_counted_with_their_reasons():
    cell = launched(failed(Status.ERROR, "boom"), OK, failed(Status.TIMEOUT, "no answer"))
    assert (cell["status"], cell["launches_ok"], cell["launches_failed"]) == ("imprecise", 1, 2)
    assert cell["failures"] == "error: boom; timeout: no answer"
    assert cell["output_tok_s"] == pytest.approx(2.4)


def test_a_reason_that_comes_again_is_told_once():
    cell = launched(failed(Status.ERROR, "boom"), failed(Status.ERROR, "boom"))
    assert (cell["status"], cell["reason"], cell["failures"]) == ("error", "boom", "error: boom")
    assert (cell["launches_ok"], cell["launches_failed"]) == (0, 2)


def test_a_reason_is_that_of_the_first_launch_that_gave_one():
    assert launched(failed(Status.ERROR, None), failed(Status.ERROR, "boom"), failed(Status.ERROR, "bang"))["reason"] == "boom"


def test_where_every_launch_finished_there_is_nothing_to_explain():
    cell = launched(OK, OK)
    assert (cell["status"], cell["reason"], cell["failures"], cell["launches_ok"]) == ("ok", None, None, 2)
    assert cell["launches_failed"] == 0


def test_one_wrong_launch_makes_the_cell_wrong():
    cell = launched(OK, failed(Status.WRONG, "tokens differ"), OK)
    assert (cell["status"], cell["reason"]) == ("wrong", "tokens differ")
    assert (cell["launches_ok"], cell["launches_failed"]) == (2, 1)
    assert cell["output_tok_s"] is None


@pytest.mark.parametrize("place", range(len(FAILING)))
def test_where_no_launch_finished_the_first_status_by_precedence_holds_with_its_own_reason(place):
    found = FAILING[place:]
    cell = launched(*(failed(status, f"reason of {status}") for status in reversed(found)))
    assert FAILING == ["wrong", "skipped", "oom", "timeout", "error"]
    assert (cell["status"], cell["reason"]) == (found[0], f"reason of {found[0]}")
    assert cell["launches_failed"] == len(found)


@pytest.mark.parametrize("status", FAILING)
def test_a_failed_cell_has_no_numbers_however_far_it_came(status):
    known = {"timestamp_cost_s": 1e-6, "cache_alloc_s": 0.1, "kv_cache_bytes": 5, "weight_bytes": 5, "peak_memory_bytes": 5}
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    outcome = Outcome(status=status, reason="because", gate=Verdict.EXACT, gate_max_error=0.5, rss_peak_bytes=5, **known)
    rows = both(timings(2.0) * 4, [first, *TWO_CALLS * 2], fast_outcome=outcome, arms=(SLOW, COMPILED))
    cell = cell_of(rows, COMPILED)
    numbers = [m.name for m in derive.METRICS if m.unit not in ("text", "count", "logit")]
    assert {
        "output_tok_s",
        "speedup",
        "kv_cache_bytes",
        "compile_s",
        "breakeven_tokens",
        "timestamp_overhead",
        "relative_iqr",
    } < set(numbers)
    assert [cell[name] for name in numbers] == [None] * len(numbers)
    assert (cell["status"], cell["reason"], cell["gate"], cell["gate_max_error"]) == (status, "because", "exact", 0.5)
    assert (cell["launches_ok"], cell["launches_failed"]) == (0, 1)


def test_a_launch_that_failed_adds_nothing_to_a_cell_that_others_measured():
    rows = both(timings(4.0), timings(2.0))
    broken = both(timings(100.0, 100.0), timings(1.0, 1.0, 1.0), launch=2, fast_outcome=failed(Status.OOM))
    assert cell_of(rows + broken)["output_tok_s"] == pytest.approx(6.0)
    assert cell_of(rows + broken)["speedup"] == pytest.approx(2.0)
    names = ("repetitions", "pairs", "invalid_repetitions", "steady_s", "relative_iqr", "speedup_p", "on_cpu_fraction")
    assert [cell_of(rows + broken)[name] for name in names] == [cell_of(rows)[name] for name in names]


def paired(target_ci):
    """Two launches of one pair each, of ratio 2.02 and 1.98."""
    one = both(timings(2.02), timings(1.0), target_ci=target_ci)
    return cell_of(one + both(timings(1.98), timings(1.0), launch=2, target_ci=target_ci))


def test_an_interval_wider_than_the_target_makes_the_ratio_imprecise_and_keeps_its_numbers():
    ratio = paired(1.0)
    half = (ratio["speedup_hi"] - ratio["speedup_lo"]) / 2 / ratio["speedup"]
    assert half == pytest.approx(math.sinh(scipy.stats.t.ppf(0.975, 1) * math.log(2.02 / 1.98) / 2))
    assert paired(half * 1.01)["speedup_status"] == "ok"
    cell = paired(half * 0.99)
    assert (cell["speedup_status"], cell["status"]) == ("imprecise", "ok")
    assert "+-12.6%" in cell["speedup_reason"]
    assert "launches" in cell["speedup_reason"]
    assert "--max-seconds" in cell["speedup_reason"]
    assert cell["speedup"] == ratio["speedup"]
    assert (cell["launches_ok"], cell["launches_failed"]) == (2, 0)


def test_the_throughput_of_each_arm_and_the_ratio_are_imprecise_by_their_own_intervals():
    rows = both(timings(1.0, 100.0, 1.0), timings(1.0, 1.0, 1.0))
    assert (cell_of(rows)["status"], cell_of(rows)["speedup_status"]) == ("ok", "imprecise")
    assert cell_of(rows, SLOW)["status"] == "imprecise"


def test_a_gate_that_passed_without_any_timing_is_ok():
    cell = alone([], replace(OK, gate=Verdict.EXACT))
    assert (cell["status"], cell["gate"], cell["repetitions"], cell["output_tok_s"]) == ("ok", "exact", 0, None)


# The table of cells


def test_the_columns_are_the_point_the_arm_its_label_and_place_and_the_metrics():
    names = [field.name for config_class in (Point, Arm) for field in fields(config_class)]
    columns = [*names, "arm", "arm_index", *(metric.name for metric in derive.METRICS)]
    for cell in derive.derive(both(TWO_CALLS, [], fast_outcome=failed(Status.OOM))):
        assert list(cell) == columns
    assert cells_schema().names == columns
    assert len(set(columns)) == len(columns)


def test_a_cell_names_its_point_and_its_arm():
    rows = both(TWO_CALLS, TWO_CALLS, arms=(SLOW, COMPILED))
    heads = [(cell["engine"], cell["compile_mode"], cell["arm"], cell["arm_index"]) for cell in derive.derive(rows)]
    assert heads == [("uncached", "off", "uncached", 0), ("cached", "default", "cached default", 1)]
    assert all(cell[name] == value for cell in derive.derive(rows) for name, value in vars(POINT).items())


def test_cells_stand_in_the_order_of_their_points_and_arms_however_the_rows_came():
    points = [replace(POINT, batch_size=size, prompt_len=length) for size in (10, 2) for length in (300, 40)]
    rows = [row for point in points for row in reversed(both(timings(2.0), timings(1.0), point=point))]
    repetitions = derive.derive(rows)
    found = [(cell["batch_size"], cell["prompt_len"], cell["arm_index"]) for cell in repetitions]
    assert found == [(size, length, arm) for size in (2, 10) for length in (40, 300) for arm in (0, 1)]


def test_every_point_has_a_reference_of_its_own():
    other = replace(POINT, batch_size=8)
    rows = both(timings(4.0), timings(2.0)) + both([timed(0, 9.0, point=other)], [timed(0, 3.0, point=other)], point=other)
    assert [cell["speedup"] for cell in derive.derive(rows)] == [None, pytest.approx(2.0), None, pytest.approx(3.0)]
    assert derive.derive(rows)[3]["output_tok_s"] == pytest.approx(8 * 3 / 3.0)


def test_every_metric_says_what_it_is():
    for metric in derive.METRICS:
        assert metric.formula not in ("", "the same", "lower bound", "upper bound")
        assert metric.better in ("higher", "lower", "")
        assert metric.unit in UNITS
        assert not metric.name.endswith("_s") or metric.unit in ("s", "tok/s", "FLOP/s", "B/s")
        assert not metric.name.endswith("_bytes") or metric.unit == "B"
        for tail, unit in (("_hz", "Hz"), ("_w", "W"), ("_j", "J"), ("_c", "C"), ("_fraction", "ratio")):
            assert not metric.name.endswith(tail) or metric.unit == unit


def test_the_timed_share_counts_timed_work_warm_up_and_first_calls():
    phases = [Repetition(kind=kind, wall_s=wall_s) for kind, wall_s in (("build", 64.0), ("gate", 32.0), ("memory", 16.0))]
    phases += [Repetition(kind="first_call", wall_s=4.0), Repetition(kind="warmup", wall_s=2.0)]
    rows = said(trial_of(arms=(FAST,)), FAST, [*phases, *timings(1.0, 0.5)])
    assert derive.timed_share(rows, 10.0) == pytest.approx(0.75)


# Files

MODERN = both(GPU_SLOW, GPU_FAST, point=GPU) + both(TWO_CALLS, TWO_CALLS, launch=2, fast_outcome=replace(OK, compiled_graphs=3))
NEWER = [
    "protocol",
    "identity",
    "seed",
    "process",
    "repetition",
    "started_at",
    "device_s",
    "enqueue_s",
    *(field.name for field in fields(Outcome) if field.name != "status"),
]
"""Columns that an older file may well lack: all but those without which nothing was measured."""


def stored(folder, rows, lacking=()):
    """The rows as they come back from a file without some columns."""
    run = Run(folder)
    run.raw.mkdir()
    table = pa.Table.from_pylist([row for launch in rows for row in rows_of(launch)], schema=RAW_SCHEMA).drop_columns(
        list(lacking)
    )
    pq.write_table(table, run.raw / "01-old.parquet")
    return run.read_raw()


def test_rows_give_the_same_cells_after_they_were_stored(tmp_path):
    run = Run(tmp_path)
    run.raw.mkdir()
    run.write_raw(trial_of(), MODERN)
    assert derive.derive(run.read_raw()) == derive.derive(MODERN)
    assert run.write_cells(derive.derive(run.read_raw())) == derive.derive(MODERN)
    assert pq.read_table(run.cells).to_pylist() == derive.derive(MODERN)


@pytest.mark.parametrize("lacking", NEWER)
def test_a_file_from_before_a_column_still_gives_cells_of_which_only_that_is_unknown(tmp_path, lacking):
    rows = stored(tmp_path, MODERN, [lacking])
    old, new = derive.derive(rows), derive.derive(MODERN)
    # The reason of a cell that was measured is computed, not read.
    unknown = lacking in new[0] and lacking != "reason"
    assert [{**cell, lacking: None} if unknown else cell for cell in new] == old


@pytest.mark.parametrize("lacking", ["threads", "compile_mode", "sampler"])
def test_a_file_from_before_an_axis_still_gives_cells_with_their_arms(tmp_path, lacking):
    old, new = derive.derive(stored(tmp_path, MODERN, [lacking])), derive.derive(MODERN)
    names = ("arm", "arm_index", "batch_size", "output_tok_s", "speedup")
    assert [[cell[name] for name in names] for cell in old] == [[cell[name] for name in names] for cell in new]


def test_a_file_from_before_all_newer_columns_still_gives_the_throughput(tmp_path):
    rows = stored(tmp_path, MODERN, NEWER)
    names = ("status", "output_tok_s", "ttft_s", "speedup", "decode_speedup")
    old, new = derive.derive(rows), derive.derive(MODERN)
    assert [[cell[name] for name in names] for cell in old] == [[cell[name] for name in names] for cell in new]

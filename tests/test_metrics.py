"""Every column computed by hand from a few raw rows, and what becomes of cells that failed."""

import math
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from nanobench import cells, metrics
from nanobench.schema import (
    MEASURED,
    RAW_COLUMNS,
    Arm,
    ArmRecord,
    Outcome,
    Point,
    Repetition,
    Status,
    Trial,
    Verdict,
    raw_rows,
)
from nanobench.store import RAW_SCHEMA, Run, cells_schema

POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=2, batch_size=4, prompt_len=10, new_tokens=3)
SLOW, FAST = Arm(engine="uncached"), Arm(engine="cached")
COMPILED = Arm(engine="cached", compile_mode="default")
OK = Outcome(status=Status.OK)
FAILING = [status for status in Status if status not in MEASURED]


def trial_of(launch=1, point=POINT, arms=(SLOW, FAST), target_ci=0.05):
    return Trial(point=point, arms=arms, launch=launch, seed=0, target_ci=target_ci, max_seconds=1.0)


def timed(block, wall_s, marks_s=None, calls=1, point=POINT, **others):
    """A steady repetition; a marked one has a time for each of its calls x new_tokens tokens."""
    tokens = calls * point.batch_size * point.new_tokens
    facts = {"repetition": block, "block": block, "wall_s": wall_s, "marks_s": marks_s, "calls": calls, "tokens": tokens}
    return Repetition(kind="steady", marked=marks_s is not None, **facts, **others)


def timings(*walls_s):
    return [timed(block, wall_s) for block, wall_s in enumerate(walls_s)]


def said(trial, arm, repetitions=(), outcome=OK, process=0):
    """The rows of one arm in one launch."""
    return raw_rows(trial, process, ArmRecord(arm=arm, repetitions=tuple(repetitions), outcome=outcome))


def both(slow, fast, launch=1, slow_outcome=OK, fast_outcome=OK, **trial):
    """The rows of one launch of the reference and one arm in one process."""
    asked = trial_of(launch, **trial)
    return said(asked, asked.arms[0], slow, slow_outcome) + said(asked, asked.arms[1], fast, fast_outcome)


def cell_of(rows, arm=FAST):
    (cell,) = [cell for cell in metrics.derive(rows) if cell["arm"] == arm.label]
    return cell


def alone(repetitions, outcome=OK, point=POINT, launch=1):
    """The cell of a lone arm with these repetitions."""
    return cell_of(said(trial_of(launch, point, (FAST,)), FAST, repetitions, outcome))


def failed(status, reason="because"):
    return Outcome(status=status, reason=reason)


# Two marked calls of POINT: the first token after 2 s and 3 s, the last after 3 s and 6 s.
TWO_CALLS = [timed(0, 3.5, (2.0, 2.25, 3.0)), timed(1, 6.5, (3.0, 5.0, 6.0))]


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
    row = {"marks_s": [1.0, 2.0, 4.0, 6.0, 7.0, 10.0], "calls": 2}
    assert cells.split_calls(row) == [
        cells.Call(ttft_s=1.0, e2e_s=4.0, itl_s=(1.0, 2.0)),
        cells.Call(ttft_s=2.0, e2e_s=6.0, itl_s=(1.0, 3.0)),
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
        timed(2, 1000.0, (500.0, 700.0, 900.0), valid=False, reason="recompiled"),
        Repetition(kind="build", wall_s=100.0),
        Repetition(kind="first_call", wall_s=100.0, tokens=12),
        Repetition(kind="gate", wall_s=100.0),
        Repetition(kind="warmup", wall_s=100.0, tokens=12),
    ]
    with_others, without = alone([*others, *TWO_CALLS]), alone(TWO_CALLS)
    told = ("status", "reason", "invalid_repetitions", "invalid_reasons")
    phases = ("steady_s", "gate_s", "first_call_s", "warmup_s")
    same = [name for name in without if name not in (*told, *phases)]
    assert {name: with_others[name] for name in same} == {name: without[name] for name in same}
    assert with_others["repetitions"] == 2
    assert [with_others[name] for name in told[2:]] == [1, "1 x recompiled"]


def test_noise_is_the_relative_interquartile_range_of_the_time_of_a_call():
    walls_s = (5.0, 1.0, 4.0, 2.0, 3.0)
    assert alone(timings(*walls_s))["noise"] == pytest.approx((4 - 2) / 3)
    several = [timed(block, calls * walls_s[block], calls=calls) for block, calls in enumerate((1, 3, 2, 4, 5))]
    assert alone(several)["noise"] == pytest.approx((4 - 2) / 3)


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
    assert cell["status"] == "ok"


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
    logs = cells.mean_logs({0: [], 1: [0.0, 1.0], 2: [2.0, 8.0]})
    assert logs == {2: pytest.approx(math.log(4.0))}


def test_the_reference_has_no_speedup_and_no_pairing():
    cell = cell_of(both(TWO_CALLS, TWO_CALLS), SLOW)
    names = [name for name in cell if "speedup" in name]
    assert len(names) == 10
    assert [cell[name] for name in (*names, "pairing")] == [None] * 11


@pytest.mark.parametrize("status", FAILING)
def test_no_arm_has_a_speedup_where_the_reference_failed(status):
    rows = both([], TWO_CALLS, slow_outcome=failed(status))
    assert cell_of(rows, SLOW)["status"] == status
    cell = cell_of(rows)
    assert cell["status"] == "ok"
    assert cell["output_tok_s"] == pytest.approx(2.4)
    assert [cell[name] for name in cell if "speedup" in name or name == "pairing"] == [None] * 11


def test_no_arm_has_a_speedup_where_the_reference_failed_after_a_few_repetitions():
    rows = both(timings(4.0, 4.0), timings(2.0, 2.0), slow_outcome=failed(Status.OOM))
    assert cell_of(rows)["speedup"] is None


def test_an_arm_without_a_reference_has_no_speedup():
    rows = [row for row in both(TWO_CALLS, TWO_CALLS) if row["arm_index"] == 1]
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
    assert cell["noise"] is None  # three values have no quartiles
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


def test_without_marks_there_are_no_latencies():
    cell = alone(timings(2.0, 2.0))
    assert cell["output_tok_s"] == pytest.approx(6.0)
    names = ("ttft_s", "tpot_s", "e2e_s", "decode_tok_s", "decode_tok_s_per_row", "prefill_tok_s", "mark_tax")
    assert [cell[name] for name in names] == [None] * 7


def test_on_the_host_the_mark_tax_is_the_cost_of_all_marks_over_the_time_they_were_taken_in():
    outcome = replace(OK, mark_cost_s=0.01)
    assert alone(TWO_CALLS, outcome)["mark_tax"] == pytest.approx(0.01 * (3 + 3) / (3.5 + 6.5))


def test_on_cuda_the_mark_tax_is_marked_over_plain_time_of_a_call():
    # Geometric means of a call: marked 3 of 1, 1 and 27 s, plain 2 of 1, 1 and 8 s.
    marks_s = (0.25, 0.5, 0.75)
    marked = [timed(0, 2.0, (*marks_s, 1.0, 1.5, 2.0), calls=2, point=GPU)]
    marked += [timed(1, 1.0, marks_s, point=GPU), timed(2, 27.0, marks_s, point=GPU)]
    plain = [timed(3, 3.0, calls=3, point=GPU), timed(4, 1.0, point=GPU), timed(5, 8.0, point=GPU)]
    assert alone([*marked, *plain], point=GPU)["mark_tax"] == pytest.approx(0.5)


def test_the_mark_tax_is_unknown_where_there_is_nothing_to_compare():
    assert alone(TWO_CALLS)["mark_tax"] is None
    assert alone(timings(1.0, 1.0), replace(OK, mark_cost_s=0.01))["mark_tax"] is None


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
    names = ("kv_cache_bytes", "weight_bytes", "peak_memory_bytes", "rss_peak_bytes", "graphs", "recompiles", "graph_breaks")
    rows = []
    for launch, value in enumerate((5, None, 7, 6), start=1):
        rows += said(trial_of(launch, arms=(FAST,)), FAST, timings(1.0), replace(OK, **dict.fromkeys(names, value)))
    cell = cell_of(rows)
    assert [cell[name] for name in names] == [7] * 7


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
    cell = alone(timings(1.0))
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
    assert (cell["status"], cell["reason"]) == ("ok", None)
    assert (cell["launches_ok"], cell["launches_failed"]) == (1, 2)
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


def test_an_arm_whose_launches_left_no_outcome_is_an_error():
    rows = [row for row in both(TWO_CALLS, TWO_CALLS) if row["kind"] != "outcome"]
    assert {cell["status"] for cell in metrics.derive(rows)} == {"error"}


@pytest.mark.parametrize("status", FAILING)
def test_a_failed_cell_has_no_numbers_however_far_it_came(status):
    known = {"mark_cost_s": 1e-6, "cache_alloc_s": 0.1, "kv_cache_bytes": 5, "weight_bytes": 5, "peak_memory_bytes": 5}
    first = Repetition(kind="first_call", wall_s=10.0, tokens=12)
    outcome = Outcome(status=status, reason="because", gate=Verdict.EXACT, gate_max_error=0.5, rss_peak_bytes=5, **known)
    rows = both(timings(2.0) * 4, [first, *TWO_CALLS * 2], fast_outcome=outcome, arms=(SLOW, COMPILED))
    cell = cell_of(rows, COMPILED)
    numbers = [m.name for m in metrics.METRICS if m.unit not in ("text", "count", "logit")]
    assert {"output_tok_s", "speedup", "kv_cache_bytes", "compile_s", "breakeven_tokens", "mark_tax", "noise"} < set(numbers)
    assert [cell[name] for name in numbers] == [None] * len(numbers)
    assert (cell["status"], cell["reason"], cell["gate"], cell["gate_max_error"]) == (status, "because", "exact", 0.5)
    assert (cell["launches_ok"], cell["launches_failed"]) == (0, 1)


def test_a_launch_that_failed_adds_nothing_to_a_cell_that_others_measured():
    rows = both(timings(4.0), timings(2.0))
    broken = both(timings(100.0, 100.0), timings(1.0, 1.0), launch=2, fast_outcome=failed(Status.OOM))
    assert cell_of(rows + broken)["output_tok_s"] == pytest.approx(6.0)
    assert cell_of(rows + broken)["speedup"] == pytest.approx(2.0)


def paired(target_ci):
    """Two launches of one pair each, of ratio 2.02 and 1.98."""
    one = both(timings(2.02), timings(1.0), target_ci=target_ci)
    return cell_of(one + both(timings(1.98), timings(1.0), launch=2, target_ci=target_ci))


def test_an_interval_wider_than_the_target_makes_the_cell_imprecise_and_keeps_its_numbers():
    ratio = paired(1.0)
    half = (ratio["speedup_hi"] - ratio["speedup_lo"]) / 2 / ratio["speedup"]
    assert half == pytest.approx(math.sinh(scipy.stats.t.ppf(0.975, 1) * math.log(2.02 / 1.98) / 2))
    assert paired(half * 1.01)["status"] == "ok"
    cell = paired(half * 0.99)
    assert cell["status"] == "imprecise"
    assert "+-13%" in cell["reason"]
    assert "launches" in cell["reason"]
    assert "--max-seconds" in cell["reason"]
    assert cell["speedup"] == ratio["speedup"]
    assert (cell["launches_ok"], cell["launches_failed"]) == (2, 0)


def test_the_reference_is_never_imprecise():
    rows = both(timings(1.0, 100.0, 1.0), timings(1.0, 1.0, 1.0))
    assert cell_of(rows)["status"] == "imprecise"
    assert cell_of(rows, SLOW)["status"] == "ok"


def test_a_gate_that_passed_without_any_timing_is_ok():
    cell = alone([], replace(OK, gate=Verdict.EXACT))
    assert (cell["status"], cell["gate"], cell["repetitions"], cell["output_tok_s"]) == ("ok", "exact", 0, None)


# The table of cells


def test_the_columns_are_the_point_the_arm_its_label_and_place_and_the_metrics():
    names = [field.name for noun in (Point, Arm) for field in fields(noun)]
    columns = [*names, "arm", "arm_index", *(metric.name for metric in metrics.METRICS)]
    for cell in metrics.derive(both(TWO_CALLS, [], fast_outcome=failed(Status.OOM))):
        assert list(cell) == columns
    assert cells_schema().names == columns
    assert len(set(columns)) == len(columns)


def test_a_cell_names_its_point_and_its_arm():
    rows = both(TWO_CALLS, TWO_CALLS, arms=(SLOW, COMPILED))
    heads = [(cell["engine"], cell["compile_mode"], cell["arm"], cell["arm_index"]) for cell in metrics.derive(rows)]
    assert heads == [("uncached", "off", "uncached", 0), ("cached", "default", "cached default", 1)]
    assert all(cell[name] == value for cell in metrics.derive(rows) for name, value in vars(POINT).items())


def test_cells_stand_in_the_order_of_their_points_and_arms_however_the_rows_came():
    points = [replace(POINT, batch_size=size, prompt_len=length) for size in (10, 2) for length in (300, 40)]
    rows = [row for point in points for row in reversed(both(timings(2.0), timings(1.0), point=point))]
    cells = metrics.derive(rows)
    found = [(cell["batch_size"], cell["prompt_len"], cell["arm_index"]) for cell in cells]
    assert found == [(size, length, arm) for size in (2, 10) for length in (40, 300) for arm in (0, 1)]


def test_every_point_has_a_reference_of_its_own():
    other = replace(POINT, batch_size=8)
    rows = both(timings(4.0), timings(2.0)) + both([timed(0, 9.0, point=other)], [timed(0, 3.0, point=other)], point=other)
    assert [cell["speedup"] for cell in metrics.derive(rows)] == [None, pytest.approx(2.0), None, pytest.approx(3.0)]
    assert metrics.derive(rows)[3]["output_tok_s"] == pytest.approx(8 * 3 / 3.0)


def test_every_metric_says_what_it_is():
    for metric in metrics.METRICS:
        assert metric.title
        assert metric.formula
        assert metric.better in ("higher", "lower", "")
        assert metric.unit in ("s", "B", "Hz", "W", "J", "C", "tok/s", "ratio", "count", "tokens", "text", "flag", "logit")
        assert not metric.name.endswith("_s") or metric.unit in ("s", "tok/s")
        assert not metric.name.endswith("_bytes") or metric.unit == "B"


def test_the_timed_share_counts_timed_work_warm_up_and_first_calls():
    phases = [Repetition(kind=kind, wall_s=wall_s) for kind, wall_s in (("build", 64.0), ("gate", 32.0), ("memory", 16.0))]
    phases += [Repetition(kind="first_call", wall_s=4.0), Repetition(kind="warmup", wall_s=2.0)]
    rows = said(trial_of(arms=(FAST,)), FAST, [*phases, *timings(1.0, 0.5)])
    assert metrics.timed_share(rows, 10.0) == pytest.approx(0.75)


# Files

MODERN = both(GPU_SLOW, GPU_FAST, point=GPU) + both(TWO_CALLS, TWO_CALLS, launch=2, fast_outcome=replace(OK, graphs=3))
NEWER = [
    "protocol",
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
    table = pa.Table.from_pylist(rows, schema=RAW_SCHEMA).drop_columns(list(lacking))
    pq.write_table(table, run.raw / "01-old.parquet")
    return run.read_raw()


def test_rows_give_the_same_cells_after_they_were_stored(tmp_path):
    run = Run(tmp_path)
    run.raw.mkdir()
    run.write_raw(trial_of(), MODERN)
    assert metrics.derive(run.read_raw()) == metrics.derive(MODERN)
    assert run.write_cells(metrics.derive(run.read_raw())) == metrics.derive(MODERN)
    assert pq.read_table(run.cells).to_pylist() == metrics.derive(MODERN)


@pytest.mark.parametrize("lacking", NEWER)
def test_a_file_from_before_a_column_still_gives_cells_of_which_only_that_is_unknown(tmp_path, lacking):
    rows = stored(tmp_path, MODERN, [lacking])
    assert set(rows[0]) == set(RAW_COLUMNS)
    old, new = metrics.derive(rows), metrics.derive(MODERN)
    assert [{**cell, lacking: None} if lacking in cell else cell for cell in new] == old


@pytest.mark.parametrize("lacking", ["threads", "compile_mode", "sampler"])
def test_a_file_from_before_an_axis_still_gives_cells_with_their_arms(tmp_path, lacking):
    old, new = metrics.derive(stored(tmp_path, MODERN, [lacking])), metrics.derive(MODERN)
    names = ("arm", "arm_index", "batch_size", "output_tok_s", "speedup")
    assert [[cell[name] for name in names] for cell in old] == [[cell[name] for name in names] for cell in new]


def test_a_file_from_before_all_newer_columns_still_gives_the_throughput(tmp_path):
    rows = stored(tmp_path, MODERN, NEWER)
    names = ("status", "output_tok_s", "ttft_s", "speedup", "decode_speedup")
    old, new = metrics.derive(rows), metrics.derive(MODERN)
    assert [[cell[name] for name in names] for cell in old] == [[cell[name] for name in names] for cell in new]

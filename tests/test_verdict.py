"""The closing sentences: they say what the intervals say, and no more."""

from dataclasses import fields

import pyarrow as pa
import pytest

from nanobench.analysis import verdict
from nanobench.results.store import cells_schema
from nanobench.schema import Point


def cells(*rows):
    """Cells as store.load gives them: two arms per batch, (batch_size, speedup, low, high) or (batch_size, status, reason)."""
    return frame([cell for row in rows for cell in pair(*row)])


def frame(rows):
    return pa.Table.from_pylist(rows, schema=cells_schema()).to_pandas()


def pair(batch_size, *found, arm="cached", basis="launches", reference_status="ok", **setting):
    """The reference and one arm at a point."""
    point = {"model": "gpt2-mini", "dtype": "float32", "device": "cpu", "threads": 2, "prompt_len": 50, "new_tokens": 16}
    point |= {**{f.name: f.default for f in fields(Point)}, **point, "batch_size": batch_size, **setting}
    slow = {**point, "engine": "uncached", "arm": "uncached", "arm_index": 0, "status": reference_status}
    fast = {**point, "engine": arm, "arm": arm, "arm_index": 1, "status": "ok"}
    if len(found) == 2:
        return [slow, {**fast, "status": found[0], "reason": found[1]}]
    speedup, low, high = found
    return [slow, {**fast, "speedup": speedup, "speedup_lo": low, "speedup_hi": high, "speedup_basis": basis}]


def said(*rows):
    (sentence,) = verdict.sentences(cells(*rows))
    return sentence


def test_an_arm_whose_every_interval_is_above_1_pays_from_the_smallest_batch():
    sentence = said((8, 3.0, 2.5, 3.5), (1, 1.5, 1.25, 1.75), (4, 5.301, 4.92, 5.704))
    assert sentence == "cached is 5.3x [4.92, 5.7] as fast as uncached at batch 4 and pays from batch 1"


def test_an_arm_pays_from_the_batch_behind_which_every_interval_is_above_1():
    sentence = said((1, 0.8, 0.7, 0.9), (2, 1.1, 0.9, 1.3), (4, 1.5, 1.25, 1.75), (16, 2.0, 1.5, 2.5))
    assert sentence == "cached is 2x [1.5, 2.5] as fast as uncached at batch 16 and pays from batch 4"


def test_batch_sizes_are_ordered_as_numbers():
    assert said((16, 2.0, 1.5, 2.5), (4, 1.5, 0.9, 2.1)).endswith("and pays from batch 16")


def test_an_arm_that_pays_here_and_there_is_told_where():
    sentence = said((1, 1.5, 1.25, 1.75), (4, 1.0, 0.9, 1.1), (8, 1.6, 1.25, 2.0), (16, 0.5, 0.25, 0.75))
    assert sentence.endswith("at batch 8 and pays at batch 1, 8")


def test_intervals_that_hold_1_pay_nowhere():
    sentence = said((1, 1.05, 0.9, 1.2), (4, 1.1, 0.95, 1.25), (8, 0.9, 0.7, 0.95))
    assert sentence == "cached is 1.1x [0.95, 1.25] as fast as uncached at batch 4 and pays at none of the batch sizes measured"


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.5), (0.5, 1.0)])
def test_a_bound_of_exactly_1_decides_nothing(low, high):
    assert said((1, 1.0, low, high)).endswith("no significant difference")


def test_an_arm_whose_every_interval_is_below_1_is_slower_everywhere():
    sentence = said((1, 0.5, 0.4, 0.6), (4, 0.8, 0.7, 0.9))
    assert sentence == "cached is 0.8x [0.7, 0.9] as fast as uncached at batch 4 and slower at every batch size measured"


def test_one_launch_is_told_to_be_within_one_process():
    (sentence,) = verdict.sentences(frame(pair(1, 2.0, 1.5, 2.5, basis="pairs of one process")))
    assert sentence == "cached is 2x [1.5, 2.5] within one process as fast as uncached at batch 1"


def test_one_pair_is_told_to_have_no_interval_and_nothing_is_concluded_from_it():
    (sentence,) = verdict.sentences(frame(pair(1, 2.0, None, None, basis="pairs of one process")))
    assert sentence.startswith("cached is 2x (one pair, no interval) as fast as uncached at batch 1")
    assert "none of the batch sizes" not in sentence
    assert "slower" not in sentence


def test_a_batch_without_a_ratio_leaves_the_verdict_to_the_others():
    assert said((1, 1.5, 1.25, 1.75), (4, "oom", "out of memory")).endswith("[1.25, 1.75] as fast as uncached at batch 1")


def test_an_arm_without_any_ratio_is_told_why():
    sentence = said((1, "wrong", "tokens differ"), (4, "oom", "out of memory"))
    assert sentence == "cached has no ratio to uncached: wrong, tokens differ"


def test_an_arm_whose_reference_was_not_measured_is_told_so():
    (sentence,) = verdict.sentences(frame(pair(1, "ok", None, reference_status="oom")))
    assert sentence.startswith("cached has no ratio to uncached: ok, ")
    assert sentence.endswith(" was not measured")


def test_every_arm_but_the_reference_has_a_sentence():
    cached, other = pair(1, 2.0, 1.5, 2.5), pair(1, 0.5, 0.25, 0.75, arm="uncached-full-logits")[1]
    sentences = verdict.sentences(frame([*cached, {**other, "arm_index": 2}]))
    assert [sentence.partition(" is ")[0] for sentence in sentences] == ["cached", "uncached-full-logits"]
    assert sentences[1] == "uncached-full-logits is 0.5x [0.25, 0.75] as fast as uncached at batch 1"


def test_several_settings_have_a_sentence_each_that_names_what_differs():
    rows = pair(1, 2.0, 1.5, 2.5, prompt_len=50) + pair(1, 0.5, 0.25, 0.75, prompt_len=900)
    assert verdict.sentences(frame(rows)) == [
        "cached is 2x [1.5, 2.5] as fast as uncached at batch 1 (prompt_len 50)",
        "cached is 0.5x [0.25, 0.75] as fast as uncached at batch 1 (prompt_len 900)",
    ]


def test_settings_that_differ_in_two_ways_name_both():
    rows = pair(1, 2.0, 1.5, 2.5, threads=1) + pair(1, 2.0, 1.5, 2.5, dtype="bfloat16")
    found = [sentence.rpartition(" (")[2] for sentence in verdict.sentences(frame(rows))]
    assert found == ["dtype float32, threads 1)", "dtype bfloat16, threads 2)"]


def test_batch_sizes_alone_are_no_settings():
    assert "(" not in said((1, 2.0, 1.5, 2.5), (4, 2.0, 1.5, 2.5))


def test_a_reference_alone_has_nothing_to_say():
    assert verdict.sentences(frame(pair(1, 2.0, 1.5, 2.5)[:1])) == []


def test_the_count_names_every_status_the_most_frequent_first():
    rows = [(1, 2.0, 1.5, 2.5), (4, 2.0, 1.5, 2.5), (8, "oom", "out of memory")]
    assert verdict.counts(cells(*rows)) == "6 cells: 5 ok, 1 oom"
    assert verdict.counts(cells(rows[0])) == "2 cells: 2 ok"


# What is not judged


def status_of(rows, status, reason="because"):
    """The same cells, the arm's with another status."""
    reference, arm = rows
    return [reference, {**arm, "status": status, "reason": reason}]


UNBELIEVABLE = ["unstable", "no_steady_state"]


@pytest.mark.parametrize("status", UNBELIEVABLE)
def test_a_ratio_that_cannot_be_believed_is_neither_the_best_nor_does_it_pay(status):
    rows = [pair(1, 0.9, 0.85, 0.95), status_of(pair(4, 9.0, 8.0, 10.0), status), pair(8, 1.5, 1.25, 1.75)]
    (sentence,) = verdict.sentences(frame([cell for row in rows for cell in row]))
    assert sentence == "cached is 1.5x [1.25, 1.75] as fast as uncached at batch 8 and pays from batch 8"


@pytest.mark.parametrize("status", UNBELIEVABLE)
def test_a_ratio_that_cannot_be_believed_does_not_end_a_row_of_batches_that_pay(status):
    rows = [pair(1, 1.5, 1.25, 1.75), status_of(pair(4, 0.5, 0.25, 0.75), status), pair(8, 2.0, 1.5, 2.5)]
    (sentence,) = verdict.sentences(frame([cell for row in rows for cell in row]))
    assert sentence.endswith("at batch 8 and pays from batch 1")


@pytest.mark.parametrize("status", UNBELIEVABLE)
def test_where_no_ratio_can_be_believed_nothing_is_said_of_the_arm(status):
    rows = [status_of(pair(1, 1.5, 1.25, 1.75), status), status_of(pair(4, 2.0, 1.5, 2.5), "unstable")]
    (sentence,) = verdict.sentences(frame([cell for row in rows for cell in row]))
    assert sentence == "no conclusion for cached vs uncached: no stable cell has a speedup"


def test_an_imprecise_ratio_is_judged_by_its_interval():
    (sentence,) = verdict.sentences(frame(status_of(pair(1, 2.0, 1.5, 2.5), "imprecise", "interval wider than +-5%")))
    assert sentence == "cached is 2x [1.5, 2.5] as fast as uncached at batch 1"


@pytest.mark.parametrize("status", UNBELIEVABLE)
def test_a_ratio_to_a_reference_that_cannot_be_believed_is_not_judged(status):
    (sentence,) = verdict.sentences(frame(pair(1, 2.0, 1.5, 2.5, reference_status=status)))
    assert sentence == "no conclusion for cached vs uncached: no stable cell has a speedup"
    good = pair(4, 1.5, 1.25, 1.75)
    (sentence,) = verdict.sentences(frame([*pair(1, 2.0, 1.5, 2.5, reference_status=status), *good]))
    assert sentence.startswith("cached is 1.5x [1.25, 1.75] as fast as uncached at batch 4")


@pytest.mark.parametrize(("speedup", "low", "high"), [(0.5, 0.25, 0.75), (1.0, 0.9, 1.1)])
def test_what_holds_of_the_batches_judged_is_not_said_of_every_batch_measured(speedup, low, high):
    rows = [pair(1, speedup, low, high), pair(4, speedup, low, high), status_of(pair(8, 9.0, 8.0, 10.0), "unstable")]
    (sentence,) = verdict.sentences(frame([cell for row in rows for cell in row]))
    assert sentence.startswith(f"cached is {speedup:g}x")
    assert "measured" not in sentence


def test_the_other_arms_of_a_disturbed_point_are_judged():
    disturbed = status_of(pair(1, 2.0, 1.5, 2.5), "unstable")
    other = {**pair(1, 0.5, 0.25, 0.75, arm="uncached-full-logits")[1], "arm_index": 2}
    nothing, found = verdict.sentences(frame([*disturbed, other]))
    assert nothing.startswith("no conclusion for cached vs uncached")
    assert found == "uncached-full-logits is 0.5x [0.25, 0.75] as fast as uncached at batch 1"


# What disturbed


def disturbed(*found):
    """The lines on cells with these statuses, reasons and kinds; every one beside a reference that is ok."""
    rows = []
    for number, (status, reason, kinds) in enumerate(found, start=1):
        rows += [{**cell, "disturbed_by": None} for cell in status_of(pair(number, 2.0, 1.5, 2.5), status, reason)]
        rows[-1]["disturbed_by"] = kinds
    return verdict.disturbances(frame(rows))


STEAL, PRESSURE = "the hypervisor took {}% of the time (limit 2%)", "tasks waited for a core in {}% of the time (limit 10%)"
NEVER = "{} of {} launches drift or jump and never settle"
FINE = (("ok", None, None), ("imprecise", "interval wider than +-5%", None), ("oom", "out of memory", None))


def test_without_disturbed_cells_there_is_no_line():
    assert disturbed(*FINE) == []


def test_one_cell_is_told_with_its_whole_reason():
    assert disturbed(("unstable", STEAL.format(2.5), "steal"), FINE[0]) == [
        "unstable, excluded from conclusions: 1 cell: the hypervisor took 2.5% of the time (limit 2%)"
    ]


def test_causes_of_several_cells_are_counted_the_most_frequent_first():
    both = ("unstable", f"{STEAL.format(2.5)}; {PRESSURE.format(12)}", "steal,pressure")
    assert disturbed(both, *(("unstable", PRESSURE.format(share), "pressure") for share in (50, 11))) == [
        "unstable, excluded from conclusions: 3 cells: tasks waited for a core (3); the hypervisor took CPU time (1)"
    ]


def test_cells_without_a_steady_state_have_a_line_of_their_own_after_the_unstable_ones():
    never = [("no_steady_state", NEVER.format(count, 5), None) for count in (3, 4)]
    assert disturbed(never[0], ("unstable", STEAL.format(9), "steal"), never[1]) == [
        "unstable, excluded from conclusions: 1 cell: the hypervisor took 9% of the time (limit 2%)",
        "no_steady_state, excluded from conclusions: 2 cells: launches drift or jump and never settle (2)",
    ]


def test_a_disturbed_reference_is_told_of_as_well():
    rows = [{**cell, "disturbed_by": None} for cell in pair(1, 2.0, 1.5, 2.5, reference_status="unstable")]
    lines = verdict.disturbances(frame([{**rows[0], "reason": STEAL.format(9), "disturbed_by": "steal"}, rows[1]]))
    assert lines == ["unstable, excluded from conclusions: 1 cell: the hypervisor took 9% of the time (limit 2%)"]


@pytest.mark.parametrize(
    ("taxes", "words"),
    [((0.001, 0.0125), "at most 1.2 %"), ((None, None), "unknown"), ((0.5, None), "at most 50 %, unknown in 1 cell")],
)
def test_the_mark_tax_is_that_of_the_worst_cell(taxes, words):
    rows = [
        {**cell, "timestamp_overhead": tax, "timestamp_overhead_hi": None}
        for cell, tax in zip(pair(1, 2.0, 1.5, 2.5), taxes, strict=True)
    ]
    assert verdict.timestamp_overhead(frame(rows)) == f"timestamp overhead {words}"


def test_a_mark_tax_with_an_interval_counts_with_its_upper_bound():
    rows = [
        {**cell, "timestamp_overhead": 0.002, "timestamp_overhead_hi": high}
        for cell, high in zip(pair(1, 2.0, 1.5, 2.5), (0.004, 0.003), strict=True)
    ]
    assert verdict.timestamp_overhead(frame(rows)) == "timestamp overhead at most 0.4 %"


def test_a_cell_that_was_not_measured_has_no_unknown_mark_tax():
    rows = [
        {**cell, "timestamp_overhead": tax, "timestamp_overhead_hi": None}
        for cell, tax in zip(pair(1, 2.0, 1.5, 2.5), (0.002, None), strict=True)
    ]
    assert verdict.timestamp_overhead(frame([rows[0], {**rows[1], "status": "oom"}])) == "timestamp overhead at most 0.2 %"

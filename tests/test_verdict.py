"""The closing sentences: they say what the intervals say, and no more."""

from dataclasses import fields

import pyarrow as pa
import pytest

from nanobench.analysis import verdict
from nanobench.results.store import cells_schema
from nanobench.schema import Point


def cells(*rows):
    """Cells as finder.load gives them: two arms per batch, (batch_size, speedup, low, high) or (batch_size, status, reason)."""
    return frame([cell for row in rows for cell in pair(*row)])


def frame(rows):
    return pa.Table.from_pylist(rows, schema=cells_schema()).to_pandas()


def pair(batch_size, *found, arm="cached", basis="launches", **setting):
    """The reference and one arm at a point."""
    point = {"model": "gpt2-mini", "dtype": "float32", "device": "cpu", "threads": 2, "prompt_len": 50, "new_tokens": 16}
    point |= {**{f.name: f.default for f in fields(Point)}, **point, "batch_size": batch_size, **setting}
    slow = {**point, "engine": "uncached", "arm": "uncached", "arm_index": 0, "status": "ok"}
    fast = {**point, "engine": arm, "arm": arm, "arm_index": 1, "status": "ok", "speedup_status": "ok"}
    if len(found) == 2:
        status, reason = found
        return [slow, {**fast, "status": status, "reason": reason, "speedup_status": status, "speedup_reason": reason}]
    speedup, low, high = found
    return [slow, {**fast, "speedup": speedup, "speedup_lo": low, "speedup_hi": high, "speedup_basis": basis}]


def concluded(*rows):
    (sentence,) = verdict.conclusions(cells(*rows))
    return sentence


# Concluded


def test_an_arm_whose_every_interval_is_above_1_is_faster_at_every_batch_size():
    assert concluded((8, 3.0, 2.5, 3.5), (1, 1.5, 1.25, 1.75), (4, 5.301, 4.92, 5.704)) == (
        "cached is faster than uncached at every batch size from 1 to 8: "
        "1.5x [1.25, 1.75] at batch 1, 5.3x [4.92, 5.7] at batch 4"
    )


def test_an_arm_is_faster_from_the_batch_behind_which_every_interval_is_above_1():
    rows = (1, 0.8, 0.7, 0.9), (2, 1.1, 0.9, 1.3), (4, 1.5, 1.25, 1.75), (16, 2.0, 1.5, 2.5)
    assert concluded(*rows) == (
        "cached is faster than uncached from batch 4 to 16: 1.5x [1.25, 1.75] at batch 4, 2x [1.5, 2.5] at batch 16; "
        "slower at batch 1: 0.8x [0.7, 0.9]; no difference is shown at batch 2: 1.1x [0.9, 1.3]"
    )


def test_batch_sizes_are_ordered_as_numbers():
    assert "from batch 16" not in concluded((16, 2.0, 1.5, 2.5), (4, 1.5, 0.9, 2.1), (2, 0.8, 0.7, 0.9))
    assert " at every batch size from 4 to 16: " in concluded((16, 2.0, 1.5, 2.5), (4, 1.5, 1.2, 2.1))


def test_an_arm_that_is_faster_here_and_there_says_where():
    sentence = concluded((1, 1.5, 1.25, 1.75), (4, 1.0, 0.9, 1.1), (8, 1.6, 1.25, 2.0), (16, 0.5, 0.25, 0.75))
    assert sentence.startswith("cached is faster than uncached at batch 1 and 8: 1.5x [1.25, 1.75] at batch 1, ")


def test_intervals_that_contain_1_show_no_difference():
    assert concluded((1, 1.05, 0.9, 1.2), (4, 1.1, 0.95, 1.25)) == (
        "no difference between cached and uncached is shown at any batch size from 1 to 4: "
        "1.05x [0.9, 1.2] at batch 1, 1.1x [0.95, 1.25] at batch 4"
    )


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.5), (0.5, 1.0)])
def test_a_bound_of_exactly_1_decides_nothing(low, high):
    assert concluded((1, 1.0, low, high)).startswith("no difference between cached and uncached is shown at batch 1: 1x [")


def test_an_arm_whose_every_interval_is_below_1_is_slower_everywhere():
    assert concluded((1, 0.5, 0.4, 0.6), (4, 0.8, 0.7, 0.9)) == (
        "cached is slower than uncached at every batch size from 1 to 4: 0.5x [0.4, 0.6] at batch 1, 0.8x [0.7, 0.9] at batch 4"
    )


def test_one_launch_is_within_one_process():
    (sentence,) = verdict.conclusions(frame(pair(1, 2.0, 1.5, 2.5, basis="pairs of one process")))
    assert sentence == "cached is faster than uncached at batch 1: 2x [1.5, 2.5] within one process"


def test_what_no_machine_can_do_is_not_said_to_drift():
    rows = cells((1, 2.0, 1.9, 2.1), (4, 3.0, 2.9, 3.1))
    rows.loc[rows.index[-1], "status"] = "implausible"
    (line,) = verdict.precision(rows)
    assert line.endswith("and not reliable in 1 of 4 cells: faster than the limits of the machine allow (1)")


def test_one_pair_has_no_interval_and_nothing_is_concluded_from_it():
    (sentence,) = verdict.conclusions(frame(pair(1, 2.0, None, None, basis="pairs of one process")))
    assert sentence == "cached vs uncached has no interval, from one pair at batch 1: 2x"


def test_every_arm_but_the_reference_has_a_sentence():
    fast, other = pair(1, 2.0, 1.5, 2.5), pair(1, 0.5, 0.25, 0.75, arm="uncached-full-logits")[1]
    assert verdict.conclusions(frame([*fast, {**other, "arm_index": 2}])) == [
        "cached is faster than uncached at batch 1: 2x [1.5, 2.5]",
        "uncached-full-logits is slower than uncached at batch 1: 0.5x [0.25, 0.75]",
    ]


def test_several_settings_have_a_sentence_each_that_names_what_differs():
    rows = pair(1, 2.0, 1.5, 2.5, prompt_len=50) + pair(1, 0.5, 0.25, 0.75, prompt_len=900)
    assert verdict.conclusions(frame(rows)) == [
        "cached is faster than uncached at batch 1: 2x [1.5, 2.5] (prompt_len 50)",
        "cached is slower than uncached at batch 1: 0.5x [0.25, 0.75] (prompt_len 900)",
    ]


def test_settings_that_differ_in_two_ways_name_both():
    rows = pair(1, 2.0, 1.5, 2.5, threads=1) + pair(1, 2.0, 1.5, 2.5, dtype="bfloat16")
    found = [sentence.rpartition(" (")[2] for sentence in verdict.conclusions(frame(rows))]
    assert found == ["dtype float32, threads 1)", "dtype bfloat16, threads 2)"]


def test_batch_sizes_alone_are_no_settings():
    assert "(" not in concluded((1, 2.0, 1.5, 2.5), (4, 2.0, 1.5, 2.5))


def test_an_imprecise_ratio_is_concluded_by_its_interval():
    rows = pair(1, 2.0, 1.5, 2.5)
    (sentence,) = verdict.conclusions(frame([rows[0], {**rows[1], "speedup_status": "imprecise"}]))
    assert sentence == "cached is faster than uncached at batch 1: 2x [1.5, 2.5]"


def test_a_ratio_is_concluded_by_its_own_status_and_not_by_that_of_its_arms():
    rows = [{**cell, "status": "unstable"} for cell in pair(1, 2.0, 1.5, 2.5)]
    assert verdict.conclusions(frame(rows)) == ["cached is faster than uncached at batch 1: 2x [1.5, 2.5]"]
    assert verdict.not_concluded(frame(rows)) == []


# Not concluded


def doubtful(batch_size, *found, status="unstable", kinds="aa_ratio", reason="because"):
    """A point whose ratio enters no conclusion."""
    reference, arm = pair(batch_size, *found)
    return [reference, {**arm, "speedup_status": status, "speedup_reason": reason, "speedup_disturbed_by": kinds}]


UNRELIABLE = ["unstable", "no_steady_state"]


@pytest.mark.parametrize("status", UNRELIABLE)
def test_an_unreliable_ratio_is_in_no_conclusion(status):
    rows = [*pair(1, 1.5, 1.25, 1.75), *doubtful(4, 0.5, 0.4, 0.6, status=status), *pair(8, 2.0, 1.5, 2.5)]
    assert verdict.conclusions(frame(rows)) == [
        "cached is faster than uncached at batch 1 and 8: 1.5x [1.25, 1.75] at batch 1, 2x [1.5, 2.5] at batch 8"
    ]


@pytest.mark.parametrize("last", [(8, 9.0, 8.0, 10.0)])
def test_a_range_does_not_reach_over_a_batch_size_without_a_conclusion(last):
    rows = [*pair(1, 0.5, 0.4, 0.6), *pair(4, 2.0, 1.5, 2.5), *pair(6, 2.0, 1.5, 2.5), *doubtful(*last)]
    (sentence,) = verdict.conclusions(frame(rows))
    assert sentence.startswith("cached is faster than uncached at batch 4 and 6: ")


def test_what_is_not_concluded_is_counted_with_its_places_and_causes():
    rows = [*doubtful(1, 2.0, 1.5, 2.5), *doubtful(4, 2.0, 1.5, 2.5), *pair(8, 2.0, 1.5, 2.5), *pair(93, "oom", "tried 2 GiB")]
    assert verdict.not_concluded(frame(rows)) == [
        "no conclusion for 3 of 4 ratios: cached at batch 1 and 4, because the reference differs from itself; "
        "cached at batch 93, because oom (tried 2 GiB)"
    ]


def test_a_ratio_that_drifts_is_not_concluded_because_of_that():
    rows = doubtful(1, 2.0, 1.5, 2.5, status="no_steady_state", kinds=None)
    (sentence,) = verdict.not_concluded(frame(rows))
    assert sentence.endswith("cached at batch 1, because the ratio drifts or jumps and never settles")


def test_many_causes_or_settings_are_only_counted():
    rows = [*doubtful(1, 2.0, 1.5, 2.5), *pair(4, "oom", "tried 2 GiB"), *pair(4, "oom", "tried 2 GiB", prompt_len=900)]
    (sentence,) = verdict.not_concluded(frame(rows))
    causes = "1, because the reference differs from itself; 2, because oom (tried 2 GiB)"
    assert sentence == f"no conclusion for 3 of 3 ratios: {causes}"


def test_of_many_reasons_the_most_frequent_are_named():
    """A search skips many settings, each for a reason with figures of its own."""
    rows = [row for batch in range(1, 8) for row in pair(batch, "skipped", f"the best is {batch}x as fast")]
    rows += [row for batch in (8, 9) for row in pair(batch, "oom", "tried 2 GiB")]
    (sentence,) = verdict.not_concluded(frame(rows))
    first = (
        "2, because oom (tried 2 GiB); 1, because skipped (the best is 1x as fast); 1, because skipped (the best is 2x as fast)"
    )
    assert sentence == f"no conclusion for 9 of 9 ratios: {first}; 5 for 5 other reasons, which their rows name"


def test_of_a_run_without_ratios_the_cells_that_were_not_measured_are_named():
    alone = [{**pair(batch, 2.0, 1.5, 2.5)[0], "status": status, "reason": reason} for batch, status, reason in (
        (1, "ok", None), (4, "oom", "tried 2 GiB"))]  # fmt: skip
    assert verdict.not_concluded(frame(alone)) == ["not measured: uncached at batch 4, because oom (tried 2 GiB)"]
    assert verdict.conclusions(frame(alone)) == []


def test_where_everything_is_concluded_nothing_is_said_to_be_open():
    assert verdict.not_concluded(cells((1, 2.0, 1.5, 2.5), (4, 1.0, 0.9, 1.1))) == []


# Absolute figures


def measured(*found):
    """Cells with a throughput, half its interval as a share, a status and the kinds of what disturbed it."""
    rows = []
    for batch, (half, status, kinds) in enumerate(found, start=1):
        cell = pair(batch, 2.0, 1.5, 2.5)[0]
        bounds = {"output_tok_s": 100.0}
        bounds |= {} if half is None else {"output_tok_s_lo": 100 * (1 - half), "output_tok_s_hi": 100 * (1 + half)}
        rows.append({**cell, **bounds, "status": status, "disturbed_by": kinds, "reason": "because"})
    return frame(rows)


def test_the_precision_of_absolute_figures_is_that_of_the_worst_cell():
    assert verdict.precision(measured((0.02, "ok", None), (0.12, "imprecise", None))) == ["absolute figures are within 12 %"]


def test_disturbed_absolute_figures_are_counted_with_their_causes():
    found = measured((0.02, "ok", None), (0.3, "unstable", "pressure,spin_drift"), (0.1, "unstable", "pressure"))
    assert verdict.precision(found) == [
        "absolute figures are within 30 %, and not reliable in 2 of 3 cells: "
        "tasks waited for a core (2); a loop of fixed length drifted within a launch (1)"
    ]


def test_ratios_and_absolute_figures_are_each_as_precise_as_their_worst():
    rows = [*pair(1, 2.0, 1.9, 2.1), *pair(4, 2.0, 1.6, 2.4), *pair(8, 2.0, 0.5, 3.5)]
    rows[5] |= {"speedup_status": "unstable"}
    rows[0] |= {"output_tok_s": 100.0, "output_tok_s_lo": 95.0, "output_tok_s_hi": 105.0}
    assert verdict.precision(frame(rows)) == ["ratios are within 20 %, absolute figures within 5 %"]
    rows[0] |= {"output_tok_s_lo": 10.0, "output_tok_s_hi": 1000.0}
    assert verdict.precision(frame(rows)) == ["ratios are within 20 %, absolute figures uncertain by more than 100 %"]


def test_why_a_ratio_of_unreliable_cells_is_concluded_is_said_where_that_occurs():
    def shaken(batch, reference, arm, pairing="block"):
        first, second = pair(batch, 2.0, 1.9, 2.1)
        return [{**first, "status": reference}, {**second, "status": arm, "pairing": pairing}]

    assert verdict.cancelling(frame(shaken(1, "ok", "imprecise"))) == []
    rows = [*shaken(1, "ok", "ok"), *shaken(4, "unstable", "ok"), *shaken(8, "ok", "no_steady_state")]
    (sentence,) = verdict.cancelling(frame(rows))
    assert sentence == f"2 ratios have a conclusion although one of their cells is unreliable, or both are: {verdict.CANCELS}"
    assert sentence in verdict.sentences(frame(rows))
    assert "in the same process, so what disturbs both cancels in their ratio" in sentence
    (sentence,) = verdict.cancelling(frame(rows[:4]))
    assert sentence.startswith("1 ratio has a conclusion although one of its cells is unreliable, or both are: ")
    apart = shaken(1, "unstable", "unstable", pairing="launch")
    refused = [shaken(1, "unstable", "unstable")[0], {**shaken(1, "unstable", "unstable")[1], "speedup_status": "unstable"}]
    assert verdict.cancelling(frame(apart)) == verdict.cancelling(frame(refused)) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([(0, 0), (0, 0)], []),
        ([(1, 0), (0, 0)], ["1 launch added at 1 point"]),
        (
            [(2, 1), (1, 2)],
            ["3 launches added at 2 points; they replace 3 disturbed ones, whose times are kept and do not count"],
        ),
    ],
)
def test_added_launches_are_counted_once_per_point(found, words):
    rows = [*pair(1, 2.0, 1.9, 2.1), *pair(4, 2.0, 1.6, 2.4)]
    for number, (extra, aside) in enumerate(found):
        for cell in rows[2 * number : 2 * number + 2]:
            cell |= {"launches_extra": extra, "launches_set_aside": aside}
    assert verdict.launched_again(frame(rows)) == words


def test_absolute_figures_of_one_repetition_have_no_interval():
    assert verdict.precision(measured((None, "ok", None))) == ["absolute figures have no interval, from one repetition each"]


def test_without_a_measured_cell_nothing_is_said_of_absolute_figures():
    assert verdict.precision(measured((None, "oom", None))) == []


def test_all_sentences_are_conclusions_precision_and_what_is_open():
    rows = [*pair(1, 2.0, 1.5, 2.5), *pair(4, "oom", "tried 2 GiB")]
    assert [sentence.split()[0] for sentence in verdict.sentences(frame(rows))] == ["cached", "absolute", "no"]


# For the report


def disturbed(*found):
    """The lines on cells with these statuses, reasons and kinds; every one beside a reference that is ok."""
    rows = []
    for number, (status, reason, kinds) in enumerate(found, start=1):
        rows += pair(number, 2.0, 1.5, 2.5)
        rows[-1] |= {"status": status, "reason": reason, "disturbed_by": kinds}
    return verdict.disturbances(frame(rows))


STEAL, PRESSURE = "the hypervisor took {}% of the time (limit 2%)", "tasks waited for a core in {}% of the time (limit 10%)"
NEVER = "{} of {} launches drift or jump and never settle"
FINE = (("ok", None, None), ("imprecise", "interval wider than +-5%", None), ("oom", "out of memory", None))


def test_without_disturbed_cells_there_is_no_line():
    assert disturbed(*FINE) == []


def test_one_cell_has_its_whole_reason():
    assert disturbed(("unstable", STEAL.format(2.5), "steal"), FINE[0]) == [
        "absolute figures of 1 cell are unstable: the hypervisor took 2.5% of the time (limit 2%)"
    ]


def test_causes_of_several_cells_are_counted_the_most_frequent_first():
    both = ("unstable", f"{STEAL.format(2.5)}; {PRESSURE.format(12)}", "steal,pressure")
    assert disturbed(both, *(("unstable", PRESSURE.format(share), "pressure") for share in (50, 11))) == [
        "absolute figures of 3 cells are unstable: tasks waited for a core (3); the hypervisor took CPU time (1)"
    ]


def test_cells_without_a_steady_state_have_a_line_of_their_own_after_the_unstable_ones():
    never = [("no_steady_state", NEVER.format(count, 5), None) for count in (3, 4)]
    assert disturbed(never[0], ("unstable", STEAL.format(9), "steal"), never[1]) == [
        "absolute figures of 1 cell are unstable: the hypervisor took 9% of the time (limit 2%)",
        "absolute figures of 2 cells are no_steady_state: launches drift or jump and never settle (2)",
    ]


def test_ratios_with_a_wider_interval_have_a_line_with_the_largest_widening():
    rows = [*pair(1, 2.0, 1.5, 2.5), *pair(4, 2.0, 1.5, 2.5), *pair(8, 2.0, 1.5, 2.5)]
    rows[1] |= {"speedup_widening": 0.07, "speedup_disturbed_by": "unequal_speed"}
    rows[3] |= {"speedup_widening": 0.22, "speedup_disturbed_by": "shared_cores"}
    rows[5] |= {"speedup_widening": 0.0}
    assert verdict.disturbances(frame(rows)) == [
        "intervals of 2 ratios are wider, by at most 22 %: "
        "the speed of the machine differed between the arms (1); other programs shared the cores (1)"
    ]


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

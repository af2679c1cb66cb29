"""Which recorded causes make absolute figures unreliable, and the status that follows from all that is known of a cell."""

import math
import re
from dataclasses import replace

import pytest

from nanobench.probes.nvml import CLOCK_EVENT_REASONS
from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results import derive, status
from nanobench.results.repetitions import LEAST_SERIES
from nanobench.schema import Arm, Point, Trial

CPU = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=2, batch_size=4, prompt_len=10, new_tokens=3)
GPU = replace(CPU, device="cuda")
REFERENCE, ARM = Arm(engine="uncached"), Arm(engine="cached")
OK = Outcome(status=Status.OK)
STILL = [1.0] * 20
RAMP = [1.0 + 0.005 * number for number in range(40)]
"""Drifts from end to end, and so never settles."""


def timed(walls_s=STILL, **facts):
    """Timed repetitions; a fact about them is one value for all, or a list with one for each."""
    each = {name: value if isinstance(value, list) else [value] * len(walls_s) for name, value in facts.items()}
    return [
        Repetition(
            kind="steady", repetition=n, block=n, wall_s=s, tokens=12, **{name: values[n] for name, values in each.items()}
        )
        for n, s in enumerate(walls_s)
    ]


def cells_of(*launches, point=CPU, target_ci=10.0):
    """The reference's and the arm's cell. A launch is the repetitions of both, or of the reference and how the arm ended."""
    rows = []
    for number, (slow, fast) in enumerate(launches, start=1):
        asked = Trial(point=point, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=target_ci, max_seconds=1.0)
        ended = fast if isinstance(fast, Outcome) else OK
        done = () if ended is fast else tuple(fast)
        rows += [LaunchRecord.of(asked, 0, ArmRecord(arm=REFERENCE, repetitions=tuple(slow), outcome=OK))]
        rows += [LaunchRecord.of(asked, 0, ArmRecord(arm=ARM, repetitions=done, outcome=ended))]
    return derive.derive(rows)


def judged(*launches, **asked):
    """Status and reason of the arm."""
    cell = cells_of(*launches, **asked)[1]
    return cell["status"], cell["reason"]


def twice(point=CPU, walls_s=STILL, reference=None, **facts):
    """Status and reason of an arm with the same repetitions in both of two launches."""
    return judged(*[(timed(**(reference or {})), timed(walls_s, **facts))] * 2, point=point)


def invalid(count):
    return {"valid": [False] * count + [True] * (20 - count), "reason": ["recompiled"] * count + [None] * (20 - count)}


def held(count, **how):
    """A reading in so many of 20 repetitions, and what says that there was nothing in the others."""
    ((name, (value, nothing)),) = how.items()
    return {name: [value] * count + [nothing] * (20 - count)}


CAUSES = {
    "invalid": (CPU, invalid, 4, 5, 10, "20 of 40 repetitions are invalid (20 x recompiled)"),
    "cpu quota": (
        CPU,
        lambda count: held(count, quota_throttled_periods=(3, 0)),
        1,
        2,
        10,
        "clocks or CPU quota were held down in 50% of the repetitions (limit 5%)",
    ),
    "gpu clocks": (
        GPU,
        lambda count: held(count, clock_event_reasons=("sw_power_cap,hw_slowdown", "")),
        1,
        2,
        5,
        "clocks or CPU quota were held down in 25% of the repetitions (limit 5%)",
    ),
    "steal": (CPU, lambda s: {"steal_s": s}, 0.0199, 0.0201, 0.125, "the hypervisor took 12.5% of the time (limit 2%)"),
    "pressure": (
        CPU,
        lambda s: {"pressure_s": s},
        0.099,
        0.101,
        0.37,
        "tasks waited for a core in 37% of the time (limit 10%)",
    ),
    "spin": (
        CPU,
        lambda drift: {"spin_s": [0.005] * 10 + [0.005 * (1 + drift)] * 10},
        0.049,
        0.051,
        0.2,
        "a loop of fixed length drifted by 20% within a launch (limit 5%)",
    ),
    "faster spin": (
        CPU,
        lambda drift: {"spin_s": [0.005] * 10 + [0.005 * (1 - drift)] * 10},
        0.049,
        0.051,
        0.2,
        "a loop of fixed length drifted by 20% within a launch (limit 5%)",
    ),
    "on cpu": (
        CPU,
        lambda s: {"cpu_s": s},
        0.951,
        0.949,
        0.5,
        "the main thread had a core for only 50% of the time (at least 95%)",
    ),
    "foreign": (GPU, lambda count: {"foreign_processes": [0] * 19 + [count]}, 0, 1, 3, "other processes on the GPU: 3"),
    "moving clock": (
        GPU,
        lambda share: {"clock_sm_hz": [1e9 * (1 - share), 1e9 * (1 + share)] * 10},
        0.0299,
        0.0301,
        0.1,
        "the SM clock varies by 10% (limit 3%)",
    ),
}
"""Cause -> device, what is recorded for a size, a size just within the limit, one just beyond it, a large one, its words."""


# Each cause alone


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_just_within_its_limit_disturbs_nothing(cause):
    point, recorded, within, *_ = CAUSES[cause]
    assert twice(point, **recorded(within)) == ("ok", None)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_just_beyond_its_limit_makes_the_cell_unstable_and_is_the_only_reason(cause):
    point, recorded, _, beyond, *_ = CAUSES[cause]
    status, reason = twice(point, **recorded(beyond))
    assert status == "unstable"
    assert "; " not in reason


@pytest.mark.parametrize("cause", CAUSES)
def test_a_reason_holds_its_figure_and_its_limit(cause):
    point, recorded, _, _, large, words = CAUSES[cause]
    assert twice(point, **recorded(large)) == ("unstable", words)


def test_several_causes_are_all_told():
    status, reason = twice(steal_s=0.25, pressure_s=0.5)
    assert status == "unstable"
    assert reason.split("; ") == [
        "the hypervisor took 25.0% of the time (limit 2%)",
        "tasks waited for a core in 50% of the time (limit 10%)",
    ]


def test_an_unstable_cell_keeps_its_numbers():
    still, disturbed = ([(timed(), timed([0.5] * 20, pressure_s=seconds))] * 2 for seconds in (0.0, 0.25))
    still, disturbed = cells_of(*still)[1], cells_of(*disturbed)[1]
    assert (still["status"], disturbed["status"]) == ("ok", "unstable")
    names = {name for name in still if not name.startswith("speedup_")}
    names -= {"status", "reason", "disturbed_by", "pressure_fraction"}
    assert {name: disturbed[name] for name in names} == {name: still[name] for name in names}
    assert disturbed["speedup"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "reading",
    [
        "cpu_s",
        "pressure_s",
        "quota_throttled_periods",
        "steal_s",
        "spin_s",
        "clock_sm_hz",
        "clock_event_reasons",
        "foreign_processes",
    ],
)
@pytest.mark.parametrize("point", [CPU, GPU], ids=["cpu", "cuda"])
def test_what_a_machine_does_not_tell_disturbs_nothing(point, reading):
    healthy = {
        "cpu_s": 1.0,
        "pressure_s": 0.0,
        "quota_throttled_periods": 0,
        "steal_s": 0.0,
        "spin_s": 0.005,
        "clock_sm_hz": 1e9,
    }
    healthy |= {"clock_event_reasons": "", "foreign_processes": 0}
    assert twice(point, **healthy) == ("ok", None)
    assert twice(point, **{**healthy, reading: None}) == ("ok", None)


def test_what_only_some_repetitions_tell_is_judged_by_these():
    assert twice(pressure_s=[0.5] * 4 + [None] * 16) == (
        "unstable",
        "tasks waited for a core in 50% of the time (limit 10%)",
    )
    assert twice(quota_throttled_periods=[0] * 3 + [1] + [None] * 16)[0] == "unstable"
    assert twice(clock_sm_hz=[1e9] + [None] * 19, point=GPU) == ("ok", None)


def test_only_the_disturbed_arm_is_unstable():
    reference, arm = cells_of(*[(timed(), timed(pressure_s=0.5))] * 2)
    assert (reference["status"], arm["status"]) == ("ok", "unstable")
    reference, arm = cells_of(*[(timed(pressure_s=0.5), timed())] * 2)
    assert (reference["status"], arm["status"]) == ("unstable", "ok")


# Invalid repetitions


def test_each_reason_of_invalid_repetitions_is_told_once_with_its_number():
    facts = {"valid": [False] * 5 + [True] * 15, "reason": ["recompiled"] * 3 + ["late"] * 2 + [None] * 15}
    cell = cells_of((timed(), timed(**facts)))[1]
    assert (cell["status"], cell["invalid_repetitions"], cell["repetitions"]) == ("unstable", 5, 15)
    assert cell["invalid_reasons"] == "3 x recompiled; 2 x late"
    assert cell["reason"].startswith("5 of 20 repetitions are invalid (3 x recompiled")


def test_invalid_repetitions_below_a_fifth_are_told_and_not_judged():
    cell = cells_of((timed(), timed(**invalid(4))))[1]
    assert (cell["status"], cell["reason"]) == ("ok", None)
    assert (cell["invalid_repetitions"], cell["invalid_reasons"], cell["pairs"]) == (4, "4 x recompiled", 16)


def test_what_disturbed_an_invalid_repetition_is_not_counted_again():
    assert twice(**invalid(4), pressure_s=[1.0] * 4 + [0.0] * 16) == ("ok", None)


def test_where_every_repetition_is_invalid_the_cell_is_unstable_and_has_no_numbers_of_them():
    cell = cells_of((timed(), timed(**invalid(20))))[1]
    assert (cell["status"], cell["reason"]) == ("unstable", "20 of 20 repetitions are invalid (20 x recompiled)")
    assert (cell["repetitions"], cell["pairs"], cell["output_tok_s"], cell["speedup"]) == (0, 0, None, None)


def test_the_share_of_invalid_repetitions_is_that_of_all_that_were_timed():
    # 12 of 82 were invalid; that 30 of the 70 others ran before the launch settled does not make them more.
    walls_s = [2.0] * 30 + [1.0] * 52
    facts = {"valid": [True] * 70 + [False] * 12, "reason": [None] * 70 + ["recompiled"] * 12}
    cell = cells_of((timed([1.0] * 82), timed(walls_s, **facts)))[1]
    assert (cell["repetitions"], cell["invalid_repetitions"]) == (40, 12)
    assert (cell["status"], cell["reason"]) == ("ok", None)


# The host


def test_on_a_gpu_the_main_thread_may_sleep():
    assert twice(GPU, cpu_s=0.1) == ("ok", None)
    assert cells_of((timed(), timed(cpu_s=0.1)), point=GPU)[1]["on_cpu_fraction"] is None
    assert cells_of((timed(), timed(cpu_s=0.1)))[1]["on_cpu_fraction"] == pytest.approx(0.1)


def test_a_thread_never_had_more_than_its_core():
    assert cells_of((timed(), timed(cpu_s=1.001)))[1]["on_cpu_fraction"] == 1.0


def test_shares_of_time_are_those_of_all_repetitions_together():
    # 1 of 10 s, although 50 % and 100 % in the two short ones.
    walls_s = [0.5, 1.0, *[8.5 / 18] * 18]
    cell = cells_of((timed(), timed(walls_s, steal_s=[0.25, 0.75, *[0.0] * 18])))[1]
    assert cell["steal_fraction"] == pytest.approx(0.1)


def test_a_few_loops_of_fixed_length_show_no_drift():
    few, enough = status.LEAST_SPINS - 1, status.LEAST_SPINS
    assert twice(spin_s=[0.005] * 2 + [0.010] * (few - 2) + [None] * (20 - few)) == ("ok", None)
    assert twice(spin_s=[0.005] * 2 + [0.010] * (enough - 2) + [None] * (20 - enough))[0] == "unstable"


def test_a_loop_that_lasts_longer_in_another_launch_did_not_drift():
    assert judged((timed(), timed(spin_s=0.005)), (timed(), timed(spin_s=0.010))) == ("ok", None)


def test_one_long_loop_is_no_drift():
    assert twice(spin_s=[0.005] * 19 + [0.5]) == ("ok", None)


# The GPU's clocks


@pytest.mark.parametrize("name", CLOCK_EVENT_REASONS.values())
def test_clocks_held_down_for_heat_or_by_the_hardware_disturb_and_a_cap_does_not(name):
    never_normal = name in ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake")
    assert twice(GPU, clock_event_reasons=name)[0] == ("unstable" if never_normal else "ok")


def test_every_reason_that_is_never_normal_is_one_that_the_gpu_can_give():
    assert set(CLOCK_EVENT_REASONS.values()) >= status.HELD_DOWN


def test_a_power_cap_alone_disturbs_nothing_as_long_as_clocks_stand_still():
    still = {"clock_sm_hz": 1e9, "clock_event_reasons": "sw_power_cap"}
    assert twice(GPU, reference=still, **still) == ("ok", None)
    moving = {**still, "clock_sm_hz": [1e9, 1.2e9] * 10}
    assert twice(GPU, **moving) == ("unstable", "the SM clock varies by 9% (limit 3%)")


def test_quota_and_clocks_are_two_shares_of_which_the_larger_counts():
    facts = {**held(10, clock_event_reasons=("hw_slowdown", "")), **held(5, quota_throttled_periods=(1, 0))}
    cell = cells_of((timed(), timed(**facts)), point=GPU)[1]
    assert cell["throttled_fraction"] == 0.5


# The reference against itself


def two_names(launch, first_s, second_s, count=20):
    """Times of one arm that runs under two names as ABBA, or as BAAB in every other launch."""
    order = [first_s, second_s, second_s, first_s] if launch % 2 else [second_s, first_s, first_s, second_s]
    return (order * count)[:count]


def null_of(*series):
    """Status and reason of an arm at rest beside a reference with these times, launch by launch."""
    return judged(*((timed(walls_s), timed(STILL)) for walls_s in series))


def test_a_reference_that_differs_from_itself_disturbs_every_arm_of_the_point():
    names = [two_names(launch, 1.1 + 0.001 * launch, 1.0) for launch in (1, 2, 3, 4, 5)]
    reference, arm = cells_of(*((timed(walls_s), timed()) for walls_s in names))
    assert reference["status"] == arm["status"] == "unstable"
    assert reference["reason"] == arm["reason"]
    assert arm["reason"].startswith("the reference differs from itself: 1.103x with p = ")
    assert arm["aa_ratio"] == pytest.approx(math.prod(1.1 + 0.001 * launch for launch in (1, 2, 3, 4, 5)) ** (1 / 5))
    assert arm["aa_ratio_lo"] > 1


@pytest.mark.parametrize(("p_value", "status"), [(0.0102, "ok"), (0.0098, "unstable")])
def test_the_null_contrast_fires_below_one_percent(p_value, status):
    # Three launch means m * (1 - s, 1, 1 + s) have t = sqrt(3) / s; with 2 degrees of freedom p = 1 - t / sqrt(t * t + 2).
    t = (1 - p_value) * math.sqrt(2 / (1 - (1 - p_value) ** 2))
    logs = [0.05 * (1 + step * math.sqrt(3) / t) for step in (-1, 0, 1)]
    found = null_of(*(two_names(launch, math.exp(log), 1.0) for launch, log in enumerate(logs, start=1)))
    assert found[0] == status
    assert status == "ok" or found[1] == f"the reference differs from itself: 1.051x with p = {p_value:.2g}"


@pytest.mark.parametrize("count", [20, 19, 18, 3])
def test_a_linear_drift_is_no_difference_of_the_reference_from_itself(count):
    drift = [[1.0 + 0.01 * number + 0.001 * launch for number in range(count)] for launch in range(5)]
    assert null_of(*drift) == ("ok", None)


@pytest.mark.parametrize("launches", [2, 3, 5])
def test_a_steady_growth_is_no_difference_of_the_reference_from_itself(launches):
    assert null_of(*[[math.exp(0.01 * number) for number in range(20)]] * launches) == ("ok", None)


def test_what_slows_every_other_repetition_cancels_as_it_does_between_two_arms():
    assert null_of(*[[1.0, 1.1] * 10] * 5) == ("ok", None)


def test_a_single_launch_is_no_ground_for_a_null_contrast():
    series = two_names(1, 1.1, 1.0)
    assert null_of(series) == ("ok", None)
    assert null_of(series, two_names(2, 1.1, 1.0))[0] == "unstable"


# Launches that settle late or never


def test_what_was_timed_before_a_launch_settled_counts_nowhere():
    spike = [10.0] * 5 + [1.0] * 35
    worse = {"pressure_s": [10.0] * 5 + [0.0] * 35, "foreign_processes": [1] * 5 + [0] * 35}
    cell = cells_of((timed([2.0] * 40), timed(spike, **worse)))[1]
    assert (cell["status"], cell["repetitions"], cell["pairs"], cell["unsteady_launches"]) == ("ok", 35, 35, 0)
    assert cell["output_tok_s"] == pytest.approx(12.0)
    assert cell["speedup"] == cell["speedup_lo"] == pytest.approx(2.0)
    assert cell["pressure_fraction"] == cell["foreign_processes"] == 0


def test_pairs_begin_where_both_arms_have_settled():
    slow, fast = [20.0] * 10 + [2.0] * 30, [10.0] * 5 + [1.0] * 35
    reference, arm = cells_of((timed(slow), timed(fast)))
    assert (reference["repetitions"], arm["repetitions"], arm["pairs"]) == (30, 35, 30)
    assert arm["speedup"] == pytest.approx(2.0)


def test_each_launch_settles_by_itself():
    early, late = [10.0] * 2 + [1.0] * 38, [10.0] * 15 + [1.0] * 25
    cell = cells_of(*((timed([1.0] * 40), timed(series)) for series in (early, late, [1.0] * 40)))[1]
    assert (cell["status"], cell["repetitions"]) == ("ok", 38 + 25 + 40)


def test_marked_repetitions_from_before_a_launch_settled_count_no_more_than_plain_ones():
    marks = [(1.0, 2.0, 3.0) if number % 5 == 0 else None for number in range(40)]
    late = [(7.0, 8.0, 9.0) if number in (0, 5) else each for number, each in enumerate(marks)]
    spike = [10.0] * 6 + [1.0] * 34
    facts = {"timestamped": [each is not None for each in marks], "token_times_s": late}
    cell = cells_of((timed([1.0] * 40), timed(spike, **facts)), point=GPU)[1]
    # Blocks 0 to 5 came before; of the 34 others 6 are marked.
    assert (cell["repetitions"], cell["pairs"], cell["ttft_s"]) == (34, 28, 1.0)


def test_a_launch_too_short_to_tell_counts_as_a_whole():
    spike = [10.0] * 5 + [1.0] * (LEAST_SERIES - 6)
    cell = cells_of((timed([1.0] * len(spike)), timed(spike)))[1]
    assert (cell["repetitions"], cell["unsteady_launches"]) == (LEAST_SERIES - 1, 0)
    cell = cells_of((timed([1.0] * LEAST_SERIES), timed([*spike, 1.0])))[1]
    assert cell["repetitions"] == LEAST_SERIES - 5


def test_a_launch_that_never_settles_counts_as_a_whole():
    cell = cells_of(*[(timed([1.0] * 40), timed(RAMP))] * 2)[1]
    assert (cell["status"], cell["repetitions"], cell["pairs"], cell["unsteady_launches"]) == ("no_steady_state", 80, 80, 2)
    assert cell["reason"] == "2 of 2 launches drift or jump and never settle"


def test_an_invalid_spike_does_not_keep_a_launch_from_being_steady():
    series = [1.0] * 20 + [50.0] + [1.0] * 19
    facts = {"valid": [second == 1.0 for second in series], "reason": [None if second == 1.0 else "late" for second in series]}
    cell = cells_of((timed([1.0] * 40), timed(series, **facts)))[1]
    assert (cell["status"], cell["repetitions"], cell["unsteady_launches"]) == ("ok", 39, 0)


@pytest.mark.parametrize(
    ("never", "of", "status"), [(1, 1, "no_steady_state"), (1, 2, "ok"), (2, 3, "no_steady_state"), (2, 4, "ok")]
)
def test_a_cell_has_no_steady_state_where_more_than_half_of_its_launches_never_settle(never, of, status):
    series = [RAMP] * never + [[1.0] * 40] * (of - never)
    found = judged(*((timed([1.0] * 40), timed(each)) for each in series))
    assert found == (status, f"{never} of {of} launches drift or jump and never settle" if status != "ok" else None)


@pytest.mark.parametrize(("count", "status"), [(LEAST_SERIES - 1, "ok"), (LEAST_SERIES, "no_steady_state")])
def test_a_drift_is_judged_from_the_least_number_of_repetitions_on(count, status):
    drift = [1.0 + 0.01 * number for number in range(count)]
    assert judged(*[(timed([1.0] * count), timed(drift))] * 2)[0] == status


def test_a_drift_of_the_reference_is_the_references_alone():
    reference, arm = cells_of(*[(timed(RAMP), timed([1.0] * 40))] * 3)
    assert (reference["status"], arm["status"]) == ("no_steady_state", "ok")


def test_the_words_of_the_column_name_the_least_number_of_repetitions_that_is_asked_for():
    assert f"of {LEAST_SERIES} repetitions" in derive.BY_NAME["unsteady_launches"].formula


# Precedence


def worst(*, unstable=False, unsteady=False, imprecise=False):
    """Status and reason of an arm with these faults, in two launches."""
    facts = {"pressure_s": 0.5} if unstable else {}
    walls_s = RAMP if unsteady else [1.0] * 40
    second = [2 * second_s for second_s in walls_s] if imprecise else walls_s
    return judged(*((timed([1.0] * 40), timed(each, **facts)) for each in (walls_s, second)), target_ci=0.05)


def test_the_first_status_by_precedence_holds():
    order = ["wrong", "skipped", "oom", "timeout", "error", "unstable", "no_steady_state", "imprecise", "ok"]
    assert [status for status in Status if status in order] == order
    assert worst(unstable=True, unsteady=True, imprecise=True)[0] == "unstable"
    assert worst(unsteady=True, imprecise=True)[0] == "no_steady_state"
    assert worst(imprecise=True)[0] == "imprecise"
    assert worst() == ("ok", None)


@pytest.mark.parametrize("status", ["wrong", "skipped", "oom", "timeout", "error"])
def test_a_launch_that_finished_and_is_disturbed_outweighs_all_that_failed_but_a_wrong_one(status):
    failed, disturbed = Outcome(status=Status(status), reason="because"), timed(pressure_s=0.5)
    found = judged((timed(), disturbed), (timed(), failed), (timed(), disturbed))
    assert found[0] == ("wrong" if status == "wrong" else "unstable")
    assert (found[1] == "because") is (status == "wrong")


@pytest.mark.parametrize(
    ("first", "then"), [("wrong", "skipped"), ("skipped", "oom"), ("oom", "timeout"), ("timeout", "error")]
)
def test_of_two_failures_the_first_by_precedence_holds(first, then):
    launches = [(timed(), Outcome(status=Status(status), reason=f"reason of {status}")) for status in (then, first)]
    assert judged(*launches) == (first, f"reason of {first}")


def test_absolute_figures_are_imprecise_where_their_own_interval_is_wider_than_the_target():
    # Both arms vary alike from launch to launch: the ratio is exact, the throughputs are not.
    launches = [(timed([factor] * 20), timed([factor / 2] * 20)) for factor in (1.0, 1.05, 1.1)]
    reference, arm = cells_of(*launches, target_ci=0.05)
    assert [cell["status"] for cell in (reference, arm)] == ["imprecise", "imprecise"]
    assert arm["reason"] == "throughput within 11.9% (target 5%); more --launches narrow it"
    assert (arm["speedup"], arm["speedup_status"]) == (pytest.approx(2.0), "ok")


def test_a_single_launch_that_is_imprecise_needs_more_repetitions():
    _, reason = judged((timed(), timed([1.0, 2.0] * 10)), target_ci=0.05)
    assert reason.endswith("; more repetitions (a larger --max-seconds) narrow it")


# Causes over many cells


def kinds(*launches, point=CPU, **asked):
    """The kinds of what disturbed the arm."""
    return cells_of(*launches, point=point, **asked)[1]["disturbed_by"]


def kinds_twice(point=CPU, reference=None, **facts):
    return kinds(*[(timed(**(reference or {})), timed(**facts))] * 2, point=point)


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_a_kind_with_words_for_one_cell_and_for_many(cause):
    point, facts, _, _, large, words = CAUSES[cause]
    found = facts(large)
    reference = found.pop("reference", None)
    kind = kinds_twice(point, reference, **found)
    assert words in twice(point, reference=reference, **found)[1]
    assert not re.search(r"\d", status.CAUSES[kind].many)


def test_what_does_not_disturb_has_no_kind():
    assert kinds_twice() is None


def test_causes_are_counted_and_the_most_frequent_comes_first():
    found = [kinds_twice(**facts) for facts in ({"steal_s": 0.1}, {"pressure_s": 0.25}, {"pressure_s": 0.5}, {})]
    assert found == ["steal", "pressure", "pressure", None]
    assert status.count_causes(found) == [("tasks waited for a core", 2), ("the hypervisor took CPU time", 1)]


def test_a_cell_with_several_causes_counts_for_each():
    both, one = kinds_twice(steal_s=0.1, pressure_s=0.25), kinds_twice(steal_s=0.3)
    assert dict(status.count_causes([both, one])) == {"the hypervisor took CPU time": 2, "tasks waited for a core": 1}


def test_without_disturbances_there_are_no_causes():
    assert status.count_causes([]) == []


def test_repetitions_that_are_invalid_for_two_reasons_are_one_cause():
    facts = {"valid": [False] * 8 + [True] * 12, "reason": ["recompiled"] * 5 + ["late"] * 3 + [None] * 12}
    assert kinds_twice(**facts) == "invalid_repetitions"

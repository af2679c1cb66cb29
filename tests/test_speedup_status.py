"""When a ratio is reliable: which disturbances cancel in pairs, which its interval allows for, and which end the conclusion."""

import functools
import math

import pytest

import shared_machine
from nanobench.records import JUDGED, ArmRecord, LaunchRecord, Outcome, Status
from nanobench.results import derive, speedup_status
from nanobench.schema import Trial
from nanobench.stats import intervals
from test_status import ARM, CPU, GPU, OK, RAMP, REFERENCE, STILL, cells_of, invalid, timed, two_names

BUSY = {"cpu_s": 0.5, "pressure_s": 0.4}
SIMULATED = 25


def ratio(*launches, **asked):
    """The arm's cell."""
    return cells_of(*launches, **asked)[1]


def beside(reference, arm, launches=3, walls_s=STILL, **asked):
    """An arm that is twice as fast, with readings of both arms."""
    slow, fast = timed(walls_s, **reference), timed([wall_s / 2 for wall_s in walls_s], **halved(arm))
    return ratio(*[(slow, fast)] * launches, **asked)


def halved(readings):
    """Readings of repetitions of half a second."""
    return {name: value / 2 if name.endswith("_s") and name != "spin_s" else value for name, value in readings.items()}


# What cancels


def test_the_reference_has_no_ratio():
    reference, _ = cells_of((timed(), timed()))
    names = [name for name in reference if name.startswith("speedup")]
    assert {"speedup_status", "speedup_reason", "speedup_disturbed_by", "speedup_widening"} <= set(names)
    assert all(reference[name] is None for name in names)


def test_undisturbed_arms_keep_the_interval_of_their_pairs():
    cell = beside({"cpu_s": 0.99, "pressure_s": 0.002}, {"cpu_s": 0.991, "pressure_s": 0.0, "steal_s": 0.001})
    assert (cell["speedup_status"], cell["speedup_reason"], cell["speedup_widening"]) == ("ok", None, 0.0)
    assert cell["speedup"] == cell["speedup_lo"] == cell["speedup_hi"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("kind", "readings", "point"),
    [
        ("spin_drift", {"spin_s": [0.005] * 10 + [0.0065] * 10}, CPU),
        ("clock_spread", {"clock_sm_hz": [1e9, 1.2e9] * 10}, GPU),
        ("throttled", {"clock_event_reasons": "hw_slowdown", "clock_sm_hz": 1e9}, GPU),
    ],
)
def test_a_speed_that_changes_for_both_arms_makes_absolute_figures_unstable_and_not_the_ratio(kind, readings, point):
    reference, arm = cells_of(*[(timed(**readings), timed([0.5] * 20, **readings))] * 3, point=point)
    assert (reference["status"], arm["status"], arm["disturbed_by"]) == ("unstable", "unstable", kind)
    assert (arm["speedup_status"], arm["speedup_widening"]) == ("ok", 0.0)


def test_arms_that_drift_together_have_a_ratio():
    reference, arm = cells_of(*[(timed(RAMP), timed([second / 2 for second in RAMP]))] * 3)
    assert (reference["status"], arm["status"], arm["speedup_status"]) == ("no_steady_state", "no_steady_state", "ok")
    assert arm["speedup"] == pytest.approx(2.0)


def test_a_ratio_that_drifts_has_no_steady_state():
    cell = ratio(*[(timed(STILL * 2), timed(RAMP))] * 3)
    assert cell["speedup_status"] == "no_steady_state"
    assert cell["speedup_reason"] == "the ratio: 3 of 3 launches drift or jump and never settle"


# What the interval allows for


def test_arms_that_lost_alike_are_allowed_half_of_what_they_lost():
    cell = beside(BUSY, BUSY)
    assert cell["speedup_hi"] / cell["speedup"] == pytest.approx(math.sqrt(2))
    assert cell["speedup"] / cell["speedup_lo"] == pytest.approx(math.sqrt(2))
    assert cell["speedup_widening"] == pytest.approx(math.sqrt(2) - 1)
    assert cell["speedup_pairs_lo"] == cell["speedup_pairs_hi"] == pytest.approx(2.0)
    assert cell["speedup_disturbed_by"] == "shared_cores"
    assert cell["speedup_reason"] == (
        "other programs shared the cores: the main thread had one for 50% of this arm's time and for 50% of the reference's; "
        "the interval is 41% wider for it"
    )
    assert (cell["status"], cell["speedup_status"]) == ("unstable", "ok")


def test_an_arm_that_lost_less_than_the_reference_looks_faster_than_it_is():
    alike, unlike = beside({"cpu_s": 0.7}, {"cpu_s": 0.7}), beside({"cpu_s": 0.7}, {"cpu_s": 0.85})
    common = 0.5 * -(math.log(0.7) + math.log(0.85)) / 2
    assert unlike["speedup_hi"] == pytest.approx(2 * math.exp(common))
    assert unlike["speedup_lo"] == pytest.approx(2 * math.exp(-common) * 0.7 / 0.85)
    assert unlike["speedup"] == alike["speedup"] == pytest.approx(2.0)


def test_arms_of_which_one_kept_a_core_and_both_made_tasks_wait_differ_by_what_waiting_may_cost():
    # A core of two has a waiting task in all of the reference's time, and in none of the arm's: it may have lost half.
    cell = beside({"cpu_s": 1.0, "pressure_s": 0.5}, {"cpu_s": 1.0, "pressure_s": 0.0})
    assert cell["speedup_lo"] == pytest.approx(1.0)
    assert cell["speedup_hi"] == pytest.approx(2.0)


def test_a_waiting_thread_loses_as_much_as_the_main_thread_did():
    cell = beside({"cpu_s": 0.25, "pressure_s": 1.0}, {"cpu_s": 1.0, "pressure_s": 0.0})
    common = 0.5 * -math.log(0.25) / 2
    assert cell["speedup_lo"] == pytest.approx(2 * 0.25 * math.exp(-common))


def test_what_the_hypervisor_took_is_allowed_for():
    cell = beside({"steal_s": 0.1}, {"steal_s": 0.1})
    assert cell["speedup_hi"] == pytest.approx(2 * 0.8**-0.5)
    assert cell["speedup_reason"].startswith("other programs shared the cores: the hypervisor took one for 10% of this arm's")


@pytest.mark.parametrize(("spin_s", "bound", "factor"), [(0.006, "speedup_hi", 1.2), (0.004, "speedup_lo", 0.8)])
def test_a_core_that_was_slower_beside_one_arm_moves_one_bound(spin_s, bound, factor):
    cell = beside({"spin_s": 0.005}, {"spin_s": spin_s})
    assert cell[bound] == pytest.approx(2 * factor)
    other = {"speedup_hi": "speedup_lo", "speedup_lo": "speedup_hi"}[bound]
    assert cell[other] == pytest.approx(2.0)
    assert cell["speedup_disturbed_by"] == "unequal_speed"


@pytest.mark.parametrize(("clock_hz", "bound"), [(0.8e9, "speedup_hi"), (1.25e9, "speedup_lo")])
def test_a_gpu_clock_that_differs_moves_one_bound_by_its_ratio(clock_hz, bound):
    cell = beside({"clock_sm_hz": 1e9}, {"clock_sm_hz": clock_hz}, point=GPU)
    assert cell[bound] == pytest.approx(2e9 / clock_hz)
    assert cell["speedup_disturbed_by"] == "clock_difference"
    assert "the SM clock differs by" in cell["speedup_reason"]


@pytest.mark.parametrize("share", [0.97, 1.03])
def test_a_gpu_clock_that_hardly_differs_moves_nothing(share):
    cell = beside({"clock_sm_hz": 1e9}, {"clock_sm_hz": share * 1e9 * 1.0001 if share < 1 else share * 1e9 * 0.9999}, point=GPU)
    assert (cell["speedup_status"], cell["speedup_widening"]) == ("ok", 0.0)


def test_clocks_of_invalid_repetitions_are_compared_on_neither_side():
    wild = {**invalid(4), "clock_sm_hz": [2e9] * 4 + [1e9] * 16}
    assert ratio(*[(timed(clock_sm_hz=1e9), timed(**wild))] * 2, point=GPU)["speedup_widening"] == 0
    assert ratio(*[(timed(**wild), timed(clock_sm_hz=1e9))] * 2, point=GPU)["speedup_widening"] == 0


def test_an_interval_that_reaches_1_has_a_p_value_above_5_percent():
    def slowed(by):
        readings = {name: by * value for name, value in BUSY.items()}
        return ratio(*[(timed([by] * 20, **readings), timed(**BUSY))] * 3)

    close, far = slowed(1.2), slowed(2.0)
    assert close["speedup_lo"] < 1 < far["speedup_lo"]
    assert close["speedup_p"] > 0.05 > far["speedup_p"]


@pytest.mark.parametrize(
    ("scatter", "between", "fix"),
    [(0.0, 2.0, "more --launches narrow it"), (3.0, 1.0, "more repetitions (a larger --max-seconds) narrow it")],
)
def test_an_imprecise_ratio_says_what_narrows_its_interval(scatter, between, fix):
    walls_s = [1.0 + scatter, 1.0] * 10
    cell = ratio(*((timed(), timed([factor * s for s in walls_s])) for factor in (1.0, between * 1.001)), target_ci=1e-6)
    assert (cell["speedup_status"], cell["speedup_reason"]) == ("imprecise", f"interval wider than +-0.0001%; {fix}")


# What ends the conclusion


def test_a_reference_that_differs_from_itself_leaves_no_conclusion():
    names = [two_names(launch, 1.1 + 0.001 * launch, 1.0) for launch in (1, 2, 3, 4, 5)]
    cell = ratio(*((timed(walls_s), timed()) for walls_s in names))
    assert (cell["speedup_status"], cell["speedup_disturbed_by"]) == ("unstable", "aa_ratio")
    assert cell["speedup_reason"].startswith("the reference differs from itself: 1.103x with p = ")
    assert cell["speedup"] is not None


@pytest.mark.parametrize("side", [0, 1])
def test_too_many_invalid_repetitions_of_either_arm_leave_no_conclusion(side):
    launch = [timed(), timed()]
    launch[side] = timed(**invalid(10))
    cell = ratio(launch, launch)
    assert (cell["speedup_status"], cell["speedup_disturbed_by"]) == ("unstable", "invalid_repetitions")
    assert cell["pairs"] == 20


@pytest.mark.parametrize("side", [0, 1])
def test_another_process_on_the_gpu_leaves_no_conclusion(side):
    launch = [timed(), timed()]
    launch[side] = timed(foreign_processes=1)
    assert ratio(launch, launch, point=GPU)["speedup_disturbed_by"] == "foreign_processes"


def test_quotas_that_held_one_arm_down_more_are_unequal_where_no_reading_says_by_how_much():
    held = {"quota_throttled_periods": [1] * 10 + [0] * 10}
    cell = ratio(*[(timed(quota_throttled_periods=0), timed(**held))] * 2)
    assert (cell["speedup_status"], cell["speedup_disturbed_by"]) == ("unstable", "unequal_throttling")
    assert ratio(*[(timed(**held), timed(**held))] * 2)["speedup_status"] == "ok"
    assert ratio(*[(timed(quota_throttled_periods=0), timed(**held, cpu_s=1.0))] * 2)["speedup_status"] == "ok"


def apart(reference=None, arm=None):
    """The arm's cell where each arm had a process of its own."""
    found = []
    for number in (1, 2, 3):
        trial = Trial(point=CPU, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=10.0, max_seconds=1.0)
        for process, each, walls_s, facts in ((0, REFERENCE, STILL, reference), (1, ARM, [0.5] * 20, arm)):
            record = ArmRecord(arm=each, repetitions=tuple(timed(walls_s, **(facts or {}))), outcome=OK)
            found.append(LaunchRecord.of(trial, process, record))
    return derive.derive(found)[1]


def test_arms_that_ran_apart_have_a_ratio_where_both_are_reliable():
    cell = apart()
    assert (cell["pairing"], cell["speedup_status"], cell["speedup"]) == ("launch", "ok", pytest.approx(2.0))


@pytest.mark.parametrize("disturbed", ["reference", "arm"])
def test_arms_that_ran_apart_have_no_conclusion_where_one_is_unstable(disturbed):
    cell = apart(**{disturbed: {"spin_s": [0.005] * 10 + [0.0065] * 10}})
    assert (cell["speedup_status"], cell["speedup_disturbed_by"]) == ("unstable", "apart")
    assert "a loop of fixed length drifted" in cell["speedup_reason"]


# Arms that failed


@pytest.mark.parametrize("status", ["wrong", "skipped", "oom", "timeout", "error"])
def test_the_ratio_of_an_arm_that_failed_has_its_status(status):
    cell = ratio((timed(), Outcome(status=Status(status), reason="because")))
    assert (cell["speedup_status"], cell["speedup_reason"], cell["speedup"]) == (status, "because", None)


@pytest.mark.parametrize("status", ["wrong", "oom", "timeout"])
def test_the_ratio_to_a_reference_that_failed_has_its_status(status):
    failed = Outcome(status=Status(status), reason="because")
    trial = Trial(point=CPU, arms=(REFERENCE, ARM), launch=1, seed=0, target_ci=10.0, max_seconds=1.0)
    records = [ArmRecord(arm=REFERENCE, outcome=failed), ArmRecord(arm=ARM, repetitions=tuple(timed()), outcome=OK)]
    _, cell = derive.derive(LaunchRecord.of(trial, 0, record) for record in records)
    assert (cell["status"], cell["speedup_status"]) == ("ok", status)
    assert cell["speedup_reason"] == "reference: because"
    assert all(cell[name] is None for name in ("speedup", "speedup_lo", "speedup_p", "speedup_widening", "pairing"))


def test_a_launch_that_failed_leaves_the_ratio_to_the_others():
    cell = ratio((timed(), timed([0.5] * 20)), (timed(), Outcome(status=Status.TIMEOUT, reason="slow")))
    assert (cell["status"], cell["speedup_status"], cell["speedup"]) == ("ok", "ok", pytest.approx(2.0))


def test_arms_without_a_common_launch_have_no_ratio():
    trials = [
        Trial(point=CPU, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=10.0, max_seconds=1.0) for number in (1, 2)
    ]
    late = Outcome(status=Status.TIMEOUT, reason="slow")
    done, failed = ({"repetitions": tuple(timed()), "outcome": OK}, {"outcome": late})
    found = [
        LaunchRecord.of(trial, 0, ArmRecord(arm=arm, **facts))
        for trial, each in zip(trials, ((done, failed), (failed, done)), strict=True)
        for arm, facts in zip(trial.arms, each, strict=True)
    ]
    _, cell = derive.derive(found)
    assert (cell["speedup_status"], cell["speedup"]) == ("unstable", None)
    assert cell["speedup_reason"] == "no launch has a valid pair of both arms"


# Simulated machines


@functools.cache
def simulate(scenario):
    """Over seeded runs: how often pairs alone and the interval contain the true ratio, and how often it is concluded."""
    truth, alone, allowed, concluded = math.exp(scenario.truth), 0, 0, 0
    for seed in range(SIMULATED):
        _, arm = shared_machine.cells(scenario, seed)
        pairs, found = intervals.ratio(arm.speedup_logs), speedup_status.speedup(arm)
        alone += pairs.low <= truth <= pairs.high
        allowed += found.low <= truth <= found.high
        concluded += speedup_status.judge(arm).status in JUDGED
    return alone, allowed, concluded


@pytest.mark.parametrize("name", shared_machine.LIKE)
def test_what_slows_both_arms_by_the_same_factor_cancels_in_pairs(name):
    alone, allowed, concluded = simulate(shared_machine.LIKE[name])
    assert alone >= 0.85 * SIMULATED
    assert allowed >= alone
    assert concluded >= 0.9 * SIMULATED


@pytest.mark.parametrize("name", shared_machine.UNLIKE)
def test_what_slows_arms_by_different_factors_is_allowed_for(name):
    _, allowed, concluded = simulate(shared_machine.UNLIKE[name])
    assert allowed >= 0.9 * SIMULATED
    assert concluded >= 0.9 * SIMULATED


@pytest.mark.parametrize(
    "name", ["a program; one arm more parallel", "a program that loads the memory (30 %); one arm reads more"]
)
def test_pairs_alone_miss_the_truth_where_arms_are_slowed_by_different_factors(name):
    alone, _, _ = simulate(shared_machine.UNLIKE[name])
    assert alone <= 0.5 * SIMULATED


@pytest.mark.parametrize("name", shared_machine.UNSEEN)
def test_what_no_reading_shows_is_a_stated_limit(name):
    _, allowed, _ = simulate(shared_machine.UNSEEN[name])
    assert allowed < 0.5 * SIMULATED


def test_a_ratio_of_one_pair_has_no_interval_and_is_imprecise():
    cell = ratio((timed([1.0]), timed([0.5])))
    assert (cell["speedup"], cell["speedup_lo"]) == (pytest.approx(2.0), None)
    assert cell["speedup_status"] == "imprecise"
    assert cell["speedup_reason"].startswith("one pair gives no interval; ")

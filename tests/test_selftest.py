"""What the self-test runs and what it concludes, from cells made up here."""

import math
from dataclasses import fields, replace

import pytest
import scipy.stats

from nanobench import registry
from nanobench.stats import intervals
from nanobench.sweep import selftest
from nanobench.sweep.options import SweepOptions
from nanobench.sweep.selftest import FIXED_DURATION, FIXED_DURATION_S, CellSummary, Check
from nanobench.worker import selftest_engines

TWO, FIVE = selftest.DELAYS


def cell(**known):
    """A cell of which only this is known."""
    names = [field.name for field in fields(CellSummary)]
    return CellSummary(**{**dict.fromkeys(names), "engine": "uncached", "batch_size": 1, "status": "ok", **known})


def spread_of(within=0.02, between=0.01, pairs=50, launches=5):
    return cell(sd_within=within, sd_between=between, pairs=pairs, launches_ok=launches)


# What is run


def points(options):
    axes = options.axes
    return math.prod(len(axes[name]) for name in ("model", "batch_size", "prompt_len", "new_tokens", "dtype", "threads"))


@pytest.mark.parametrize(("quick", "same", "delayed"), [(False, 40, 20), (True, 10, 4)])
def test_the_sweeps_have_as_many_points_as_they_say(quick, same, delayed):
    assert points(selftest.same("cpu", 8, quick)) == same
    assert points(selftest.delayed("cpu", 8, quick, 5)) == delayed


def test_a_a_is_the_reference_twice_by_the_rules_of_any_sweep():
    options = selftest.same("cuda:1", 8, quick=False)
    assert options.axes["engine"] == ["uncached", selftest.UNCACHED_COPY]
    assert (options.device, options.launches, options.target_ci) == (
        "cuda:1",
        SweepOptions().launches,
        SweepOptions().target_ci,
    )


def test_known_delays_and_the_known_duration_are_measured_against_the_reference_in_as_many_launches_as_requested():
    options = selftest.delayed("cpu", 8, quick=False, launches=7)
    assert options.axes["engine"] == [selftest.UNDELAYED, TWO, FIVE, FIXED_DURATION]
    assert options.launches == 7
    assert float(options.target_ci) < 1e-5  # no launch may stop early: the launches were computed for all pairs


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (3, "3"), (4, "4"), (64, "4")])
def test_a_small_model_gets_few_threads(cores, threads):
    assert selftest.same("cpu", cores, quick=True).threads == threads
    assert selftest.delayed("cpu", cores, quick=True, launches=5).threads == threads


def test_every_engine_of_the_self_test_is_found():
    for name in (selftest.UNCACHED_COPY, selftest.UNDELAYED, *selftest.DELAYS, FIXED_DURATION):
        assert callable(registry.find("engines", name))


def test_a_summary_is_that_of_a_cell_with_all_its_columns():
    columns = {**vars(spread_of()), "model": "gpt2-nano", "speedup": 1.0}
    assert CellSummary.of(columns) == spread_of()


def test_the_delays_and_the_duration_are_those_that_the_engines_have():
    assert list(selftest.DELAYS.values()) == list(selftest.FOUND) == [0.02, 0.05]
    assert FIXED_DURATION_S == selftest_engines.STEP_S


# The spread


def test_the_spread_over_cells_is_the_root_of_the_mean_square_and_pairs_are_those_of_a_launch():
    cells = [spread_of(0.03, 0.01, 50, 5), spread_of(0.04, 0.07, 60, 3), spread_of(0.0, 0.0, 24, 2)]
    within, between, pairs = selftest.spread(cells)
    assert within == pytest.approx(math.sqrt((9e-4 + 16e-4) / 3))
    assert between == pytest.approx(math.sqrt((1e-4 + 49e-4) / 3))
    assert pairs == 12.0  # the median of 10, 20 and 12


def test_cells_without_a_spread_are_left_out():
    lone = cell(sd_within=9.0, pairs=90, launches_ok=1)
    assert selftest.spread([cell(), lone, spread_of(0.02, 0.01, 50, 5)]) == pytest.approx((0.02, 0.01, 10.0))


@pytest.mark.parametrize("cells", [[], [cell()], [cell(sd_within=0.1, pairs=5, launches_ok=1)]])
def test_without_any_spread_nothing_can_be_found(cells):
    within, between, _ = selftest.spread(cells)
    assert (within, between) == (math.inf, math.inf)
    assert selftest.launches_for(cells, 0.05) is None
    assert selftest.resolution(cells) is None


def test_launches_are_as_many_as_find_the_effect_nine_times_in_ten():
    # A launch's mean scatters by sqrt(0.01 ** 2 + 0.02 ** 2 / 10).
    scatter = math.sqrt(0.01**2 + 0.02**2 / 10)

    def power(launches, effect):
        shift = math.log(1 + effect) / scatter * math.sqrt(launches)
        return scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, launches - 1), launches - 1, shift)

    for effect in (0.02, 0.03, 0.05):
        launches = selftest.launches_for([spread_of()], effect)
        assert power(launches, effect) >= 0.9
        assert launches == 3 or power(launches - 1, effect) < 0.9
    assert selftest.launches_for([spread_of()], 0.02) > selftest.launches_for([spread_of()], 0.05)


def test_more_launches_than_are_reasonable_are_not_requested():
    assert selftest.launches_for([spread_of(between=0.5)], 0.02) is None
    most = intervals.launches_needed(math.log1p(0.0085), within=0.02, between=0.01, pairs=10, most=100)
    assert most > selftest.MOST_LAUNCHES
    assert selftest.launches_for([spread_of()], 0.0085) is None


def test_a_machine_without_any_scatter_needs_the_fewest_launches_and_finds_the_smallest_effect():
    assert selftest.launches_for([spread_of(0.0, 0.0)], 0.02) == 3
    assert selftest.resolution([spread_of(0.0, 0.0)]) == 0.005


def test_the_resolution_is_the_smallest_effect_that_five_launches_find():
    found = selftest.resolution([spread_of()])
    assert selftest.launches_for([spread_of()], found) <= selftest.LAUNCHES
    smaller = [effect for effect in (0.005, 0.01, 0.015, 0.02, 0.03) if effect < found]
    assert smaller
    assert all((selftest.launches_for([spread_of()], effect) or math.inf) > selftest.LAUNCHES for effect in smaller)


def test_more_scatter_means_less_resolution_and_at_last_none():
    found = [selftest.resolution([spread_of(between=between)]) for between in (0.001, 0.01, 0.05)]
    assert found == sorted(found)
    assert len(set(found)) == 3
    assert selftest.resolution([spread_of(between=1.0)]) is None


# The verdict


def contrast(engine, speedup, half, **known):
    return cell(engine=engine, speedup_lo=speedup - half, speedup_hi=speedup + half, **known)


def a_a(significant, of=40):
    """A/A contrasts, so many of which exclude 1; and the reference, which has no ratio."""
    cells = [contrast(selftest.UNCACHED_COPY, 0.9 if number < significant else 1.0, 0.05) for number in range(of)]
    return [*cells, cell(output_tok_s=100.0)]


def delayed(engine, number, half=0.005, apart=0.0):
    truth = 1 / (1 + selftest.DELAYS[engine])
    return [contrast(engine, truth + apart, half) for _ in range(number)]


def beats(*errors, batch_size=4):
    return [
        cell(engine=FIXED_DURATION, batch_size=batch_size, output_tok_s=batch_size / FIXED_DURATION_S * (1 + error))
        for error in errors
    ]


def checked(same=None, truth=None):
    """Name -> check, of a machine that passes all but for what is given."""
    same = a_a(2) if same is None else same
    truth = delayed(TWO, 10) + delayed(FIVE, 10) + beats(*[0.0] * 10) if truth is None else truth
    checks = selftest.check(same, truth)
    assert len({check.name for check in checks}) == len(checks) == 6
    return {check.name: check for check in checks}


A_A, COVER, BEATS, STILL = "A/A: significant", "intervals cover the truth", "known duration within 1%", "cells undisturbed"
FOUND_2, FOUND_5 = "2% delay found", "5% delay found"


def test_a_machine_that_can_be_trusted_passes_every_check():
    checks = checked()
    assert set(checks) == {A_A, FOUND_2, FOUND_5, COVER, BEATS, STILL}
    assert [check.passed for check in checks.values()] == [True] * 6


@pytest.mark.parametrize(("of", "allowed"), [(40, 6), (10, 3), (1, 1)])
def test_so_few_of_a_a_may_be_significant_as_chance_brings_about_in_99_of_100_cases(of, allowed):
    tail = sum(math.comb(of, n) * 0.05**n * 0.95 ** (of - n) for n in range(allowed + 1))
    assert tail >= 0.99 > tail - math.comb(of, allowed) * 0.05**allowed * 0.95 ** (of - allowed)
    assert checked(a_a(allowed, of))[A_A] == Check(A_A, f"{allowed} of {of}", f"at most {allowed}", True)


def test_one_more_significant_contrast_fails_a_a():
    assert checked(a_a(7))[A_A] == Check(A_A, "7 of 40", "at most 6", False)
    assert checked(a_a(4, of=10))[A_A].passed is False


def test_a_a_is_significant_in_either_direction_and_not_where_a_bound_is_1():
    same = [contrast(selftest.UNCACHED_COPY, speedup, 0.25) for speedup in (0.5, 1.5, 1.25, 0.75, 1.0)]
    assert checked(same)[A_A].seen == "2 of 5"


def test_without_any_contrast_a_a_has_failed():
    assert checked([cell(engine=selftest.UNCACHED_COPY), cell()])[A_A] == Check(A_A, "0 of 0", "at most 0", False)


@pytest.mark.parametrize(("engine", "name", "least"), [(TWO, FOUND_2, 8), (FIVE, FOUND_5, 9)])
def test_a_delay_is_found_where_the_whole_interval_is_below_1_often_enough(engine, name, least):
    for found in (least, least - 1):
        truth = delayed(engine, found) + delayed(engine, 10 - found, half=0.2)
        assert checked(truth=truth)[name] == Check(name, f"{found} of 10", f"at least {least}", found == least)


def test_each_delay_is_looked_for_by_itself():
    checks = checked(truth=delayed(TWO, 4, half=0.2) + delayed(FIVE, 6))
    assert (checks[FOUND_2].seen, checks[FOUND_5].seen) == ("0 of 4", "6 of 6")
    assert (checks[FOUND_2].passed, checks[FOUND_5].passed) == (False, True)


def test_an_arm_that_came_out_faster_is_no_delay_found():
    assert checked(truth=[contrast(TWO, 1.5, 0.1)] * 10)[FOUND_2].seen == "0 of 10"


def test_intervals_must_cover_the_ratio_that_the_delay_makes():
    off = delayed(FIVE, 1, apart=0.006)
    assert checked(truth=delayed(TWO, 5) + delayed(FIVE, 4) + off)[COVER] == Check(COVER, "9 of 10", "at least 9", True)
    assert checked(truth=delayed(TWO, 5) + delayed(FIVE, 3) + off * 2)[COVER] == Check(COVER, "8 of 10", "at least 9", False)
    wrong_way = [contrast(TWO, 1 + 0.02, 0.01)] * 10
    assert checked(truth=wrong_way)[COVER].seen == "0 of 10"


def test_a_delay_without_an_interval_is_not_counted():
    truth = [*delayed(TWO, 5), cell(engine=TWO), cell(engine=FIVE, status="error")]
    checks = checked(truth=truth)
    assert (checks[FOUND_2].seen, checks[COVER].seen) == ("5 of 5", "5 of 5")
    assert checks[FOUND_5] == Check(FOUND_5, "not checked", "at least 0", None)


@pytest.mark.parametrize("error", [0.0099, -0.0099])
def test_a_known_duration_is_met_within_one_percent_whatever_the_batch(error):
    for batch_size in (1, 8):
        assert checked(truth=beats(*[error] * 10, batch_size=batch_size))[BEATS].seen == "10 of 10"


@pytest.mark.parametrize("error", [0.0101, -0.0101, 0.5])
def test_a_known_duration_that_is_missed_too_often_fails(error):
    assert checked(truth=beats(*[0.0] * 9, error))[BEATS] == Check(BEATS, "9 of 10", "at least 9", True)
    assert checked(truth=beats(*[0.0] * 8, error, error))[BEATS] == Check(BEATS, "8 of 10", "at least 9", False)


def test_what_cannot_be_checked_here_is_neither_passed_nor_failed():
    skipped = [cell(engine=engine, status="skipped") for engine in (TWO, FIVE, FIXED_DURATION)]
    checks = checked(truth=skipped)
    assert [checks[name].passed for name in (FOUND_2, FOUND_5, COVER, BEATS)] == [None] * 4
    assert [checks[name].seen for name in (FOUND_2, FOUND_5, COVER, BEATS)] == ["not checked"] * 4
    assert (checks[A_A].passed, checks[STILL].passed) == (True, True)


@pytest.mark.parametrize("status", ["unstable", "no_steady_state"])
def test_too_many_disturbed_cells_of_either_sweep_fail(status):
    def statuses(same, truth):
        cells = a_a(0, of=9), delayed(TWO, 10)
        disturbed = [
            [replace(each, status=status) for each in some[:n]] + some[n:] for some, n in zip(cells, (same, truth), strict=True)
        ]
        return checked(*disturbed)[STILL]

    assert statuses(1, 1) == Check(STILL, "18 of 20", "at least 18", True)
    assert statuses(2, 1) == Check(STILL, "17 of 20", "at least 18", False)
    assert statuses(0, 3).passed is False


def test_an_imprecise_cell_is_not_a_disturbed_one():
    assert checked([replace(each, status="imprecise") for each in a_a(0)])[STILL].passed is True


@pytest.mark.parametrize(("yes", "of", "least"), [(9, 10, 9), (18, 20, 18), (2, 2, 2), (1, 1, 1), (3, 3, 3)])
def test_the_least_number_of_yes_is_the_share_rounded_up(yes, of, least):
    assert selftest.at_least("name", [True] * yes + [False] * (of - yes), 0.9) == Check(
        "name", f"{yes} of {of}", f"at least {least}", True
    )
    assert selftest.at_least("name", [True] * (least - 1) + [False] * (of - least + 1), 0.9).passed is False

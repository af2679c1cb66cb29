"""Curves over batch sizes: which size is measured next, what lies between, and whether the intervals contain the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import curve_families as families
from nanobench.stats.curve import Known, interpolate, next_size

fixed = settings(derandomize=True, deadline=None, database=None, max_examples=30)
CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE = 0.015
SMOOTH = [name for name in families.FAMILIES if "step" not in name and "padded" not in name and "sharp" not in name]
seeds = st.integers(0, 10_000)
names = st.sampled_from(list(families.FAMILIES))


def known(values, sd=0.0):
    """A curve of values, as logs."""
    return {size: Known(math.log(value), sd) for size, value in values.items()}


def order(truth, candidates=CANDIDATES, tolerance=TOLERANCE, most=None):
    """The sizes that are measured, in order."""
    found = {}
    while (size := next_size([found], candidates, tolerance, most)) is not None:
        found[size] = Known(truth(size))
    return list(found)


def made(name, seed):
    return families.FAMILIES[name](np.random.default_rng(seed))


def simulated(name, noise, candidates, runs=20, most=None):
    found = []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        truth = families.FAMILIES[name](random)
        found.append(families.swept(truth, noise, random, candidates, TOLERANCE, most))
    return found


def deviations(found):
    return [each.deviation for each in found]


# The next size


def test_both_ends_come_first_then_the_middle_of_the_logs():
    assert next_size([], CANDIDATES, TOLERANCE) == 1
    assert next_size([known({1: 2})], CANDIDATES, TOLERANCE) == 64
    assert next_size([known({1: 2, 64: 2})], CANDIDATES, TOLERANCE) == 8


def test_two_equal_ends_are_not_enough_but_three_equal_values_are():
    assert order(lambda size: 0.7) == [1, 64, 8]


def test_a_power_law_is_checked_at_more_sizes_than_a_flat_curve():
    assert len(order(math.log)) > 3


def test_the_search_ends_beside_a_step():
    found = order(lambda size: 0.08 * (size >= 20), range(1, 49))
    assert {19, 20} <= set(found)
    assert len(found) <= 14


def test_no_more_is_measured_than_the_limit():
    assert len(order(lambda size: 0.3 * (size % 2), range(1, 49), most=6)) == 6
    assert order(math.log, most=0) == []


def test_nothing_is_left_when_all_candidates_are_measured():
    assert next_size([known(dict.fromkeys(CANDIDATES, 2.0))], CANDIDATES, TOLERANCE) is None
    assert next_size([], [], TOLERANCE) is None
    assert order(math.log, [4]) == [4]
    assert order(math.log, [4, 8]) == [4, 8]


def test_a_step_that_noise_would_hide_is_not_looked_for():
    values = {1: 1.0, 8: 1.0, 64: 1.03}
    assert next_size([known(values)], CANDIDATES, 0.005) is not None
    assert next_size([known(values, sd=0.03)], CANDIDATES, 0.005) is None


def test_the_least_certain_of_several_curves_decides():
    flat, bent = known({1: 2, 8: 2, 64: 2}), known({1: 1, 8: 4, 64: 5})
    alone = next_size([bent], CANDIDATES, TOLERANCE)
    assert next_size([flat], CANDIDATES, TOLERANCE) is None
    assert next_size([flat, bent], CANDIDATES, TOLERANCE) == next_size([bent, flat], CANDIDATES, TOLERANCE) == alone


def test_a_curve_that_failed_at_some_sizes_decides_only_within_what_it_has():
    whole, part = known({1: 2, 8: 2, 64: 2}), known({1: 1, 8: 4})
    assert next_size([whole, part], CANDIDATES, TOLERANCE) is None
    bent = known({1: 1, 4: 1, 8: 4})
    assert next_size([known({1: 2, 4: 2, 8: 2, 64: 2}), bent], CANDIDATES, TOLERANCE) == 2


@pytest.mark.parametrize(("candidates", "tolerance"), [((1, 4), 0.0), ((0, 4), 0.01), ((-1, 4), 0.01)])
def test_sizes_and_tolerances_are_above_0(candidates, tolerance):
    with pytest.raises(ValueError, match="above 0"):
        next_size([], candidates, tolerance)


@fixed
@given(names, seeds, st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_candidates_do_not_matter(name, seed, random):
    truth = made(name, seed)
    mixed = [*families.EVERY, *families.EVERY[:5]]
    random.shuffle(mixed)
    assert order(truth, mixed) == order(truth, families.EVERY)


@fixed
@given(names, seeds, st.floats(-10, 10))
def test_the_unit_of_the_values_does_not_matter(name, seed, shift):
    truth = made(name, seed)
    assert order(lambda size: truth(size) + shift, families.EVERY) == order(truth, families.EVERY)


@fixed
@given(names, seeds)
def test_no_candidate_is_measured_twice_and_a_smaller_tolerance_never_ends_earlier(name, seed):
    truth = made(name, seed)
    loose, strict = (order(truth, families.EVERY, tolerance) for tolerance in (0.03, 0.01))
    assert len(set(strict)) == len(strict)
    assert strict[: len(loose)] == loose


# Interpolation


def test_a_measured_size_has_its_measured_value_and_interval():
    found = interpolate(known({1: 2.0, 8: 6.0, 64: 10.0}, sd=0.01), [1, 8, 64])
    assert [each.value for each in found.values()] == pytest.approx([2, 6, 10])
    assert found[8].low == pytest.approx(6 * math.exp(-0.0196), rel=1e-4)
    assert found[8].high == pytest.approx(6 * math.exp(0.0196), rel=1e-4)


def test_a_power_law_is_interpolated_exactly():
    found = interpolate(known({1: 1.0, 4: 2.0, 64: 8.0}), [2, 16])
    assert found[2].value == pytest.approx(math.sqrt(2))
    assert found[16].value == pytest.approx(4)


def test_a_parabola_in_the_logs_is_interpolated_exactly_where_it_does_not_turn():
    def truth(size):
        return math.log(size) - 0.05 * math.log(size) ** 2

    found = interpolate({size: Known(truth(size)) for size in (1, 8, 64)}, [2, 32])
    assert {size: math.log(each.value) for size, each in found.items()} == pytest.approx({2: truth(2), 32: truth(32)})


def test_a_step_is_wide_in_its_gap_and_nowhere_else():
    found = interpolate(known({1: 1, 2: 1, 4: 1, 32: 1.1, 64: 1.1, 128: 1.1}), [3, 11, 90])
    assert found[11].low < 1 < 1.1 < found[11].high
    assert found[3].high / found[3].low < 1.045
    assert found[90].high / found[90].low < 1.045


def test_after_several_steps_every_gap_may_have_one():
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    once = {size: 1.1 if size >= 8 else 1.0 for size in sizes}
    often = {size: 1.1 if n % 4 in (1, 2) else 1.0 for n, size in enumerate(sizes)}
    narrow, wide = (interpolate(known(values), [182])[182] for values in (once, often))
    assert wide.high / wide.low > 2 * narrow.high / narrow.low - 1 > 1


def test_noise_of_the_neighbours_widens_the_interval():
    quiet, noisy = (interpolate(known({1: 2, 8: 2, 64: 2}, sd), [4])[4] for sd in (0.001, 0.02))
    assert quiet.high / quiet.low < noisy.high / noisy.low


def test_nothing_is_extrapolated_and_two_sizes_are_not_a_curve():
    with pytest.raises(ValueError, match="batch size 65 is outside the measured 1 to 64"):
        interpolate(known({1: 1, 8: 2, 64: 3}), [4, 65])
    with pytest.raises(ValueError, match="at least 3 measured batch sizes, not 2"):
        interpolate(known({1: 1, 64: 3}), [8])
    assert interpolate(known({1: 1, 8: 2, 64: 3}), []) == {}


@fixed
@given(st.lists(st.floats(0, 1), min_size=3, max_size=7), st.booleans())
def test_between_values_that_rise_it_rises_and_stays_between_them(steps, falls):
    logs = np.cumsum(steps) * (-1 if falls else 1)
    sizes = [1, 3, 7, 20, 45, 60, 96][: len(steps)]
    every = range(1, sizes[-1] + 1)
    found = interpolate({size: Known(float(log)) for size, log in zip(sizes, logs, strict=True)}, every)
    values = np.array([found[size].value for size in every])
    assert (np.diff(values) * (-1 if falls else 1) >= -1e-9 * values[1:]).all()
    assert all(each.low <= each.value <= each.high for each in found.values())


# Simulations with a known truth


@pytest.mark.parametrize("candidates", [families.EVERY_FOURTH, families.EVERY])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_curve_is_within_3_percent_from_few_sizes(name, candidates):
    found = simulated(name, 0.0, candidates)
    assert max(deviations(found)) < 0.03
    assert np.mean([len(each.measured) for each in found]) < 9
    assert np.mean([each.covered for each in found]) > 0.95


@pytest.mark.parametrize("name", [name for name in SMOOTH if "knee" not in name and "loss" not in name])
def test_six_of_24_are_enough_for_most_curves(name):
    found = simulated(name, 0.0, families.EVERY_FOURTH, most=6)
    assert max(deviations(found)) < 0.03


@pytest.mark.parametrize("name", SMOOTH)
def test_intervals_contain_the_truth_beside_noise(name):
    assert np.mean([each.covered for each in simulated(name, 0.01, families.EVERY, runs=30)]) > 0.9


def test_a_sharp_knee_and_a_step_are_found_without_noise():
    for name in ("throughput, sharp knee", "flat with a step of 5 to 10 %"):
        assert np.median(deviations(simulated(name, 0.0, families.EVERY_FOURTH))) < 0.03


def test_too_few_sizes_for_a_step_leave_a_wide_interval():
    found = simulated("flat with a step of 5 to 10 %", 0.0, families.EVERY_FOURTH, most=6)
    assert np.mean([each.covered for each in found]) > 0.9
    assert all(each.reach > 0.5 * each.deviation for each in found)


# What was measured


def test_the_interval_of_a_value_gives_its_standard_error():
    assert Known.of(4.0, 4.0 * math.exp(-1.96 * 0.02), 4.0 * math.exp(1.96 * 0.02)) == pytest.approx(
        (math.log(4), 0.02), rel=1e-4
    )
    assert interpolate({1: Known.of(2, 1.9, 2.1), 8: Known.of(3, 2.9, 3.1), 9: Known.of(4, 3.9, 4.1)}, [8])[8].low == (
        pytest.approx(2.9, rel=1e-3)
    )


@pytest.mark.parametrize(("low", "high"), [(None, None), (math.nan, math.nan), (0.0, 5.0), (-1.0, 5.0)])
def test_without_bounds_the_standard_error_is_not_known(low, high):
    assert Known.of(4.0, low, high) == Known(math.log(4), 0.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_value_that_has_no_log_is_refused(value):
    with pytest.raises(ValueError, match="must be above 0"):
        Known.of(value, None, None)

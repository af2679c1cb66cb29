"""Orders that cancel drift, and intervals that cover what they promise."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanobench import stats

fixed = settings(derandomize=True, deadline=None, database=None)
logs = st.floats(-3, 3, allow_subnormal=False)
launches = st.lists(st.lists(logs, min_size=1, max_size=8), min_size=1, max_size=6)
seeds = st.text("ab0 é", max_size=5)
SEEDS = [f"trial-{number}" for number in range(40)]


def first_orders(arms, seed, blocks=8):
    return list(itertools.islice(stats.orders(arms, seed), blocks))


def two_by_two(blocks):
    return list(zip(blocks[::2], blocks[1::2], strict=True))


def same(interval, other):
    """Whether two intervals agree but for rounding."""
    assert interval.basis == other.basis
    assert (interval.low is None) == (other.low is None)
    numbers = [(interval.value, other.value), (interval.low, other.low), (interval.high, other.high)]
    return all(a == b or math.isclose(a, b, rel_tol=1e-9) for a, b in numbers)


# Orders


@fixed
@given(st.integers(1, 7), seeds)
def test_every_block_runs_every_arm_once_and_every_second_block_reverses_the_one_before(arms, seed):
    found = first_orders(arms, seed)
    assert all(sorted(order) == list(range(arms)) for order in found)
    assert all(odd == even[::-1] for even, odd in two_by_two(found))


def test_two_arms_run_as_abba_or_baab_and_both_occur():
    patterns = {tuple(a + b) for seed in SEEDS for a, b in two_by_two(first_orders(2, seed))}
    assert patterns == {(0, 1, 1, 0), (1, 0, 0, 1)}


def test_each_arm_begins_about_as_many_blocks_as_any_other():
    begins = [order[0] for seed in SEEDS for order in first_orders(4, seed, blocks=30)]
    assert all(0.2 < begins.count(arm) / len(begins) < 0.3 for arm in range(4))


@fixed
@given(st.integers(2, 6), seeds, st.floats(-5, 5))
def test_a_linear_drift_falls_on_all_arms_alike_over_each_two_blocks(arms, seed, slope):
    for pair, blocks in enumerate(two_by_two(first_orders(arms, seed))):
        drift = dict.fromkeys(range(arms), 0.0)
        for place, arm in enumerate(itertools.chain(*blocks), start=2 * arms * pair):
            drift[arm] += slope * place
        assert list(drift.values()) == pytest.approx([drift[0]] * arms, abs=1e-9)


def test_a_seed_fixes_the_orders_and_another_seed_changes_them():
    assert first_orders(3, "a", 50) == first_orders(3, "a", 50)
    assert first_orders(3, "a", 50) != first_orders(3, "b", 50)


# Intervals of a mean


def test_the_interval_of_1_to_5_is_3_plus_or_minus_1_9632():
    # sd = sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.776445
    mean, low, high = stats.t_interval([1, 2, 3, 4, 5])
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - 1.963243, 3.0 + 1.963243), abs=1e-6)
    assert stats.half_width([1, 2, 3, 4, 5]) == pytest.approx(1.963243, abs=1e-6)


def test_the_interval_of_two_values_uses_one_degree_of_freedom():
    # half the difference is the standard error; t(0.975, 1) = 12.706205
    assert stats.half_width([10.0, 12.0]) == pytest.approx(12.706205, abs=1e-6)


@fixed
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_interval_is_the_one_of_scipys_t_test(values):
    assume(np.std(values) > 1e-6)
    interval = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert stats.t_interval(values) == pytest.approx((np.mean(values), interval.low, interval.high), rel=1e-9, abs=1e-9)


def test_one_value_has_no_bounds_and_an_infinite_half_width():
    assert stats.t_interval([4.0]) == (4.0, None, None)
    assert stats.half_width([4.0]) == math.inf


def test_equal_values_have_an_interval_without_width():
    assert stats.t_interval([4.0] * 3) == (4.0, 4.0, 4.0)
    assert stats.half_width([4.0] * 3) == 0.0


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="no values"):
        stats.t_interval([])


# Ratios


def test_one_launch_gives_an_interval_over_its_pairs_and_says_so():
    pairs = [math.log(1.9), math.log(2.0), math.log(2.2)]
    ratio = stats.ratio([pairs])
    mean, low, high = stats.t_interval(pairs)
    assert ratio.basis == "pairs of one process"
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((math.exp(mean), math.exp(low), math.exp(high)))


def test_several_launches_give_an_interval_over_their_means_however_many_pairs_each_holds():
    few_and_many = [[math.log(2)], [math.log(8)] * 99, [math.log(2), math.log(8)]]
    ratio = stats.ratio(few_and_many)
    mean, low, high = stats.t_interval([math.log(2), math.log(8), math.log(4)])
    assert ratio.basis == "launches"
    assert ratio.value == pytest.approx(4.0)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.low < math.exp(mean) < ratio.high


def test_ratios_are_averaged_geometrically():
    assert stats.ratio([[math.log(0.5), math.log(2.0)]]).value == pytest.approx(1.0)


def test_one_pair_has_a_ratio_without_bounds():
    ratio = stats.ratio([[math.log(3.0)]])
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(3.0), None, None)


def test_one_pair_in_each_of_two_launches_has_bounds():
    ratio = stats.ratio([[0.0], [0.1]])
    assert ratio.low < ratio.value < ratio.high


@pytest.mark.parametrize("empty", [[], [[]], [[0.1], []], [[], [0.1]]])
def test_a_launch_without_pairs_is_refused(empty):
    with pytest.raises(ValueError, match="without a pair"):
        stats.ratio(empty)


@fixed
@given(logs, st.lists(st.integers(2, 6), min_size=1, max_size=5))
def test_without_variance_the_bounds_are_the_ratio_itself(log, sizes):
    ratio = stats.ratio([[log] * size for size in sizes])
    assert (ratio.low, ratio.high) == pytest.approx((ratio.value, ratio.value), rel=1e-6)
    assert ratio.value == pytest.approx(math.exp(log))


@fixed
@given(launches)
def test_swapping_the_arms_inverts_the_ratio_and_swaps_its_bounds(logs_by_launch):
    ratio = stats.ratio(logs_by_launch)
    swapped = stats.ratio([[-log for log in pairs] for pairs in logs_by_launch])
    bounds = (None, None) if ratio.low is None else (1 / ratio.high, 1 / ratio.low)
    assert same(swapped, stats.Interval(1 / ratio.value, *bounds, ratio.basis))


@fixed
@given(launches, st.floats(0.1, 10))
def test_an_arm_that_is_so_many_times_faster_scales_the_ratio_and_both_bounds(logs_by_launch, factor):
    ratio = stats.ratio(logs_by_launch)
    scaled = stats.ratio([[log + math.log(factor) for log in pairs] for pairs in logs_by_launch])
    bounds = (None, None) if ratio.low is None else (factor * ratio.low, factor * ratio.high)
    assert same(scaled, stats.Interval(factor * ratio.value, *bounds, ratio.basis))


@fixed
@given(launches, st.randoms(use_true_random=False))
def test_neither_the_order_of_pairs_nor_of_launches_matters(logs_by_launch, random):
    shuffled = [random.sample(pairs, len(pairs)) for pairs in random.sample(logs_by_launch, len(logs_by_launch))]
    assert same(stats.ratio(shuffled), stats.ratio(logs_by_launch))


@fixed
@given(launches, st.integers(2, 4))
def test_repeating_the_pairs_of_a_launch_changes_nothing_where_there_are_several_launches(logs_by_launch, times):
    assume(len(logs_by_launch) > 1)
    assert same(stats.ratio([logs_by_launch[0] * times, *logs_by_launch[1:]]), stats.ratio(logs_by_launch))


@fixed
@given(launches)
def test_the_ratio_lies_inside_its_bounds(logs_by_launch):
    ratio = stats.ratio(logs_by_launch)
    if ratio.low is not None:
        assert ratio.low <= ratio.value * (1 + 1e-12)
        assert ratio.value <= ratio.high * (1 + 1e-12)


def covers(ratio, truth):
    return ratio.low <= truth <= ratio.high


def test_launch_means_cover_the_truth_95_times_in_100_and_pairs_taken_as_independent_do_not():
    # Five launches of six pairs; a process is off by 1 % of its own, a pair by another 1 %.
    generator, truth, runs = np.random.default_rng(20240607), 1.7, 2000
    by_launch = by_pair = 0
    for _ in range(runs):
        offsets = generator.normal(math.log(truth), 0.01, size=(5, 1))
        pairs = offsets + generator.normal(0.0, 0.01, size=(5, 6))
        by_launch += covers(stats.ratio(pairs.tolist()), truth)
        by_pair += covers(stats.ratio([pairs.ravel().tolist()]), truth)
    assert 0.93 <= by_launch / runs <= 0.97
    assert by_pair / runs < 0.85


# Middle and spread


def test_the_median_is_the_middle_value_and_none_of_nothing():
    assert stats.median([]) is None
    assert stats.median([5.0]) == 5.0
    assert stats.median([9.0, 1.0, 2.0]) == 2.0
    assert stats.median([1.0, 2.0, 4.0, 100.0]) == 3.0


def test_the_relative_interquartile_range_is_a_share_of_the_median():
    assert stats.relative_iqr([5.0, 1.0, 4.0, 2.0, 3.0]) == pytest.approx((4 - 2) / 3)
    assert stats.relative_iqr([2.0] * 4) == 0.0


def test_three_values_have_no_interquartile_range():
    assert stats.relative_iqr([1.0, 2.0, 3.0]) is None
    assert stats.relative_iqr([1.0, 2.0, 3.0, 4.0]) is not None


@fixed
@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=12), st.floats(0.01, 100))
def test_the_relative_interquartile_range_knows_no_unit(values, factor):
    scaled = stats.relative_iqr([factor * value for value in values])
    assert scaled == pytest.approx(stats.relative_iqr(values), rel=1e-6, abs=1e-9)

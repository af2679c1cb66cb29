"""Orders that cancel drift, and intervals that cover what they promise."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanobench.stats import intervals

fixed = settings(derandomize=True, deadline=None, database=None)
logs = st.floats(-3, 3, allow_subnormal=False)
launches = st.lists(st.lists(logs, min_size=1, max_size=8), min_size=1, max_size=6)
seeds = st.text("ab0 é", max_size=5)
unlike = st.lists(st.integers(-999, 999), min_size=6, max_size=60, unique=True)
SEEDS = [f"trial-{number}" for number in range(40)]


def first_orders(arms, seed, blocks=8):
    return list(itertools.islice(intervals.orders(arms, seed), blocks))


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
    mean, low, high = intervals.t_interval([1, 2, 3, 4, 5])
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - 1.963243, 3.0 + 1.963243), abs=1e-6)
    assert intervals.half_width([1, 2, 3, 4, 5]) == pytest.approx(1.963243, abs=1e-6)


def test_the_interval_of_two_values_uses_one_degree_of_freedom():
    # half the difference is the standard error; t(0.975, 1) = 12.706205
    assert intervals.half_width([10.0, 12.0]) == pytest.approx(12.706205, abs=1e-6)


@fixed
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_interval_is_the_one_of_scipys_t_test(values):
    assume(np.std(values) > 1e-6)
    interval = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert intervals.t_interval(values) == pytest.approx((np.mean(values), interval.low, interval.high), rel=1e-9, abs=1e-9)


def test_one_value_has_no_bounds_and_an_infinite_half_width():
    assert intervals.t_interval([4.0]) == (4.0, None, None)
    assert intervals.half_width([4.0]) == math.inf


def test_equal_values_have_an_interval_without_width():
    assert intervals.t_interval([4.0] * 3) == (4.0, 4.0, 4.0)
    assert intervals.half_width([4.0] * 3) == 0.0


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="at least one value"):
        intervals.t_interval([])


# Ratios


def test_one_launch_gives_an_interval_over_its_pairs_and_says_so():
    pairs = [math.log(1.9), math.log(2.0), math.log(2.2)]
    ratio = intervals.ratio([pairs])
    mean, low, high = intervals.t_interval(pairs)
    assert ratio.basis == "pairs of one process"
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((math.exp(mean), math.exp(low), math.exp(high)))


def test_several_launches_give_an_interval_over_their_means_however_many_pairs_each_holds():
    few_and_many = [[math.log(2)], [math.log(8)] * 99, [math.log(2), math.log(8)]]
    ratio = intervals.ratio(few_and_many)
    mean, low, high = intervals.t_interval([math.log(2), math.log(8), math.log(4)])
    assert ratio.basis == "launches"
    assert ratio.value == pytest.approx(4.0)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.low < math.exp(mean) < ratio.high


def test_ratios_are_averaged_geometrically():
    assert intervals.ratio([[math.log(0.5), math.log(2.0)]]).value == pytest.approx(1.0)


def test_one_pair_has_a_ratio_without_bounds():
    ratio = intervals.ratio([[math.log(3.0)]])
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(3.0), None, None)


def test_one_pair_in_each_of_two_launches_has_bounds():
    ratio = intervals.ratio([[0.0], [0.1]])
    assert ratio.low < ratio.value < ratio.high


@pytest.mark.parametrize("empty", [[], [[]], [[0.1], []], [[], [0.1]]])
def test_a_launch_without_pairs_is_refused(empty):
    with pytest.raises(ValueError, match="at least one pair"):
        intervals.ratio(empty)


@fixed
@given(logs, st.lists(st.integers(2, 6), min_size=1, max_size=5))
def test_without_variance_the_bounds_are_the_ratio_itself(log, sizes):
    ratio = intervals.ratio([[log] * size for size in sizes])
    assert (ratio.low, ratio.high) == pytest.approx((ratio.value, ratio.value), rel=1e-6)
    assert ratio.value == pytest.approx(math.exp(log))


@fixed
@given(launches)
def test_swapping_the_arms_inverts_the_ratio_and_swaps_its_bounds(logs_by_launch):
    ratio = intervals.ratio(logs_by_launch)
    swapped = intervals.ratio([[-log for log in pairs] for pairs in logs_by_launch])
    bounds = (None, None) if ratio.low is None else (1 / ratio.high, 1 / ratio.low)
    assert same(swapped, intervals.Interval(1 / ratio.value, *bounds, ratio.basis))


@fixed
@given(launches, st.floats(0.1, 10))
def test_an_arm_that_is_so_many_times_faster_scales_the_ratio_and_both_bounds(logs_by_launch, factor):
    ratio = intervals.ratio(logs_by_launch)
    scaled = intervals.ratio([[log + math.log(factor) for log in pairs] for pairs in logs_by_launch])
    bounds = (None, None) if ratio.low is None else (factor * ratio.low, factor * ratio.high)
    assert same(scaled, intervals.Interval(factor * ratio.value, *bounds, ratio.basis))


@fixed
@given(launches, st.randoms(use_true_random=False))
def test_neither_the_order_of_pairs_nor_of_launches_matters(logs_by_launch, random):
    shuffled = [random.sample(pairs, len(pairs)) for pairs in random.sample(logs_by_launch, len(logs_by_launch))]
    assert same(intervals.ratio(shuffled), intervals.ratio(logs_by_launch))


@fixed
@given(launches, st.integers(2, 4))
def test_repeating_the_pairs_of_a_launch_changes_nothing_where_there_are_several_launches(logs_by_launch, times):
    assume(len(logs_by_launch) > 1)
    assert same(intervals.ratio([logs_by_launch[0] * times, *logs_by_launch[1:]]), intervals.ratio(logs_by_launch))


@fixed
@given(launches)
def test_the_ratio_lies_inside_its_bounds(logs_by_launch):
    ratio = intervals.ratio(logs_by_launch)
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
        by_launch += covers(intervals.ratio(pairs.tolist()), truth)
        by_pair += covers(intervals.ratio([pairs.ravel().tolist()]), truth)
    assert 0.93 <= by_launch / runs <= 0.97
    assert by_pair / runs < 0.85


# p values


def test_the_p_value_of_three_pairs_is_the_one_worked_out_by_hand():
    # mean 0.02, sd 0.01, standard error 0.01 / sqrt(3), t = 3.4641; with two degrees of freedom p = 1 - t / sqrt(t**2 + 2)
    assert intervals.p_value([[0.01, 0.02, 0.03]]) == pytest.approx(1 - math.sqrt(12 / 14))


def test_the_p_value_of_several_launches_is_over_their_means():
    assert intervals.p_value([[0.0, 0.02], [0.02], [0.03] * 9]) == pytest.approx(1 - math.sqrt(12 / 14))


def test_one_observation_has_no_p_value():
    assert intervals.p_value([[0.3]]) is None


@pytest.mark.parametrize("by_launch", [[[0.25] * 4], [[0.25], [0.25, 0.25]], [[-0.5, 1.0], [0.25]]])
def test_without_variance_a_difference_is_certain(by_launch):
    assert intervals.p_value(by_launch) == 0.0


@pytest.mark.parametrize("by_launch", [[[0.0] * 4], [[0.0], [0.5, -0.5]], [[0.1, 0.2, -0.3], [0.3, -0.1, -0.2], [0.0]]])
def test_without_variance_and_without_difference_nothing_is_found_and_rounding_is_no_difference(by_launch):
    assert intervals.p_value(by_launch) == 1.0


@pytest.mark.parametrize("empty", [[], [[]], [[0.1], []]])
@pytest.mark.parametrize("estimate", [intervals.p_value, intervals.components, intervals.trimmed_ratio])
def test_no_estimate_takes_a_launch_without_pairs(estimate, empty):
    with pytest.raises(ValueError, match="at least one pair"):
        estimate(empty)


@fixed
@given(launches)
def test_the_p_value_is_below_5_percent_exactly_where_the_interval_excludes_1(logs_by_launch):
    ratio, p = intervals.ratio(logs_by_launch), intervals.p_value(logs_by_launch)
    if p is None:
        assert ratio.low is None
        return
    assume(abs(math.log(ratio.value)) > 1e-9 and abs(p - 0.05) > 1e-9)
    assert (p < 0.05) == (not ratio.low <= 1 <= ratio.high)


@fixed
@given(launches, st.randoms(use_true_random=False))
def test_neither_swapped_arms_nor_another_order_change_the_p_value(logs_by_launch, random):
    changed = [
        [-log for log in random.sample(pairs, len(pairs))] for pairs in random.sample(logs_by_launch, len(logs_by_launch))
    ]
    p = intervals.p_value(logs_by_launch)
    assume(p is None or max(abs(log) for pairs in logs_by_launch for log in pairs) > 1e-6)
    assert intervals.p_value(changed) == (p if p is None else pytest.approx(p, rel=1e-6, abs=1e-12))


def test_without_a_difference_p_values_are_uniform():
    generator = np.random.default_rng(31)
    runs = generator.normal(0, 0.02, (2000, 5, 1)) + generator.normal(0, 0.02, (2000, 5, 4))
    found = [intervals.p_value(run.tolist()) for run in runs]
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.035 <= np.mean(np.less(found, 0.05)) <= 0.065


# Many contrasts


def test_holm_multiplies_the_smallest_most_and_never_turns_back():
    # sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not fall below 0.06
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_knows_one_and_none():
    assert intervals.holm([]) == []
    assert intervals.holm([0.2]) == [0.2]


@fixed
@given(st.lists(st.floats(0, 1), max_size=12), st.randoms(use_true_random=False))
def test_adjusted_p_values_are_at_most_1_not_smaller_than_given_and_in_the_same_order(values, random):
    adjusted = intervals.holm(values)
    assert all(value <= new <= 1 for value, new in zip(values, adjusted, strict=True))
    assert [new for _, new in sorted(zip(values, adjusted, strict=True))] == sorted(adjusted)
    places = random.sample(range(len(values)), len(values))
    assert intervals.holm([values[place] for place in places]) == [adjusted[place] for place in places]


@pytest.mark.parametrize("different", [0, 3])
def test_holm_keeps_the_chance_of_any_false_positive_at_5_percent_and_unadjusted_values_do_not(different):
    p_values = np.random.default_rng(7).uniform(size=(2000, 8))
    p_values[:, :different] = 1e-6
    raw = np.mean(p_values[:, different:].min(axis=1) < 0.05)
    adjusted = np.mean([min(intervals.holm(list(row))[different:]) < 0.05 for row in p_values])
    assert adjusted <= 0.065
    assert raw > 0.2


# Within and between launches


def test_components_of_two_launches_are_those_worked_out_by_hand():
    # within: (0.5 + 2) / 2 = 1.25; launch means 0.5 and 4, variance 6.125, of which 1.25 / 2 comes from within
    found = intervals.components([[0, 1], [3, 5]])
    assert (found.within**2, found.between**2, found.pairs) == pytest.approx((1.25, 6.125 - 0.625, 2))
    assert found.ci_advice == "more launches"


def test_unequal_launches_are_pooled_and_count_by_the_mean_of_1_over_their_pairs():
    # squares 2 over 2 degrees of freedom; means 1 and 5, variance 8; mean of 1/3 and 1/1 is 2/3
    found = intervals.components([[0, 1, 2], [5]])
    assert (found.within**2, found.between**2, found.pairs) == pytest.approx((1, 8 - 2 / 3, 1.5))


def test_launches_closer_than_their_pairs_explain_do_not_differ_and_call_for_repetitions():
    found = intervals.components([[-1, 1], [-2, 2], [0, 0.1]])
    assert found.between == 0
    assert found.ci_advice == "more repetitions"


def test_one_launch_tells_nothing_between_and_single_pairs_tell_nothing_at_all():
    assert intervals.components([[0.0, 2.0]]) == intervals.Components(pytest.approx(math.sqrt(2)), None, pytest.approx(2))
    assert intervals.components([[0.0, 2.0]]).ci_advice is None
    assert intervals.components([[0.0], [2.0]]) is None
    assert intervals.components([[1.0]]) is None


@fixed
@given(launches, st.floats(-2, 2), st.randoms(use_true_random=False))
def test_components_know_neither_the_arms_order_nor_the_ratio_nor_the_launches_order(logs_by_launch, shift, random):
    changed = [
        [shift - log for log in random.sample(pairs, len(pairs))]
        for pairs in random.sample(logs_by_launch, len(logs_by_launch))
    ]
    found, other = intervals.components(logs_by_launch), intervals.components(changed)
    assert (found is None) == (other is None)
    if found is not None:
        assert (found.between is None) == (other.between is None)
        numbers = [found.within, found.between or 0, found.pairs]
        # A square root makes 1e-8 of the rounding of a variance.
        assert numbers == pytest.approx([other.within, other.between or 0, other.pairs], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("within", "between"), [(0.01, 0.03), (0.03, 0.01), (0.02, 0.0)])
@pytest.mark.parametrize("sizes", [(6, 6), (2, 10)])
def test_components_recover_known_standard_deviations(within, between, sizes):
    generator = np.random.default_rng(11)
    logs_by_launch = [
        generator.normal(generator.normal(0.4, between), within, sizes[number % 2]).tolist() for number in range(1000)
    ]
    found = intervals.components(logs_by_launch)
    assert found.within == pytest.approx(within, rel=0.05)
    assert found.between == pytest.approx(between, rel=0.1, abs=0.004)
    assert found.ci_advice == ("more launches" if between > within else "more repetitions")


# Trimmed means


def test_the_trimmed_ratio_leaves_out_one_of_five_at_either_end_of_each_launch():
    assert intervals.trimmed_ratio([[0.1, 0.2, 0.3, -50, 50], [0.4]]) == pytest.approx(math.exp(0.3))


def test_below_five_pairs_nothing_is_trimmed():
    assert intervals.trimmed_ratio([[0.0, 0.0, 0.0, 4.0]]) == pytest.approx(math.e)


@fixed
@given(launches)
def test_swapping_the_arms_inverts_the_trimmed_ratio(logs_by_launch):
    swapped = intervals.trimmed_ratio([[-log for log in pairs] for pairs in logs_by_launch])
    assert intervals.trimmed_ratio(logs_by_launch) == pytest.approx(1 / swapped)


# Launches needed


def power_of(launches, effect, within, between, pairs, runs=2000):
    """How often so many launches find the effect, on the right side."""
    generator = np.random.default_rng(launches)
    means = generator.normal(effect, math.hypot(between, within / math.sqrt(pairs)), (runs, launches))
    found = [(np.mean(each), intervals.p_value([[log] for log in each.tolist()])) for each in means]
    return np.mean([mean > 0 and p < 0.05 for mean, p in found])


@pytest.mark.parametrize(
    ("effect", "within", "between", "pairs"),
    [(0.02, 0.01, 0.01, 5), (0.05, 0.1, 0.0, 10), (0.02, 0.02, 0.02, 4), (0.03, 0.04, 0.03, 2.5)],
)
def test_the_launches_needed_are_enough_and_one_fewer_is_not(effect, within, between, pairs):
    needed = intervals.launches_needed(effect, within=within, between=between, pairs=pairs)
    assert 3 < needed <= 30
    assert power_of(needed, effect, within, between, pairs) >= 0.88
    assert power_of(needed - 1, effect, within, between, pairs) < 0.92


def test_at_least_3_launches_are_needed_and_beyond_30_is_no_answer():
    assert intervals.launches_needed(0.5, within=0.01, between=0.01, pairs=5) == 3
    assert intervals.launches_needed(0.5, within=0.0, between=0.0, pairs=5) == 3
    assert intervals.launches_needed(1e6, within=0.01, between=0.01, pairs=5) == 3
    assert intervals.launches_needed(0.001, within=0.1, between=0.1, pairs=5) is None
    assert intervals.launches_needed(0.0, within=0.1, between=0.1, pairs=5) is None
    assert intervals.launches_needed(0.0, within=0.0, between=0.0, pairs=5) is None


@fixed
@given(st.floats(0.005, 0.1), st.floats(0, 0.05), st.floats(0, 0.05), st.integers(1, 20))
def test_fewer_launches_are_needed_for_more_pairs_less_power_or_a_faster_arm_alike(effect, within, between, pairs):
    needed = intervals.launches_needed(effect, within=within, between=between, pairs=pairs)
    assert intervals.launches_needed(-effect, within=within, between=between, pairs=pairs) == needed
    if needed is not None:
        assert intervals.launches_needed(effect, within=within, between=between, pairs=pairs + 1) <= needed
        assert intervals.launches_needed(effect, within=within, between=between, pairs=pairs, power=0.8) <= needed


# Noise that has a course, and arms that are the same


def linear_drift(generator, slots):
    return generator.normal(0, 0.06) * np.linspace(0, 1, slots)


def thermal_ramp(generator, slots):
    return 0.03 * (1 - np.exp(-np.arange(slots) / (slots / 3)))


def on_off_neighbour(generator, slots):
    return 0.05 * (np.cumsum(generator.uniform(size=slots) < 0.1) % 2)


def false_positives(course, analyse, runs=2000, pairs=20):
    """How often equal arms differ at 5 %: 40 slots, 1 % of noise each, and the course of the machine."""
    generator = np.random.default_rng(5)
    return np.mean(
        [analyse(course(generator, 2 * pairs) + generator.normal(0, 0.01, 2 * pairs), run) < 0.05 for run in range(runs)]
    )


def by_pairs(times, run):
    places = np.array(list(itertools.islice(intervals.orders(2, str(run)), len(times) // 2)))
    by_arm = np.take_along_axis(times.reshape(-1, 2), np.argsort(places, axis=1), axis=1)
    return intervals.p_value([(by_arm[:, 0] - by_arm[:, 1]).tolist()])


def one_arm_after_the_other(times, run):
    return scipy.stats.ttest_ind(*np.split(times, 2), equal_var=False).pvalue


@pytest.mark.parametrize("course", [linear_drift, thermal_ramp, on_off_neighbour])
def test_pairs_in_abba_order_find_nothing_in_equal_arms_and_one_arm_after_the_other_does(course):
    assert false_positives(course, by_pairs) <= 0.07
    assert false_positives(course, one_arm_after_the_other, runs=300) > 0.4


# Quantiles


@pytest.mark.parametrize(("share", "least"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.1, 36)])
def test_an_interval_needs_so_many_values(share, least):
    assert intervals.min_count(share) == least
    assert intervals.quantile(range(least), range(least), share) is not None
    assert intervals.quantile(range(least - 1), range(least - 1), share) is None


@pytest.mark.parametrize("share", [0, 1, -0.5, 95])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        intervals.quantile([1.0] * 9, range(9), share)


def test_each_value_has_a_cluster():
    with pytest.raises(ValueError, match="3 values and 2 cluster labels"):
        intervals.quantile([1.0, 2.0, 3.0], ["a", "b"], 0.5)


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_the_medians_ranks_are_those_of_the_tables(count, low, high):
    found = intervals.quantile(range(1, count + 1), range(count), 0.5)
    assert (found.low, found.value, found.high, found.effective) == (low, (count + 1) / 2, high, count)


@fixed
@given(st.integers(36, 400), st.sampled_from([0.1, 0.5, 0.75, 0.9]))
def test_where_each_value_is_a_cluster_the_ranks_are_the_closest_with_at_most_2_5_percent_on_either_side(count, share):
    at_most = np.cumsum([math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)])
    low = max(rank for rank in range(1, count + 1) if at_most[rank - 1] <= 0.025)
    high = min(rank for rank in range(1, count + 1) if at_most[rank - 1] >= 0.975)
    found = intervals.quantile(range(1, count + 1), range(count), share)
    assert (found.low, found.high, found.effective) == (low, high, count)


def test_calls_whose_tokens_are_all_alike_count_as_calls_and_less_for_being_few():
    # Design effect 79 / 9; t(0.975) is 1.990450 with 79 degrees of freedom and 2.262157 with 9. Seven values: ranks 1 and 7,
    # which are 6 and 75 of 80.
    found = intervals.quantile(np.repeat(range(1, 11), 8), np.repeat(range(10), 8), 0.5)
    assert found.effective == pytest.approx(80 * 9 / 79 * (1.990450 / 2.262157) ** 2, rel=1e-5)
    assert (found.low, found.value, found.high) == (1, 5.5, 10)


def test_calls_with_equal_shares_count_with_all_their_tokens():
    found = intervals.quantile([*range(10)] * 8, np.repeat(range(8), 10), 0.5)
    assert found.effective == 80


def test_one_call_has_no_interval_however_long():
    assert intervals.quantile(range(5000), ["the one"] * 5000, 0.5) is None


def test_equal_values_count_as_many_as_their_calls():
    assert intervals.quantile([2.0] * 100, np.repeat(range(10), 10), 0.5) == intervals.Quantile(2.0, 2.0, 2.0, 10)
    assert intervals.quantile([2.0] * 100, np.repeat(range(5), 20), 0.5) is None


@fixed
@given(unlike, st.integers(2, 30), st.sampled_from([0.5, 0.6]), st.randoms(use_true_random=False))
def test_neither_the_order_of_values_nor_the_names_of_clusters_matter(values, groups, share, random):
    labelled = [(value, place % groups) for place, value in enumerate(values)]
    shuffled = random.sample(labelled, len(labelled))
    found = intervals.quantile(*zip(*labelled, strict=True), share)
    other = intervals.quantile([value for value, _ in shuffled], [f"call {label}" for _, label in shuffled], share)
    assert (found is None) == (other is None)
    if found is not None:
        assert (other.value, other.low, other.high) == (found.value, found.low, found.high)
        assert other.effective == pytest.approx(found.effective)
        assert found.low <= found.value <= found.high
        assert 6 <= found.effective <= len(values)


@fixed
@given(unlike, st.integers(2, 30), st.floats(0.01, 100))
def test_a_quantile_scales_with_its_values(values, groups, factor):
    clusters = [place % groups for place in range(len(values))]
    found = intervals.quantile(values, clusters, 0.5)
    scaled = intervals.quantile([factor * value for value in values], clusters, 0.5)
    assert (found is None) == (scaled is None)
    if found is not None:
        bounds = [factor * found.value, factor * found.low, factor * found.high]
        assert [scaled.value, scaled.low, scaled.high] == pytest.approx(bounds, abs=1e-9)


@pytest.mark.parametrize(("share", "count"), [(0.5, 30), (0.9, 60), (0.95, 120)])
def test_the_interval_of_independent_values_covers_whatever_their_distribution(share, count):
    draws = np.random.default_rng(17).lognormal(size=(1000, count))
    truth = math.exp(scipy.stats.norm.ppf(share))
    assert 0.94 <= np.mean([covers(intervals.quantile(each, range(count), share), truth) for each in draws]) <= 0.99


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("sizes", [[20] * 40, [5, 35] * 20])
def test_tokens_of_one_call_are_correlated_and_only_the_interval_that_knows_it_covers(share, sizes):
    generator, runs = np.random.default_rng(19), 500
    clusters = np.repeat(range(len(sizes)), sizes)
    mine = naive = 0
    for _ in range(runs):
        call = generator.normal(0, math.sqrt(0.3), len(sizes))
        values = call[clusters] + generator.normal(0, math.sqrt(0.7), len(clusters))
        mine += covers(intervals.quantile(values, clusters, share), scipy.stats.norm.ppf(share))
        naive += covers(intervals.quantile(values, range(len(values)), share), scipy.stats.norm.ppf(share))
    assert mine / runs >= 0.92
    assert naive / runs < 0.8


# Middle and spread


def test_the_median_is_the_middle_value_and_none_of_nothing():
    assert intervals.median([]) is None
    assert intervals.median([5.0]) == 5.0
    assert intervals.median([9.0, 1.0, 2.0]) == 2.0
    assert intervals.median([1.0, 2.0, 4.0, 100.0]) == 3.0


def test_the_relative_interquartile_range_is_a_share_of_the_median():
    assert intervals.relative_iqr([5.0, 1.0, 4.0, 2.0, 3.0]) == pytest.approx((4 - 2) / 3)
    assert intervals.relative_iqr([2.0] * 4) == 0.0


def test_three_values_have_no_interquartile_range():
    assert intervals.relative_iqr([1.0, 2.0, 3.0]) is None
    assert intervals.relative_iqr([1.0, 2.0, 3.0, 4.0]) is not None


@fixed
@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=12), st.floats(0.01, 100))
def test_the_relative_interquartile_range_knows_no_unit(values, factor):
    scaled = intervals.relative_iqr([factor * value for value in values])
    assert scaled == pytest.approx(intervals.relative_iqr(values), rel=1e-6, abs=1e-9)

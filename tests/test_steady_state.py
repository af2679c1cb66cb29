"""Flat series are steady, spikes and steps are stepped over, and what drifts is never steady."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.stats import steady_state

fixed = settings(derandomize=True, deadline=None, database=None)
COUNT = 100


def noise(generator, sd, count=COUNT, correlation=0.0):
    """Around 1, each value correlated with the one before it."""
    fresh = generator.normal(0, sd, count)
    values = [fresh[0]]
    for each in fresh[1:]:
        values.append(correlation * values[-1] + np.sqrt(1 - correlation**2) * each)
    return 1 + np.array(values)


def accepted(make, runs=200, seed=3):
    """The share of seeded runs that find a steady state."""
    generator = np.random.default_rng(seed)
    return np.mean([steady_state.steady_from(make(generator)) is not None for _ in range(runs)])


# Where it begins


@pytest.mark.parametrize("count", [20, 21, 40, 300])
def test_a_flat_series_is_steady_from_the_start(count):
    assert steady_state.steady_from([0.02] * count) == 0


def test_a_spike_at_the_start_is_stepped_over():
    assert steady_state.steady_from([3.0] + [1.0] * 40) == 1
    assert steady_state.steady_from([0.4] + [1.0] * 40) == 1


def test_a_spike_in_the_middle_is_kept_and_harms_nothing():
    assert steady_state.steady_from([1.0] * 20 + [9.0] + [1.0] * 20) == 0


@pytest.mark.parametrize("height", [0.5, 1.05, 1.2, 3.0])
@pytest.mark.parametrize("at", [1, 2, 3, 10, 30, 50])
def test_a_step_is_found_where_it_is(at, height):
    exact = np.where(np.arange(COUNT) < at, height, 1.0)
    assert steady_state.steady_from(exact) == at
    assert steady_state.steady_from(exact * noise(np.random.default_rng(at), 0.002)) == at


@pytest.mark.parametrize("height", [0.8, 1.2])
def test_a_step_behind_the_middle_leaves_nothing_steady(height):
    assert steady_state.steady_from(np.where(np.arange(COUNT) < 55, height, 1.0)) is None


def test_what_begins_so_late_that_fewer_than_20_values_remain_is_not_steady():
    assert steady_state.steady_from([2.0] * 10 + [1.0] * 20) == 10
    assert steady_state.steady_from([2.0] * 11 + [1.0] * 19) is None


@pytest.mark.parametrize("count", [0, 1, 19])
def test_fewer_than_20_values_are_refused(count):
    with pytest.raises(ValueError, match="at least 20"):
        steady_state.steady_from([1.0] * count)


# Decay and drift


@pytest.mark.parametrize("height", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("decay", [5, 10])
@pytest.mark.parametrize("sd", [0.001, 0.005, 0.01])
def test_a_slow_decay_is_cut_where_less_than_0_3_percent_of_it_remains(height, decay, sd):
    generator, rest = np.random.default_rng(2), []
    for _ in range(40):
        series = (1 + height * np.exp(-np.arange(COUNT) / decay)) * noise(generator, sd)
        k = steady_state.steady_from(series)
        rest += [] if k is None else [np.mean(series[k:]) - 1]
    assert len(rest) >= 32
    assert abs(np.mean(rest)) < 0.003


@pytest.mark.parametrize("drift", [-0.5, -0.1, -0.04, 0.03, 0.04, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("count", [20, 40, 100, 300])
def test_a_ramp_is_never_steady(count, drift):
    assert steady_state.steady_from(np.linspace(1, 1 + drift, count)) is None


@pytest.mark.parametrize("drift", [-0.2, -0.08, 0.06, 0.1, 0.5])
@pytest.mark.parametrize(("count", "sd"), [(40, 0.003), (100, 0.01), (200, 0.01)])
def test_a_ramp_in_noise_is_never_steady(count, sd, drift):
    assert accepted(lambda generator: np.linspace(0, drift, count) + noise(generator, sd, count), runs=60) == 0


def test_a_drift_below_1_percent_is_tolerated():
    assert steady_state.steady_from(np.linspace(1, 1.009, COUNT)) == 0


# Noise


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("count", [30, 100])
def test_white_noise_is_steady(sd, count):
    assert accepted(lambda generator: noise(generator, sd, count)) >= 0.95


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("count", [30, 100])
def test_noise_that_remembers_itself_is_steady(sd, count):
    assert accepted(lambda generator: noise(generator, sd, count, correlation=0.3)) >= 0.9


def test_of_20_noisy_values_most_are_steady_though_they_have_one_chance_only():
    assert accepted(lambda generator: noise(generator, 0.03, 20)) >= 0.8


def test_the_correlation_of_a_trend_does_not_widen_what_is_allowed():
    trend, level = np.linspace(1, 2, 60), np.ones(60)
    zigzag = 0.01 * (-1.0) ** np.arange(60)
    slope = 1 / 59
    assert steady_state.value_error(trend + zigzag, slope) == pytest.approx(
        steady_state.value_error(level + zigzag, 0.0), rel=1e-6
    )


def test_the_error_of_a_median_is_wider_by_what_neighbours_share():
    # 40 runs of three: of 119 neighbours 80 are alike and 39 opposite
    values = np.tile([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], 20)
    r = steady_state.lag_one(values)
    assert r == pytest.approx((80 - 39) / 120)
    wider = steady_state.value_error(values, 0.0) / (steady_state.NORMAL_MAD * steady_state.NORMAL_MEDIAN)
    assert wider == pytest.approx(np.sqrt((1 + r) / (1 - r)))


@fixed
@given(st.integers(0, 10**6), st.integers(20, 80), st.floats(1e-6, 1e6), st.sampled_from([0.0, 0.002, 0.05]))
def test_the_unit_of_the_series_does_not_matter(seed, count, factor, sd):
    generator = np.random.default_rng(seed)
    series = noise(generator, sd, count) + generator.uniform(0, 0.1) * np.exp(-np.arange(count) / 5)
    assert steady_state.steady_from(factor * series) == steady_state.steady_from(series)


@fixed
@given(st.integers(0, 10**6), st.integers(20, 80))
def test_what_is_found_lies_in_the_first_half_and_leaves_20_values(seed, count):
    generator = np.random.default_rng(seed)
    k = steady_state.steady_from(noise(generator, 0.02, count) + 0.2 * (np.arange(count) < generator.integers(count)))
    assert k is None or (k <= count / 2 and count - k >= 20)


@fixed
@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=50))
def test_the_fast_median_is_the_median(values):
    assert steady_state.median(np.array(values)) == pytest.approx(np.median(values))

"""The difference of two independent samples, as it is and at equal values of a covariate."""

import math

import numpy as np
import pytest
from scipy import stats

from nanobench.stats import two_samples
from nanobench.stats.two_samples import Sample

TAIL = 0.025


def samples(generator, counts=(20, 20), noises=(0.03, 0.03), slope=1.2, spread=0.2, slower=0.0, error=0.0):
    """Two samples whose values follow a covariate; the second lies 0.05 higher, and its covariate `slower` lower."""
    found = []
    for count, noise, shift, lower in zip(counts, noises, (0.0, 0.05), (0.0, slower), strict=True):
        true = spread * generator.standard_normal(count) - lower
        values = 3 + shift + slope * true + noise * generator.standard_normal(count)
        found.append(Sample(list(values), list(true + error * generator.standard_normal(count))))
    return found


def test_without_a_covariate_it_is_that_of_welch():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, 8), generator.normal(1, 3, 5)
    found = two_samples.difference(Sample(list(first)), Sample(list(second)))
    theirs = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert found.of_covariates is None
    assert found.mean == pytest.approx(second.mean() - first.mean())
    assert (found.mean - found.half_width(TAIL), found.mean + found.half_width(TAIL)) == pytest.approx(tuple(theirs))


def test_samples_without_spread_have_an_interval_without_width():
    found = two_samples.difference(Sample([1.0, 1.0]), Sample([2.0, 2.0]))
    assert (found.mean, found.half_width(TAIL)) == (1.0, 0.0)


def test_values_that_follow_the_covariate_exactly_give_the_shift():
    first, second = (
        Sample([1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 1.0, 1.5, 2.0, 2.5]),
        Sample([13.0, 15.0, 17.0, 19.0, 21.0], [4, 5, 6, 7, 8]),
    )
    found = two_samples.difference(first, second)
    assert found.of_covariates == pytest.approx(4.5)
    assert found.mean == pytest.approx(5.0)
    assert found.half_width(TAIL) == pytest.approx(0, abs=1e-9)


def coverage(rounds=2000, **facts):
    """The share of intervals that hold the true shift, and their median half width."""
    generator, inside, halves = np.random.default_rng(1), 0, []
    for _ in range(rounds):
        found = two_samples.difference(*samples(generator, **facts))
        halves.append(found.half_width(TAIL))
        inside += abs(found.mean - 0.05) <= halves[-1]
    return inside / rounds, float(np.median(halves))


@pytest.mark.parametrize("slower", [0.0, 0.1])
@pytest.mark.parametrize("slope", [0.0, 1.2])
def test_intervals_hold_the_true_shift_and_are_hardly_wider_than_those_of_the_noise(slope, slower):
    share, half = coverage(slope=slope, slower=slower)
    assert 0.94 <= share <= 0.97
    assert half == pytest.approx(float(stats.t.isf(TAIL, 38)) * 0.03 * math.sqrt(2 / 20), rel=0.15)


@pytest.mark.parametrize(("counts", "noises"), [((5, 15), (0.06, 0.02)), ((5, 15), (0.02, 0.06)), ((5, 5), (0.06, 0.02))])
def test_intervals_hold_where_the_runs_are_unlike(counts, noises):
    share, _ = coverage(counts=counts, noises=noises)
    assert 0.94 <= share <= 0.99


def test_an_error_of_the_covariate_widens_the_interval_and_equal_machines_stay_equal():
    share, half = coverage(error=0.05)
    assert 0.94 <= share <= 0.97
    assert half > 1.5 * coverage(error=0.0)[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda first, second: (first._replace(covariate=None), second),
        lambda first, second: (first, second._replace(covariate=None)),
        lambda first, second: (Sample(first.values[:4], first.covariate[:4]), second),
        lambda first, second: (first._replace(covariate=[1.0] * 20), second._replace(covariate=[2.0] * 20)),
    ],
    ids=["first has none", "second has none", "few values", "no variation"],
)
def test_nothing_is_adjusted_without_enough(change):
    first, second = change(*samples(np.random.default_rng(2)))
    found = two_samples.difference(first, second)
    assert found == two_samples.welch(first.values, second.values)

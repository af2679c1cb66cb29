"""The difference of two independent samples, as it is and at equal values of a covariate."""

import math

import numpy as np
import pytest
from scipy import stats

from nanobench.stats import two_samples
from nanobench.stats.two_samples import Sample

TAIL = 0.025


def samples(generator, count=20, shift=0.05, slope=1.2, spread=0.2, noise=0.03, slower=0.0):
    """Two samples whose values follow a covariate; that of the second lies `slower` lower."""
    found = []
    for level, lower in ((0.0, 0.0), (shift, slower)):
        covariate = spread * generator.standard_normal(count) - lower
        found.append(Sample(list(3 + level + slope * covariate + noise * generator.standard_normal(count)), list(covariate)))
    return found


def test_without_a_covariate_it_is_that_of_welch():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, 8), generator.normal(1, 3, 5)
    found = two_samples.difference(Sample(list(first)), Sample(list(second)))
    theirs = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert not found.adjusted
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
    assert found.adjusted
    assert found.mean == pytest.approx(5.0)
    assert found.freedom == 7
    assert found.half_width(TAIL) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("slower", [0.0, 0.1])
@pytest.mark.parametrize("slope", [0.0, 1.2])
def test_intervals_hold_the_true_shift_and_are_no_wider_than_those_of_the_noise(slope, slower):
    generator, inside, halves = np.random.default_rng(1), 0, []
    for _ in range(1000):
        found = two_samples.difference(*samples(generator, slope=slope, slower=slower))
        halves.append(found.half_width(TAIL))
        inside += abs(found.mean - 0.05) <= halves[-1]
    assert 0.93 <= inside / 1000 <= 0.97
    of_noise = float(stats.t.isf(TAIL, 38)) * 0.03 * math.sqrt(2 / 20)
    assert np.median(halves) == pytest.approx(of_noise, rel=0.1)


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
    assert not found.adjusted
    assert found == two_samples.welch(first.values, second.values)

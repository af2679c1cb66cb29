"""From timings to a duration or a reason, with timings that a noisy machine gives."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.roofline.limits import Limit, Unresolved
from nanobench.worker.calibration.samples import (
    RESOLUTION_S,
    Duration,
    NotResolved,
    duration,
    per_operation,
    rate,
    resolve,
    without_dispatch,
)

fixed = settings(derandomize=True, deadline=None, database=None)


def reason(*samples_s, included=None):
    found = resolve(samples_s) if included is None else resolve(samples_s, included)
    assert isinstance(found, NotResolved)
    return found.reason


def test_a_duration_is_the_median_and_its_spread_the_interquartile_range():
    assert resolve([1.0, 2.0, 3.0, 4.0, 5.0]) == Duration(3.0, 2.0)


def test_a_spike_changes_the_duration_little():
    assert resolve([1.0] * 8 + [1000.0]) == Duration(1.0, 0.0)


def test_a_machine_that_halves_its_speed_in_the_middle_has_a_wide_spread():
    assert resolve([1.0] * 5 + [2.0] * 5) == Duration(1.5, 1.0)


def test_what_a_duration_includes_is_subtracted_and_its_noise_added():
    assert resolve([5.0, 6.0, 7.0], Duration(2.0, 0.5)) == Duration(4.0, 1.5)


@pytest.mark.parametrize("samples_s", [(0.0,) * 5, (-1.0,) * 5, (1.0, 0.0, 0.0, -3.0), (RESOLUTION_S / 2,) * 4])
def test_no_time_is_not_resolved(samples_s):
    assert reason(*samples_s) == "it takes no measurable time: a quarter of its timings are below 0.5 µs"


@pytest.mark.parametrize(
    "samples_s", [(), (1.0,), (1.0, 1.0), (1.0, 1.0, 1.0, *[math.nan] * 4), (math.inf,) * 4, (1e9,) * 3, (-math.inf,) * 3]
)
def test_timings_that_no_clock_can_give_are_not_used(samples_s):
    usable = sum(abs(sample_s) < 3600 for sample_s in samples_s)
    assert reason(*samples_s) == f"only {usable} of {len(samples_s)} timings are usable"


def test_a_negative_difference_is_not_resolved():
    assert reason(10e-6, 10e-6, 10e-6, included=Duration(12e-6, 0.0)) == "dispatch takes 12 µs of its 10 µs"


def test_a_difference_that_is_less_than_a_tenth_is_not_resolved():
    assert reason(100.0, 100.0, 100.0, included=Duration(95.0, 0.0)) == "dispatch takes 9.5e+07 µs of its 1e+08 µs"


def test_a_difference_below_the_noise_is_not_resolved():
    noisy = reason(10e-6, 20e-6, 30e-6, included=Duration(15e-6, 2e-6))
    assert noisy == "5 µs remain without dispatch, and the timings vary by 12 µs"


def test_the_time_of_an_operation_needs_an_operation():
    assert per_operation([8.0, 8.0, 8.0], 4) == Duration(2.0, 0.0)
    assert per_operation([8.0, 8.0, 8.0], 0) == NotResolved("no operation was counted")
    assert per_operation([0.0, 0.0, 0.0], 4) == resolve([0.0, 0.0, 0.0])


def test_a_part_without_operations_needs_no_dispatch_and_one_with_them_does():
    lost = NotResolved("noise")
    assert without_dispatch([3.0, 3.0, 3.0], lost, 0) == Duration(3.0, 0.0)
    assert without_dispatch([3.0, 3.0, 3.0], Duration(0.5, 0.25), 2) == Duration(2.0, 0.5)
    assert without_dispatch([3.0, 3.0, 3.0], lost, 2) == NotResolved(
        "the dispatch that its time includes is not resolved: noise"
    )


def test_a_limit_is_an_amount_per_second_or_the_seconds_and_has_a_reason_otherwise():
    assert rate("matmul", 8.0, Duration(2.0, 0.5), 3, 7) == Limit("matmul", 4.0, 0.25, 3, 7)
    assert duration("pass", Duration(2.0, 0.5), 3, 7) == Limit("pass", 2.0, 0.25, 3, 7)
    for make in (duration, lambda kind, *others: rate(kind, 8.0, *others)):
        assert make("pass", NotResolved("noise"), 3, 7) == Unresolved("pass", "noise", 3, 7)


timings = st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e-5, 1e-3), max_size=12)


@fixed
@given(timings, st.floats(0, 1e-3), st.floats(0, 1e-3), st.integers(0, 50))
def test_no_timings_raise_and_what_is_resolved_is_a_positive_number(samples_s, seconds, iqr_s, count):
    for operation in (Duration(seconds, iqr_s), per_operation(samples_s, count)):
        found = rate("matmul", 1e9, without_dispatch(samples_s, operation, count))
        if isinstance(found, Limit):
            assert 0 < found.value <= 1e9 / RESOLUTION_S
            assert 0 <= found.spread < math.inf
        else:
            assert found.reason

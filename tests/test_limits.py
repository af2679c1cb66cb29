"""Limits between the places where they were measured, and how they move with the machine."""

import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.roofline.limits import Limit, Limits

fixed = settings(derandomize=True, deadline=None, database=None)
values = st.floats(1e-6, 1e15)


def limit(kind="matmul", value=1e9, rows=1, set_bytes=0, spread=0.0):
    return Limit(kind=kind, value=value, spread=spread, rows=rows, set_bytes=set_bytes)


def limits(*found):
    return Limits(tuple(found))


def as_json(found):
    return [asdict(each) for each in found.found]


def test_a_measured_place_has_its_own_value():
    found = limits(limit(rows=1, value=10.0), limit(rows=8, value=80.0), limit("read", 5.0))
    assert [found.at("matmul", rows) for rows in (1, 8)] == pytest.approx([10.0, 80.0])
    assert found.at("read") == pytest.approx(5.0)


def test_between_two_numbers_of_rows_the_logarithm_is_interpolated():
    found = limits(limit(rows=1, value=10.0), limit(rows=16, value=1000.0))
    assert found.at("matmul", 4) == pytest.approx(100.0)


def test_beyond_what_was_measured_the_nearest_holds():
    found = limits(limit(rows=2, value=10.0), limit(rows=16, value=1000.0))
    assert (found.at("matmul", 1), found.at("matmul", 99)) == pytest.approx((10.0, 1000.0))


def test_bytes_are_interpolated_at_each_number_of_rows_before_the_rows_are():
    far, near = {"set_bytes": 10_000}, {"set_bytes": 100}
    found = limits(limit(value=4.0, **near), limit(value=1.0, **far), limit(rows=4, value=9.0, **near))
    assert found.at("matmul", 1, 1000) == pytest.approx(2.0)
    assert found.at("matmul", 2, 1000) == pytest.approx(math.sqrt(2.0 * 9.0))


def test_what_was_not_measured_is_an_error_and_no_guess():
    with pytest.raises(KeyError, match="lm_head"):
        limits(limit()).at("lm_head")


def test_limits_survive_their_json():
    found = limits(limit(rows=3, set_bytes=7, spread=0.25), limit("sync", 1e-6))
    assert Limits.from_json(as_json(found)) == found


def test_kinds_of_older_calibrations_are_renamed():
    old = limits(limit("head", 2.0, rows=3), limit("pick", 5.0), limit("matmul", 7.0))
    new = limits(limit("lm_head", 2.0, rows=3), limit("argmax", 5.0), limit("matmul", 7.0))
    assert Limits.from_json(as_json(old)) == Limits.from_json(as_json(new)) == new


def test_changes_of_passes_are_ratios_by_place():
    found = limits(a_pass(2.0, 1, 10), a_pass(4.0, 8, 10))
    checks = [limits(a_pass(value, 1, 10), a_pass(6.0, 8, 10), limit(value=9.0)) for value in (2.0, 4.0, 8.0)]
    changes = found.pass_changes(checks)
    assert changes.ratios == {(1, 10): pytest.approx(2.0), (8, 10): pytest.approx(1.5)}
    assert changes.factor(limit("operation", set_bytes=10)) == pytest.approx(2.0)
    assert changes.factor(limit("matmul", rows=8, set_bytes=10)) == pytest.approx(1 / 1.5)


def test_the_best_of_a_kind_is_its_largest_value():
    assert limits(limit(value=2.0), limit(value=7.0, rows=8), limit("read", 9.0)).best("matmul") == 7.0


def a_pass(value, rows=1, set_bytes=0):
    return limit("pass", value, rows, set_bytes)


def test_a_machine_that_became_slower_lowers_rates_and_lengthens_times():
    found = limits(a_pass(1.0), limit(value=10.0), limit("lm_head", 20.0), limit("operation", 1e-6))
    moved = found.moved([limits(a_pass(2.0))])
    assert [each.value for each in moved.found] == pytest.approx([2.0, 5.0, 10.0, 2e-6])


def test_the_change_is_the_median_over_the_drift_checks():
    found = limits(a_pass(10.0), limit(value=1.0))
    assert found.moved([limits(a_pass(value)) for value in (10.0, 20.0, 1000.0)]).at("matmul") == pytest.approx(0.5)


def test_a_change_of_few_rows_does_not_touch_many_rows():
    found = limits(*(limit(rows=rows, value=10.0) for rows in (1, 8, 64)), a_pass(1.0, 1), a_pass(1.0, 64))
    moved = found.moved([limits(a_pass(2.0, 1), a_pass(1.0, 64))])
    assert [each.value for each in moved.found[:3]] == pytest.approx([5.0, 10 / math.sqrt(2), 10.0])


def test_a_change_of_large_networks_does_not_touch_small_operands():
    found = limits(limit(set_bytes=10), limit(set_bytes=1000), a_pass(1.0, set_bytes=10), a_pass(1.0, set_bytes=1000))
    moved = found.moved([limits(a_pass(1.0, set_bytes=10), a_pass(4.0, set_bytes=1000))])
    assert [each.value for each in moved.found[:2]] == pytest.approx([1e9, 0.25e9])


@pytest.mark.parametrize("drift_checks", [[], [limits()], [limits(limit("read", 3.0))]])
def test_limits_stay_without_a_drift_check_of_passes(drift_checks):
    found = limits(limit(), a_pass(1.0))
    assert found.moved(drift_checks) == found


def test_limits_without_passes_cannot_move():
    assert limits(limit()).moved([limits(a_pass(3.0))]) == limits(limit())


def test_of_a_place_measured_twice_the_geometric_mean_counts():
    assert limits(limit(value=1.0), limit(value=4.0)).at("matmul") == pytest.approx(2.0)


@fixed
@given(st.dictionaries(st.integers(1, 4096), values, min_size=1, max_size=6), st.integers(1, 5000))
def test_no_value_lies_outside_those_that_were_measured(known, rows):
    found = limits(*(limit(rows=place, value=value) for place, value in known.items())).at("matmul", rows)
    assert min(known.values()) * (1 - 1e-9) <= found <= max(known.values()) * (1 + 1e-9)


@fixed
@given(st.lists(st.tuples(st.integers(1, 4096), values), min_size=1, max_size=6, unique_by=lambda each: each[0]), st.randoms())
def test_the_order_of_limits_does_not_matter(known, random):
    found = [limit(rows=rows, value=value) for rows, value in known]
    shuffled = random.sample(found, len(found))
    assert limits(*found).at("matmul", 17) == pytest.approx(limits(*shuffled).at("matmul", 17))

"""Limits between the places where they were measured, how they move with the machine, and those that were not resolved."""

import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.roofline.limits import GROUPS, STAND_IN, Limit, Limits, Unresolved

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


# What was not resolved


def lost(kind="matmul", reason="noise", rows=1, set_bytes=0):
    return Unresolved(kind, reason, rows, set_bytes)


def test_what_was_not_resolved_is_null_with_its_reason_in_json():
    found = Limits((limit(),), (lost("argmax", "dispatch takes all of it", 3, 7),))
    assert found.to_json()[1] == {
        **{"kind": "argmax", "value": None, "spread": None, "rows": 3, "set_bytes": 7},
        "reason": "dispatch takes all of it",
    }
    assert Limits.from_json(found.to_json()) == found


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, 10**400, 1e-300, "7", True, [1.0]])
def test_a_stored_value_that_is_no_positive_number_is_not_resolved(value):
    found = Limits.from_json([{"kind": "read", "value": value, "spread": 0.0}])
    assert found.found == ()
    assert found.unresolved == (Unresolved("read", f"{value!r} is no positive number"),)


@pytest.mark.parametrize("spread", [-0.1, math.nan, math.inf, None, "0"])
def test_a_stored_spread_that_is_no_number_costs_its_value(spread):
    (found,) = Limits.from_json([{"kind": "read", "value": 1.0, "spread": spread}]).unresolved
    assert found.reason == f"its spread {spread!r} is no number of at least 0"


@pytest.mark.parametrize("place", [{"rows": 0}, {"rows": "1"}, {"rows": None}, {"set_bytes": -1}, {"set_bytes": math.nan}])
def test_a_stored_place_that_is_none_costs_its_value(place):
    (found,) = Limits.from_json([{"kind": "read", "value": 1.0, "spread": 0.0, **place}]).unresolved
    assert found.reason.endswith("are no place")


def test_a_stored_null_and_an_unknown_kind_have_reasons():
    rows = [{"kind": "read", "value": None}, {"kind": "teleport", "value": 1.0, "spread": 0.0}]
    reasons = [each.reason for each in Limits.from_json(rows).unresolved]
    assert reasons == ["the file has no value for it", "'teleport' is no kind of limit that this version knows"]


@pytest.mark.parametrize("rows", [[{}], [7], ["read"], [{"kind": ["read"]}], 7, None])
def test_what_is_no_list_of_limits_is_refused(rows):
    with pytest.raises((AttributeError, KeyError, TypeError)):
        Limits.from_json(rows)


def test_an_unresolved_place_does_not_hide_a_second_measurement_of_it():
    found = Limits((limit(value=5.0, rows=8),), (lost(rows=8),))
    assert found.reading("matmul", 8).note == ""


def test_the_uncertainty_of_a_place_is_half_the_range_that_its_measurements_cover():
    assert limits(limit(value=10.0)).reading("matmul").uncertainty == 0
    assert limits(limit(value=10.0, spread=0.5)).reading("matmul").uncertainty == pytest.approx(0.25)
    twice = limits(limit(value=10.0, spread=0.2), limit(value=40.0, spread=0.5))
    assert twice.reading("matmul").uncertainty == pytest.approx(math.sqrt(40 * 1.25 / (10 / 1.1)) - 1)


def test_drift_checks_that_disagree_widen_the_spread():
    found = limits(a_pass(1.0), limit(value=10.0, spread=0.2))
    steady, moving = (found.moved([limits(a_pass(value)) for value in each]) for each in ((2.0, 2.0), (1.0, 4.0)))
    assert steady.found[1].spread == pytest.approx(0.2)
    # Half the interquartile range of log 1 and log 4 is log(4) / 4.
    assert moving.found[1].spread == pytest.approx(2 * (1.1 * 4**0.25 - 1))
    assert moving.reading("matmul").uncertainty == pytest.approx(1.1 * 4**0.25 - 1)


def test_unresolved_passes_are_no_drift():
    found = limits(a_pass(1.0), limit(value=10.0))
    assert found.moved([Limits((), (lost("pass"),)), limits(a_pass(2.0))]).at("matmul") == pytest.approx(5.0)
    assert found.moved([Limits((), (lost("pass"),))]) == found
    assert Limits((limit(),), (lost("pass"),)).moved([limits(a_pass(2.0))]).found == (limit(),)


def test_a_limit_that_moves_beyond_all_numbers_is_not_resolved():
    found = limits(a_pass(1e-30), limit(value=1e-30)).moved([limits(a_pass(1e30))])
    assert [each.kind for each in found.unresolved] == ["matmul"]


def test_the_nearest_known_kind_of_the_group_stands_in_and_says_so():
    known = limits(limit("lm_head", 6.0), limit("attention", 1.0), limit("read", 5.0), limit("elementwise", 2.0))
    found = Limits(known.found, (lost("argmax", "noise"),))
    assert [found.source(kind) for kind in ("matmul", "argmax", "copy", "operation", "sync")] == [
        *("lm_head", "elementwise", "read"),
        *(None, None),
    ]
    reading = found.reading("argmax")
    assert (reading.value, reading.uncertainty) == pytest.approx((2.0, STAND_IN - 1))
    assert reading.note == "argmax counts at the rate of elementwise: noise"
    assert found.reading("matmul").note == "matmul counts at the rate of lm_head: it was not measured"


def test_where_the_nearest_place_was_not_resolved_its_neighbours_stand_in():
    found = Limits((limit(value=10.0, rows=1), limit(value=10.0, rows=64)), (lost(rows=16),))
    near, far = found.reading("matmul", 20), found.reading("matmul", 60)
    assert (near.value, near.uncertainty, far.uncertainty) == pytest.approx((10.0, STAND_IN - 1, 0.0))
    assert near.note == "matmul is not resolved where it is needed: the rate of neighbouring sizes counts"
    assert far.note == ""


def test_a_prediction_needs_a_kind_of_each_group():
    whole = [limit(group[0]) for group in GROUPS]
    assert Limits.of(whole).missing() is None
    for group in GROUPS:
        rest = [each for each in whole if each.kind != group[0]]
        assert Limits.of(rest).missing() == f"the limit {group[0]!r} has no value: it was not measured"
        noisy = Limits.of([*rest, lost(group[0], "noise")])
        assert noisy.missing() == f"the limit {group[0]!r} has no value: noise"
        with pytest.raises(KeyError, match=group[0]):
            noisy.reading(group[0])

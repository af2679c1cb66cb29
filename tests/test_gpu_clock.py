"""The SM clock while the GPU worked, from samples and from readings between repetitions."""

import pytest

from nanobench.records import Repetition
from test_speedup_status import GPU, ratio
from test_status import STILL, cells_of, timed

IDLE, BUSY = 345e6, 1755e6
STARTS = [2.0 * number for number in range(len(STILL))]


def samples(*clocks):
    """One per time and clock."""
    return [
        Repetition(kind="sample", repetition=number, started_at=at_s, clock_sm_hz=hertz)
        for number, (at_s, hertz) in enumerate(clocks)
    ]


def cell_of(taken, ends):
    """A cell of two launches whose repetitions begin every two seconds and take one."""
    rows = [*timed([1.0] * len(STILL), started_at=STARTS, clock_sm_hz=ends), *taken]
    return cells_of(*[(timed(), rows)] * 2, point=GPU)[1]


def test_samples_during_a_repetition_count_and_those_between_do_not():
    taken = samples(*((start + 0.5, BUSY) for start in STARTS), *((start + 1.5, IDLE) for start in STARTS))
    cell = cell_of(taken, [IDLE, BUSY] * (len(STILL) // 2))
    assert cell["clock_sm_hz"] == BUSY
    assert cell["status"] == "ok"


def test_a_clock_that_moves_under_load_is_seen_although_the_ends_are_equal():
    taken = samples(*((start + 0.5, BUSY * (0.8 if number % 2 else 1.0)) for number, start in enumerate(STARTS)))
    assert "the SM clock varies by" in cell_of(taken, [BUSY] * len(STILL))["reason"]


def test_a_repetition_without_a_sample_does_not_bring_in_its_end():
    taken = samples(*((start + 0.5, BUSY) for start in STARTS[::2]))
    cell = cell_of(taken, [IDLE] * len(STILL))
    assert (cell["clock_sm_hz"], cell["status"]) == (BUSY, "ok")


@pytest.mark.parametrize("taken", [(), samples((0.5, None)), samples((None, BUSY)), samples((1.5, BUSY))])
def test_without_a_sample_under_load_the_readings_at_the_ends_count(taken):
    assert cell_of(taken, [IDLE] * len(STILL))["clock_sm_hz"] == IDLE


def test_the_clocks_of_two_arms_are_compared_under_load():
    slow, fast = (
        [*timed([1.0] * len(STILL), started_at=STARTS, clock_sm_hz=IDLE), *samples(*((start + 0.5, clock) for start in STARTS))]
        for clock in (BUSY, 0.8 * BUSY)
    )
    cell = ratio(*[(slow, fast)] * 2, point=GPU)
    assert cell["speedup_disturbed_by"] == "clock_difference"

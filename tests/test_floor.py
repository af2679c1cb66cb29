"""The physical floor: what is faster than the machine's best rates allow is implausible, with the arithmetic."""

from dataclasses import replace

import pytest

from nanobench.results import floor
from nanobench.results.run_context import Machine
from nanobench.roofline import flops
from nanobench.roofline.datasheet import Datasheet
from nanobench.stats import intervals
from test_metrics_roofline import LIMITS, MACHINE, NAME, POINT, SHAPE, cached

STEPS = POINT.new_tokens - 1
WEIGHTS = 4 * SHAPE.read_params


def paced(e2e_s, machine=MACHINE, **known):
    """A cell whose call takes `e2e_s` seconds, with as many steps as tokens after the first."""
    usual = cached(steps_per_call=STEPS)
    factor = e2e_s / intervals.median([call.e2e_s for call in usual.calls])
    return cached(factor=factor, machine=machine, **{"steps_per_call": STEPS, **known})


def call_floor_s(rate=1e9):
    """From reads of weights at half the matmul rate of one row, 4 bytes for 2 operations; the read rate itself is lower."""
    return max(flops.useful_flops(SHAPE, POINT) / rate, WEIGHTS * (1 + STEPS) / (2 * rate))


def test_what_takes_longer_than_a_third_of_the_floor_is_plausible():
    assert floor.implausible(paced(call_floor_s())) is None
    assert floor.implausible(paced(call_floor_s() / 2.9)) is None


def test_what_is_faster_is_implausible_with_the_arithmetic():
    found = floor.implausible(paced(call_floor_s() / 3.2))
    assert found.startswith(f"a call took {call_floor_s() / 3.2:.3g} s, but ")
    assert found.endswith(f"take {call_floor_s():.3g} s")


def test_steps_without_work_are_implausible_though_the_call_is_not():
    """A prefill that does everything: the call takes as long as it should, and its steps take nothing."""
    usual = paced(10 * call_floor_s())
    launch = usual.launches[0]
    whole = launch.repetitions[0].wall_s
    marks = tuple(whole + 1e-9 * step for step in range(POINT.new_tokens))
    lazy = replace(launch.repetitions[0], token_times_s=marks, wall_s=marks[-1])
    cell = replace(usual, launches=[replace(launch, repetitions=(lazy,))])
    assert floor.implausible(cell).startswith("a decode step took 1e-09 s")


def test_a_step_that_writes_several_tokens_reads_the_weights_once():
    cell = paced(call_floor_s(), steps_per_call=1)
    works = {work.name: work for work in floor.works_of(cell)}
    assert works["a call"].bytes == WEIGHTS * 2
    assert works["a decode step"].bytes == WEIGHTS
    assert works["a decode step"].flops == pytest.approx(
        STEPS * 2.0 * POINT.batch_size * (SHAPE.block_params + SHAPE.head_params)
    )


def test_without_a_calibration_a_datasheet_gives_the_rates_and_without_both_there_is_no_floor():
    sheet = Machine({"m": SHAPE}, {}, Datasheet("some", bytes_per_s=1e9, flops={"tf32": 1e9}))
    assert floor.rates_of(paced(1.0, machine=sheet)) == floor.Rates(1e9, 1e9)
    assert floor.implausible(paced(1e-9, machine=sheet)) is not None
    assert floor.implausible(paced(1e-9, machine=Machine({"m": SHAPE}, {}))) is None
    assert floor.implausible(paced(1e-9, machine=Machine({}, {NAME: LIMITS}))) is None

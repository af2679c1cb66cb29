"""Which launches a sweep runs: the planned ones, then those of disturbed and imprecise points, until time is up."""

import math
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results import derive, set_aside, store
from nanobench.schema import Arm, Point, Trial
from nanobench.stats import intervals
from nanobench.sweep import runner
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.runner import Sweep

ARMS = (Arm(engine="uncached"), Arm(engine="cached"))
TRIAL_S = 10.0
LAUNCHED = [0]
"""The launch that a scripted machine runs."""


class Clock:
    """A clock that only the trials move."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Machine:
    """Runs trials without running anything: each arm's repetitions follow from a script."""

    def __init__(self, clock, ratio=lambda point, launch: 2.0, disturbed=lambda point, launch: False, fails=None):
        self.clock, self.ratio, self.disturbed, self.fails = clock, ratio, disturbed, fails
        self.asked = []

    def run(self, request, folder, log, timeout_s, progress):
        trial = Trial.from_json(request["trial"])
        self.asked.append(trial)
        LAUNCHED[0] = trial.launch
        self.clock.now += TRIAL_S
        ratio = self.ratio(trial.point, trial.launch)
        share = 0.5 if self.disturbed(trial.point, trial.launch) else 0.99
        records = [self.record(trial, arm, wall_s, share) for arm, wall_s in zip(trial.arms, (ratio, 1.0), strict=False)]
        return WorkerResult({"arms": records})

    def record(self, trial, arm, wall_s, share):
        if self.fails and self.fails(trial.point, arm):
            return asdict(ArmRecord(arm=arm, outcome=Outcome(status=Status.OOM, reason="out of memory")))
        repetitions = tuple(
            Repetition(kind="steady", repetition=n, block=n, wall_s=wall_s, tokens=12, cpu_s=share * wall_s, pressure_s=0.0)
            for n in range(10)
        )
        return asdict(ArmRecord(arm=arm, repetitions=repetitions, outcome=Outcome(status=Status.OK)))

    def close(self):
        pass


@pytest.fixture
def measure(small_run, tmp_path, monkeypatch):
    """Runs a sweep on a scripted machine. Returns its cells, the machine and what the journal says."""

    def run(batches=(1, 4), arms=ARMS, script=None, folder="run", **changes):
        clock = Clock()
        monkeypatch.setattr(runner.time, "monotonic", clock.monotonic)
        template = store.Run(small_run[0]).info()
        point = template.plan.points[0]
        changes = {"launches": 5, "target_ci": 0.05, "extra_launches": True, **changes}
        points = tuple(replace(point, batch_size=batch) for batch in batches)
        plan = replace(template.plan, points=points, identities=(), arms=arms, check=False, calibration="off", **changes)
        if not (tmp_path / folder).exists():
            store.create(tmp_path / folder, replace(template, plan=plan, wall_s=0.0, finished_at=None))
        kept = store.Run(tmp_path / folder)
        machine = Machine(clock, **(script or {}))
        sweep = Sweep(kept, plan, template.description, lambda: machine, lambda progress: None)
        return sweep.measure(), machine, kept.info()

    return run


def launches_at(machine):
    """Batch size -> the launches that were run, in their order."""
    found = {}
    for trial in machine.asked:
        found.setdefault(trial.point.batch_size, []).append(trial.launch)
    return found


def wobble(share):
    """Ratios whose launches differ by a share, by turns up and down."""
    return lambda point, launch: 2.0 * (1 + share * (-1) ** launch)


# The planned launches suffice


def test_an_undisturbed_and_precise_sweep_has_the_planned_launches_and_no_more(measure):
    cells, machine, info = measure()
    assert launches_at(machine) == {1: [1, 2, 3, 4, 5], 4: [1, 2, 3, 4, 5]}
    assert not any(trial.extra for trial in machine.asked)
    assert (info.planned_s, info.stopped) == (10 * TRIAL_S, None)
    assert {cell["launches_extra"] for cell in cells} == {0}


@pytest.mark.parametrize("changes", [{"extra_launches": False}, {"launches": 2}])
def test_no_point_is_launched_again_where_the_user_says_so_or_planned_fewer_than_three_launches(measure, changes):
    _, machine, info = measure(script={"disturbed": lambda point, launch: launch == 1}, **changes)
    assert max(trial.launch for trial in machine.asked) == changes.get("launches", 5)
    assert info.stopped is None


# Disturbed launches


def test_a_disturbed_launch_is_measured_again_kept_and_set_aside(measure):
    def ratio(point, launch):
        return 9.0 if (point.batch_size, launch) == (4, 2) else 2.0

    script = {"ratio": ratio, "disturbed": lambda point, launch: (point.batch_size, launch) == (4, 2)}
    cells, machine, info = measure(script=script)
    assert launches_at(machine) == {1: [1, 2, 3, 4, 5], 4: [*sorted(launches_at(machine)[4])]}
    assert launches_at(machine)[4][-1] == 6
    assert machine.asked[-1].extra
    arm = cells[3]
    assert (arm["batch_size"], arm["launches_ok"], arm["launches_extra"], arm["launches_set_aside"]) == (4, 6, 1, 1)
    assert (arm["status"], arm["speedup_status"], arm["speedup"]) == ("ok", "ok", pytest.approx(2.0))
    assert arm["repetitions"] == 5 * 10
    assert info.stopped is None


def test_a_replaced_launch_whose_outcome_was_wrong_still_makes_the_cell_wrong():
    def record(launch, extra, status=Status.OK):
        trial = replace(TRIAL, launch=launch, extra=extra)
        readings = {"cpu_s": 0.5 if launch == 2 else 1.0, "wall_s": 1.0}
        repetitions = tuple(Repetition(kind="steady", repetition=n, block=n, tokens=12, **readings) for n in range(4))
        return LaunchRecord.of(trial, 0, ArmRecord(arm=ARMS[0], repetitions=repetitions, outcome=Outcome(status=status)))

    launches = [record(1, False), record(2, False), record(3, False), record(4, True)]
    kept = set_aside.counted(launches)
    assert [each.set_aside for each in kept] == [False, True, False, False]
    assert [each.outcome for each in kept] == [each.outcome for each in launches]
    wrong = [*launches[:2], record(3, False, Status.WRONG), launches[3], record(5, True)]
    assert [cell["status"] for cell in derive.derive(wrong)] == ["wrong"]


def test_every_launch_counts_as_long_as_too_few_are_undisturbed():
    launches = [
        LaunchRecord.of(replace(TRIAL, launch=n, extra=n > 3), 0, ArmRecord(arm=ARMS[0], outcome=Outcome(status=Status.OK)))
        for n in range(1, 5)
    ]
    busy = Repetition(kind="steady", repetition=0, block=0, tokens=12, wall_s=1.0, cpu_s=0.5)
    disturbed = [replace(each, repetitions=(busy,)) if each.launch in (1, 2) else each for each in launches]
    assert set_aside.counted(disturbed) == disturbed
    one = [replace(each, repetitions=(busy,)) if each.launch == 1 else each for each in launches]
    assert [each.set_aside for each in set_aside.counted(one)] == [True, False, False, False]


def test_where_the_noise_is_permanent_nothing_is_replaced_and_the_reason_is_stated(measure):
    cells, machine, info = measure(script={"disturbed": lambda point, launch: True})
    assert max(trial.launch for trial in machine.asked) == 5
    assert info.stopped.startswith("4 of the last 4 trials were disturbed, so disturbed launches are not replaced; ")
    assert {cell["status"] for cell in cells} == {"unstable"}


def test_replacing_ends_when_the_noise_becomes_permanent(measure):
    script = {"disturbed": lambda point, launch: launch in (2, 3) or launch > 5}
    _, machine, info = measure(script=script, max_minutes=1000.0)
    assert max(trial.launch for trial in machine.asked) == 7
    assert info.stopped.startswith("4 of the last 4 trials were disturbed")


# Imprecise ratios


def test_an_imprecise_ratio_gets_as_many_launches_as_the_spread_of_the_planned_ones_asks_for(measure):
    cells, machine, info = measure(script={"ratio": wobble(0.05)}, max_minutes=1000.0)
    logs = [math.log(wobble(0.05)(None, launch)) for launch in range(1, 6)]
    needed = intervals.launches_for_width(logs, math.log1p(0.05), 15)
    assert needed == 8
    assert {batch: max(found) for batch, found in launches_at(machine).items()} == {1: needed, 4: needed}
    assert info.stopped is None
    assert [cell["speedup_status"] for cell in cells if cell["arm_index"]] == ["ok", "ok"]


def test_only_the_open_ratio_is_launched_again(measure):
    def ratio(point, launch):
        return wobble(0.05 if point.batch_size == 4 else 0.0)(point, launch)

    _, machine, _ = measure(script={"ratio": ratio}, max_minutes=1000.0)
    assert {batch: max(found) for batch, found in launches_at(machine).items()} == {1: 5, 4: 8}


def test_a_ratio_that_would_need_too_many_launches_gets_none_and_the_reason_is_stated(measure):
    _, machine, info = measure(script={"ratio": wobble(0.5)})
    assert max(trial.launch for trial in machine.asked) == 5
    assert info.stopped == "2 of 2 points would not reach intervals within +-5% with 15 launches"


def test_the_number_of_launches_does_not_depend_on_the_value_of_a_ratio(measure):
    counts = []
    for number, factor in enumerate((0.5, 1.0, 4.0)):
        script = {"ratio": lambda point, launch, factor=factor: factor * wobble(0.05)(point, launch)}
        counts.append(launches_at(measure(script=script, folder=f"run-{number}", max_minutes=1000.0)[1]))
    assert counts[0] == counts[1] == counts[2]


def test_a_sweep_of_one_arm_goes_by_its_throughput(measure):
    _, machine, _ = measure(arms=ARMS[:1], script={"ratio": wobble(0.05)}, max_minutes=1000.0)
    assert {batch: max(found) for batch, found in launches_at(machine).items()} == {1: 8, 4: 8}


# Time


def test_extra_launches_take_at_most_half_of_the_planned_launches_time(measure):
    _, machine, info = measure(batches=(1, 4, 8, 16), script={"ratio": wobble(0.055)})
    planned = [trial for trial in machine.asked if not trial.extra]
    assert len(planned) == 20
    assert len(machine.asked) - len(planned) == 10
    assert info.stopped == "time is up after 5.0 minutes, in launch 8; more --max-minutes give more launches"


def test_the_first_round_is_always_whole_and_time_that_is_up_leaves_out_points_at_random(measure):
    def ratio(point, launch):
        return wobble(point.batch_size / 1000)(point, launch)

    _, machine, info = measure(batches=(1, 4, 8, 16), script={"ratio": ratio}, max_minutes=110 / 60)
    order = [trial.point.batch_size for trial in machine.asked]
    assert order[:4] == [1, 4, 8, 16]
    assert sorted(order[4:8]) == [1, 4, 8, 16]
    assert order == [point.batch_size for launch in (1, 2, 3) for point in info.plan.order(launch)][:11]
    assert info.stopped == "time is up after 1.8 minutes, in launch 3; more --max-minutes give more launches"
    assert info.planned_s is None
    assert len(measure(batches=(1, 4), folder="tiny", max_minutes=0.001)[1].asked) == 2


def test_a_resumed_sweep_counts_the_launches_and_the_time_of_before(measure, tmp_path):
    script = {"ratio": wobble(0.05)}
    _, whole, _ = measure(script=script, max_minutes=1000.0)
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    for path in (tmp_path / "cut" / "raw").glob("0[678]*"):
        path.unlink()
    _, rest, info = measure(script=script, folder="cut", max_minutes=1000.0)
    assert sorted(trial.key for trial in rest.asked) == sorted(trial.key for trial in whole.asked if trial.extra)
    assert info.stopped is None


# Out of memory, and sweeps that find nothing


def test_a_point_that_was_never_measured_is_not_launched_again(measure):
    script = {"fails": lambda point, arm: point.batch_size == 4}
    _, machine, info = measure(script=script)
    assert {batch: set(found) for batch, found in launches_at(machine).items()} == {1: {1, 2, 3, 4, 5}, 4: {1}}
    assert info.stopped is None


def test_an_arm_that_ran_out_of_time_in_an_extra_launch_ends_the_launches_of_its_point(measure):
    """Another launch would only repeat it, so the sweep must not try it for ever."""
    script = {"ratio": wobble(0.05), "fails": lambda point, arm: point.batch_size == 4 and LAUNCHED[0] > 5}
    _, machine, info = measure(script=script, max_minutes=1000.0)
    assert {batch: max(found) for batch, found in launches_at(machine).items()} == {1: 8, 4: 6}
    assert info.stopped is None


# Adaptive


def curve_at(point, launch):
    """A speedup that saturates: flat from batch 32 on in log-log."""
    return 10.0 * point.batch_size / (point.batch_size + 8)


CANDIDATES = (1, *range(4, 97, 4))


def test_an_adaptive_sweep_measures_the_ends_first_and_few_points_in_between(measure):
    _, machine, info = measure(batches=CANDIDATES, adaptive=True, script={"ratio": curve_at})
    first = [trial.point.batch_size for trial in machine.asked if trial.launch == 1]
    assert first[:2] == [1, 96]
    assert 3 <= len(first) <= 7
    assert {tuple(sorted(found)) for found in launches_at(machine).values()} == {(1, 2, 3, 4, 5)}
    assert sorted(launches_at(machine)) == sorted(first)
    assert info.stopped is None


def test_an_adaptive_sweep_stays_below_the_batch_size_at_which_an_arm_failed(measure):
    script = {"ratio": curve_at, "fails": lambda point, arm: point.batch_size > 60}
    cells, _, _ = measure(batches=CANDIDATES, adaptive=True, script=script)
    measured = {cell["batch_size"] for cell in cells if cell["status"] == "ok"}
    assert max(measured) == 60
    assert len(measured) <= 8


def test_an_adaptive_sweep_that_is_resumed_chooses_the_same_points(measure, tmp_path):
    _, whole, _ = measure(batches=CANDIDATES, adaptive=True, script={"ratio": curve_at})
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    first = sorted((tmp_path / "cut" / "raw").glob("*"), key=lambda path: path.stat().st_mtime)
    for path in first[3:]:
        path.unlink()
    _, rest, _ = measure(batches=CANDIDATES, adaptive=True, script={"ratio": curve_at}, folder="cut")
    assert {trial.key for trial in rest.asked} < {trial.key for trial in whole.asked}
    assert len(rest.asked) == len(whole.asked) - 3


# Why the number may follow from the spread


def test_launches_that_follow_from_the_spread_keep_the_coverage_of_the_interval():
    """5,000 simulated A/A ratios of nominal 95 %: the planned five launches, then as many as their spread asks for."""
    generator, covered, used = np.random.default_rng(0), 0, []
    for _ in range(5000):
        logs = generator.normal(0.0, 0.05, 15)
        count = intervals.launches_for_width(logs[:5], math.log1p(0.05), 15) or 5
        found = intervals.ratio([[log] for log in logs[:count]])
        covered += found.low <= 1 <= found.high
        used.append(count)
    assert 6 < np.mean(used) < 9
    assert covered / 5000 == pytest.approx(0.945, abs=0.01)


def test_a_width_that_more_launches_cannot_reach_has_no_number():
    assert intervals.launches_for_width([0.0, 0.2, 0.4], 0.05, 15) is None
    assert intervals.launches_for_width([0.1], 0.05, 15) is None
    assert intervals.launches_for_width([0.1, 0.1], 0.05, 15) == 2


TRIAL = Trial(
    point=Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8, new_tokens=4),
    arms=ARMS,
    launch=1,
    seed=0,
    target_ci=0.05,
    max_seconds=1.0,
)

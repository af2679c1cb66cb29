"""The overhead of nanobench itself, with pytest-benchmark."""

import subprocess
import sys

from nanobench.probes.clock import HostClock
from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results import derive
from nanobench.schema import Arm, Point, Trial
from nanobench.stats import intervals


def rows(launches=5, blocks=20):
    arms = (Arm(engine="uncached"), Arm(engine="cached"))
    found = []
    for batch_size in (1, 4, 8, 16, 32, 64, 93):
        point = Point(
            model="gpt2", dtype="float32", device="cpu", threads=2, batch_size=batch_size, prompt_len=50, new_tokens=16
        )
        for launch in range(launches):
            trial = Trial(point=point, arms=arms, launch=launch, seed=0, target_ci=0.05, max_seconds=4.0)
            for index, arm in enumerate(arms):
                times = [0.1 / (index + 1) + 0.001 * block for block in range(blocks)]
                repetitions = tuple(
                    Repetition(
                        kind="steady",
                        block=b,
                        timestamped=True,
                        wall_s=t,
                        token_times_s=tuple(t * (i + 1) / 16 for i in range(16)),
                        tokens=16,
                    )
                    for b, t in enumerate(times)
                )
                record = ArmRecord(arm=arm, repetitions=repetitions, outcome=Outcome(status=Status.OK))
                found.extend([LaunchRecord.of(trial, 0, record)])
    return found


def test_a_timestamp(benchmark):
    benchmark(HostClock().timestamp)


def test_an_interval(benchmark):
    benchmark(intervals.ratio, [[0.1, 0.11, 0.12]] * 5)


def test_deriving_the_default_sweeps_cells(benchmark):
    benchmark(derive.derive, rows())


def test_help(benchmark):
    benchmark.pedantic(subprocess.run, ([sys.executable, "-m", "nanobench", "--help"],), {"capture_output": True}, rounds=5)

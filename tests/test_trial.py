import errno
import itertools
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.models import _packed_linear as packed_linear
from nanobench.probes import memory
from nanobench.probes.clock import HostClock
from nanobench.probes.instruments import Instruments
from nanobench.probes.leftovers import Leftovers
from nanobench.records import Gate, Outcome, Repetition, Status, Verdict
from nanobench.schema import Arm, Point, Trial
from nanobench.worker import batch_trial as batch_trials
from nanobench.worker import trial as trials


class Clock:
    def __init__(self, timestamp_interval):
        self.timestamp_interval = timestamp_interval


class Scripted:
    """An arm whose repetitions last as long as a script says."""

    def __init__(self, wall_s, arm, now):
        self.wall_s, self.phases, self.timestamped = wall_s, [], []
        self.arm, self.now, self.turns = arm, now, []

    def lay_out(self, block):
        self.laid_out = block

    def repeat(self, repetition, block):
        assert block is self.laid_out
        self.timestamped.append(block.timestamped)
        self.turns.append((next(self.now), block.number, self.arm))
        wall_s = self.wall_s(repetition) if callable(self.wall_s) else self.wall_s
        if isinstance(wall_s, Exception):
            raise wall_s
        facts = {"repetition": repetition, "block": block.number, "timestamped": block.timestamped}
        return Repetition(kind="steady", wall_s=wall_s, tokens=1, **facts)

    def outcome(self):
        return Outcome(status=Status.OK)


def run(tmp_path, *walls, max_seconds=4.0, target_ci=0.05, timestamp_interval=1):
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8, new_tokens=1)
    names = [Arm(engine=f"arm{index}") for index in range(len(walls))]
    trial = Trial(point=point, arms=tuple(names), launch=1, seed=0, target_ci=target_ci, max_seconds=max_seconds)
    arms = trials.Arms(trial, tmp_path, lambda progress: None, Leftovers(HostClock()))
    now = itertools.count()
    scripted = [Scripted(wall, arm, now) for arm, wall in enumerate(walls)]
    arms.live = dict(enumerate(scripted))
    trials.run_blocks(trial, Instruments(Clock(timestamp_interval)), arms)
    return arms, scripted


def noisy(scale):
    return lambda repetition: scale * (1.5 if repetition % 2 else 1.0)


def test_one_pair_is_enough_where_a_pair_takes_two_seconds_and_the_budget_is_spent(tmp_path):
    arms, _ = run(tmp_path, 3.0, 2.5)
    assert [len(arms.steady[index]) for index in (0, 1)] == [1, 1]


def test_two_pairs_are_run_even_past_the_budget_where_a_pair_is_short(tmp_path):
    arms, _ = run(tmp_path, 0.9, 0.9, max_seconds=0.1)
    assert len(arms.steady[0]) == 2


def test_a_noisy_launch_stops_when_its_time_is_up(tmp_path):
    arms, _ = run(tmp_path, noisy(0.1), 0.1, max_seconds=4.0, target_ci=0.001)
    spent = sum(repetition.wall_s for index in (0, 1) for repetition in arms.steady[index])
    assert 4.0 <= spent < 4.0 + 0.3


def test_a_quiet_launch_stops_at_the_fifth_pair(tmp_path):
    arms, _ = run(tmp_path, 0.1, 0.05, max_seconds=100.0)
    assert len(arms.steady[0]) == 5


def test_every_contrast_must_be_narrow_before_a_launch_stops(tmp_path):
    arms, _ = run(tmp_path, 0.1, 0.05, noisy(0.1), max_seconds=3.0, target_ci=0.001)
    assert len(arms.steady[0]) > 5


def test_the_budget_counts_repetitions_of_all_arms(tmp_path):
    arms, _ = run(tmp_path, noisy(0.1), 0.125, 0.125, max_seconds=3.0, target_ci=1e-6)
    assert len(arms.steady[0]) == pytest.approx(3.0 / 0.375, abs=1)


def test_where_timestamps_cost_one_block_in_five_has_them_and_pairs_are_counted_without(tmp_path):
    arms, scripted = run(tmp_path, 0.1, 0.05, max_seconds=100.0, timestamp_interval=5)
    blocks = [repetition.block for repetition in arms.steady[0]]
    timestamped = [repetition.block for repetition in arms.steady[0] if repetition.timestamped]
    assert timestamped == [block for block in blocks if block % 5 == 0]
    assert len(blocks) - len(timestamped) == 5
    assert scripted[0].timestamped == scripted[1].timestamped


def test_an_arm_that_fails_in_the_steady_phase_leaves_and_the_others_go_on(tmp_path):
    def fails_late(repetition):
        return torch.OutOfMemoryError("CUDA out of memory") if repetition == 2 else 0.1

    arms, _ = run(tmp_path, 0.1, fails_late, noisy(0.1), max_seconds=2.0, target_ci=1e-6)
    repetitions, outcome = arms.done[1]
    assert outcome.status is Status.OOM
    assert len(repetitions) == 2
    assert len(arms.steady[0]) > 5
    assert set(arms.live) == {0, 2}


def test_a_lone_arm_stops_by_the_interval_of_its_own_times(tmp_path):
    arms, _ = run(tmp_path, 0.1, max_seconds=100.0)
    assert len(arms.steady[0]) == 5


def test_every_second_block_reverses_the_order_of_the_one_before(tmp_path):
    _, scripted = run(tmp_path, noisy(0.1), 0.1, 0.1, max_seconds=3.0, target_ci=1e-6)
    turns = sorted(turn for each in scripted for turn in each.turns)
    orders = [[arm for _, block, arm in turns if block == number] for number in range(8)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert orders[1::2] == [order[::-1] for order in orders[::2]]
    assert len(set(map(tuple, orders))) > 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), Status.OOM),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Status.OOM),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), Status.OOM),
        (RuntimeError("can't start new thread"), Status.OOM),
        (RuntimeError("shapes differ"), Status.ERROR),
        (ValueError("out of memory, he said"), Status.ERROR),
        (Skip("no cache"), Status.SKIPPED),
    ],
)
def test_an_exception_becomes_the_right_status(error, status):
    outcome = trials.outcome_of(error)
    assert outcome.status is status
    assert outcome.reason


def test_a_reason_is_one_line():
    assert trials.outcome_of(ValueError("one\ntwo")).reason == "ValueError: one"
    assert trials.outcome_of(KeyError()).reason == "KeyError"


def test_a_compiler_is_quoted_with_its_explanation():
    def asks_for_a_symbol(x):
        return torch.rand(x.shape, generator=None)

    with pytest.raises(RuntimeError) as raised:
        torch.compile(asks_for_a_symbol, dynamic=True)(torch.zeros(3, 1))
    torch._dynamo.reset()
    reason = trials.outcome_of(raised.value).reason
    assert "expected to contain only concrete integers" in reason
    assert "\n" not in reason


def test_the_allocators_peak_is_what_was_held_at_once_on_top():
    def work():
        first = torch.empty(1 << 20)
        second = torch.empty(1 << 19)
        del first
        third = torch.empty(1 << 18)
        return second, third

    _, peak = memory.allocator_peak(work, torch.device("cpu"))
    assert peak == pytest.approx(4 * ((1 << 20) + (1 << 19)), rel=0.01)


FAULTS = """
import resource, torch
from nanobench.probes import memory
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):
    faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_freed_memory_is_kept_where_asked_for():
    def faults(first):
        command = [sys.executable, "-c", FAULTS.format(first=first)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("memory.keep_freed()") < 1000 < faults("")


def test_the_memory_limit_is_lifted_again():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(RuntimeError, match="can't allocate memory"), memory.limited(1 << 30):
        torch.empty(1 << 32)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with memory.limited(None):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


class Compiled:
    """An arm that only records inductor's cache folder."""

    def __init__(self):
        self.phases, self.folder = [], None

    def prepare(self, known):
        self.folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        return Gate(Verdict.EXACT, "")

    def warm_up(self):
        pass


def test_an_arm_finds_what_it_compiled_in_an_earlier_launch_and_no_other_arm_does(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))

    def folders(launch, batch_size=1, new=("greedy", "top-k"), **asked):
        point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=batch_size, prompt_len=8)
        names = tuple(Arm(engine="cached", compile_mode="default", sampler=sampler) for sampler in ("greedy", "top-k"))
        trial = Trial(point=point, arms=names, launch=launch, seed=0, target_ci=0.05, max_seconds=1, **asked)
        workloads = {arm: Compiled() for arm in names}
        context = SimpleNamespace(make_workload=lambda arm, clock: workloads[arm])
        arms = trials.Arms(trial, tmp_path, lambda progress: None, Leftovers(HostClock()))
        known = {arm.label: Gate(Verdict.EXACT, "") for arm in names if arm.sampler not in new}
        trials.prepare_arms(trial, context, Clock(1), known, arms)
        return [workload.folder for workload in workloads.values()]

    first, (shared,) = folders(1), {*folders(1, gate_only=True)}
    assert shared == str(tmp_path / "inductor")
    assert len({*first, *folders(1, batch_size=2), shared}) == 5
    left = [Path(folder) / "graph" for folder in first]
    for each in left:
        each.parent.mkdir(parents=True)
        each.touch()
    assert folders(2, new=()) == folders(6, new=(), extra=True) == first
    assert all(each.exists() for each in left)
    folders(2, new=("top-k",))
    assert [each.exists() for each in left] == [True, False]
    folders(1, new=())
    assert not any(each.exists() for each in left)


def test_a_batch_trial_runs_all_arms_at_once(tmp_path, monkeypatch):
    """Memory for one arm: two run out of memory, and an arm that cannot run here leaves nothing in memory."""
    alive = weakref.WeakSet()

    class Arms:
        def __init__(self, here):
            self.here = here

        def begin(self):
            alive.add(self)
            if len(alive) > 1:
                raise MemoryError
            if not self.here:
                raise Skip("not here")

        def time(self, kind, repetition, block):
            return Repetition(kind=kind, wall_s=1.0, tokens=1)

    def tried(*names):
        alive.clear()
        context = SimpleNamespace(
            inference=True,
            reserve_gate_memory=lambda: None,
            make_workload=lambda arm, clock: Arms(arm.engine != "absent"),
        )
        monkeypatch.setattr(batch_trials, "make_context", lambda trial, world: context)
        point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8)
        arms = tuple(Arm(engine=name) for name in names)
        trial = Trial(point=point, arms=arms, launch=1, seed=0, target_ci=0.1, max_seconds=1)
        return batch_trials.run_batch_trial(trial, tmp_path)["status"]

    assert tried("one") == Status.OK
    assert tried("one", "two") == Status.OOM
    assert tried("absent", "one") == Status.OK
    assert tried("absent") == Status.SKIPPED


def test_where_the_disk_has_no_room_a_vector_stays_where_it_is(monkeypatch):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    vector = torch.ones(8)
    assert memory.on_disk(vector) is vector


def test_what_lies_on_disk_is_no_private_memory():
    """In a process of its own: here a copy may find room among what was freed."""
    code = """
import re, resource, torch
from pathlib import Path
from nanobench.probes import memory
vector = torch.arange(1 << 25, dtype=torch.float32)
private = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
with memory.limited(private + vector.nbytes // 2):
    kept = memory.on_disk(vector)
    print(torch.equal(kept, vector), kept is vector)
    vector.clone()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]
    assert "can't allocate memory" in done.stderr


def test_contrasts_are_logs_of_the_references_time_over_the_arms(tmp_path):
    arms, _ = run(tmp_path, 0.2, 0.1, max_seconds=0.1)
    assert trials.contrasts(arms, 1) == [[pytest.approx(math.log(2))] * 2]


class Watched(Scripted):
    """An arm that records what is asked of it after its timed work."""

    def __init__(self):
        super().__init__(1.0, 0, itertools.count())
        self.asked = []

    def profile(self, trace):
        self.asked.append("profile")

    def count_sustained(self, seconds):
        return 1

    def sustain(self, count):
        self.asked.append("sustain")
        return Repetition(kind="sustained", wall_s=1.0, tokens=1)


@pytest.mark.parametrize(("launch", "known", "new"), [(1, (), (0, 1)), (2, (0,), (1,)), (3, (0, 1), ()), (1, (0, 1), (0, 1))])
def test_an_arm_is_sustained_and_profiled_in_its_first_launch(tmp_path, launch, known, new):
    """Launch 1 is the first one whatever is known: a damaged file of it was measured again."""
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8)
    names = (Arm(engine="arm0"), Arm(engine="arm1"))
    trial = Trial(point=point, arms=names, launch=launch, seed=0, target_ci=0.05, max_seconds=1)
    arms = trials.Arms(trial, tmp_path, lambda progress: None, Leftovers(HostClock()))
    arms.live = {index: Watched() for index in (0, 1)}
    gates = {names[index].label: Gate(Verdict.EXACT, "") for index in known}
    trials.sustain(trial, gates, Instruments(Clock(1), sustained_s=1.0), arms)
    trials.profile(trial, gates, tmp_path, arms)
    assert [index for index, each in arms.live.items() if each.asked == ["sustain", "profile"]] == list(new)
    assert [index for index, each in arms.live.items() if not each.asked] == [index for index in (0, 1) if index not in new]


def test_the_wider_model_and_the_packed_weights_never_take_memory_at_once(tmp_path, monkeypatch):
    packed_bytes, cast = [], generation_gate.cast

    def watched(adapter, dtype):
        packed_bytes.append(packed_linear.packed_bytes(adapter.module))
        return cast(adapter, dtype)

    monkeypatch.setattr(generation_gate, "cast", watched)
    threads = torch.get_num_threads()
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=threads, batch_size=1, prompt_len=4, new_tokens=4)
    trial = Trial(
        point=point,
        arms=(Arm(engine="uncached"), Arm(engine="cached")),
        launch=1,
        seed=0,
        target_ci=0.05,
        max_seconds=1.0,
        gate_only=True,
    )
    first = trials.measure(trial, {}, tmp_path, lambda progress: None)
    known = {record.arm.label: Gate(record.outcome.gate, "", digest=record.outcome.digest) for record in first}
    assert packed_bytes == [0, 0]
    assert {record.outcome.gate for record in first} == {Verdict.EXACT}
    assert all(record.outcome.packed_bytes for record in first)
    trials.measure(trial, known, tmp_path, lambda progress: None)
    assert packed_bytes == [0, 0]

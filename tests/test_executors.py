"""Executors: the contract of local, slurm and ray, several trials at once, and machines that are not alike."""

import math
import sys
import threading
import time
import types
from dataclasses import replace

import psutil
import pytest

import fake_cluster
from conftest import SMALL, TESTS
from nanobench import registry
from nanobench.errors import UserError
from nanobench.records import ArmRecord, Description, Outcome, Repetition, Status
from nanobench.results import store
from nanobench.results.run_info import RunInfo
from nanobench.schema import Arm, Plan, Point, Trial
from nanobench.sweep import device_lock, schedule, session, site
from nanobench.sweep.executors import local, slurm
from nanobench.sweep.executors.base import Interpreter, WorkerResult, at_once
from nanobench.sweep.flight import TimeIsUp
from nanobench.sweep.objects import shipping
from nanobench.sweep.options import SweepOptions
from nanobench.sweep.runner import Sweep


@pytest.fixture
def worker(tmp_path):
    """A program that stands for Python with nanobench's worker."""
    program = tmp_path / "worker"
    program.write_text(f"#!{sys.executable}\n" + (TESTS / "fake_worker.py").read_text())
    program.chmod(0o700)
    return program


@pytest.fixture
def cluster(worker, monkeypatch):
    """Installs the stand-ins of submitit and ray. Returns what starts their jobs."""
    jobs = fake_cluster.Jobs(worker)
    nodes = [{"CPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}]
    monkeypatch.setitem(sys.modules, "submitit", fake_cluster.submitit(jobs))
    monkeypatch.setitem(sys.modules, "ray", fake_cluster.ray(jobs, nodes))
    monkeypatch.setattr(slurm, "queued", dict)
    for name, value in {"LATE_S": 0.0, "GONE_S": 0.0, "LOOK_EVERY_S": 0.02, "STATES_EVERY_S": 0.0}.items():
        monkeypatch.setattr(slurm, name, value)
    return jobs


MAKE = {
    "fork server": lambda cache, own: local.build("forkserver", 0, cache, own),
    "processes": lambda cache, own: local.build("spawn", 0, cache, own),
    "gpus": lambda cache, own: local.build("forkserver", 0, cache, own, pinned=("3", "7")),
    "slurm": lambda cache, own: registry.find("executors", "slurm:retries=0")("spawn", 0, cache),
    "ray": lambda cache, own: registry.find("executors", "ray:retries=0")("spawn", 0, cache),
}


@pytest.fixture(params=MAKE)
def executor(request, worker, cluster, tmp_path):
    made = MAKE[request.param](tmp_path / "run" / "scratch" / "inductor", Interpreter(str(worker)))
    yield made
    made.close()


def play(executor, tmp_path, do, timeout_s=60.0, name="1", **more):
    """What an executor makes of a request to the fake worker."""
    request = {"play": {"do": do, **more}}
    return executor.run(request, tmp_path / "out" / name, tmp_path / f"{name}.log", timeout_s, lambda report: None)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# The contract
def test_an_answer_comes_back_with_its_log_and_its_traces(executor, tmp_path):
    found = play(executor, tmp_path, "answer", say="é")
    assert (found.status, found.reason, found.record["say"]) == ("ok", None, "é")
    assert found.record["machine"]["node"]
    assert "a worker plays answer" in (tmp_path / "1.log").read_text()
    assert (tmp_path / "out" / "1" / "trace-0.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("do", "status", "killed", "reason"),
    [
        ("fail", Status.OOM, False, "out of memory"),
        ("die", Status.ERROR, True, "worker killed by SIGKILL (the kernel's OOM killer, or a manual kill)"),
        ("exit", Status.ERROR, False, "worker ended with exit code 3; its log says: a worker plays exit"),
    ],
)
def test_a_worker_that_fails_is_a_result_with_the_reason(executor, tmp_path, do, status, killed, reason):
    assert play(executor, tmp_path, do) == WorkerResult(None, status, reason, killed=killed, running=1)
    assert play(executor, tmp_path, "answer").record


def test_a_worker_that_hangs_is_stopped_at_its_time_limit(executor, tmp_path):
    pid_file = tmp_path / "pid"
    found = play(executor, tmp_path, "hang", timeout_s=0.4, say=str(pid_file))
    assert (found.status, found.reason) == ("timeout", "no answer within 0.4 s")
    assert has_ended(int(pid_file.read_text()))


def test_close_ends_what_another_thread_waits_for(executor, tmp_path):
    pid_file, found = tmp_path / "pid", []
    thread = threading.Thread(target=lambda: found.append(play(executor, tmp_path, "hang", say=str(pid_file))))
    thread.start()
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    executor.close()
    thread.join(timeout=30)
    assert found[0].record is None
    wait_until(lambda: has_ended(int(pid_file.read_text())))


def test_nothing_is_left_of_jobs_in_the_folder_of_a_run(executor, tmp_path):
    play(executor, tmp_path, "answer")
    executor.close()
    assert not (tmp_path / "run").exists()


# Each site
def test_each_round_has_a_fork_server_of_its_own(worker, tmp_path):
    """So launches differ in hash seed and in address layout. A request of no round takes the server that is there."""
    executor = MAKE["fork server"](tmp_path / "cache", Interpreter(str(worker)))
    servers, seeds = [], []
    for launch in (None, 1, 1, 2, None, 2, 3):
        trial = {"launch": launch, "point": {"world_size": 1}}
        request = {"play": {"do": "answer"}, **({"trial": trial} if launch else {})}
        record = executor.run(request, tmp_path / "out", tmp_path / "log", 60.0, lambda report: None).record
        servers.append(record["server"])
        seeds.append(record["seed"])
    executor.close()
    assert [servers.index(each) for each in servers] == [0, 0, 0, 3, 3, 3, 6]
    assert [seeds.index(each) for each in seeds] == [0, 0, 0, 3, 3, 3, 6]
    assert all(has_ended(each) for each in servers)


def test_each_gpu_has_a_worker_that_sees_no_other(worker, tmp_path):
    executor = MAKE["gpus"](tmp_path / "cache", Interpreter(str(worker)))
    assert (at_once(executor, "cuda"), at_once(executor, "cpu")) == (2, 1)
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(play(executor, tmp_path, "answer", name=n, takes_s=0.5)))
        for n in ("a", "b")
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    executor.close()
    assert sorted(each.record["gpu"] for each in found) == ["3", "7"]


def test_free_gpus_are_held_and_others_are_left(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOBENCH_LOCKS", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_lock, "count_gpus", lambda: 3)
    with device_lock.hold("cuda:1", False, print), device_lock.hold_gpus(False, print) as gpus:
        assert gpus == ("0", "2")
        with pytest.raises(UserError, match="cuda:0 is held by"), device_lock.hold_gpus(False, print):
            pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc, GPU-def")
    with device_lock.hold_gpus(False, print) as gpus:
        assert gpus == ("GPU-abc", "GPU-def")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with device_lock.hold_gpus(False, print) as gpus:
        assert gpus == ()
        assert "cuda-5.holder" in [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "device", "any_gpu"),
    [
        ({"device": "cuda"}, "cuda", True),
        ({"device": "auto"}, "cuda:0", True),
        ({"device": "cuda:1"}, "cuda:1", False),
        ({"device": "cpu"}, "cpu", False),
    ],
)
def test_a_sweep_takes_all_gpus_unless_it_names_one(monkeypatch, options, device, any_gpu):
    monkeypatch.setattr(device_lock, "count_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert site.devices_of(SweepOptions(**options)) == ([device], any_gpu)


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_lost_job_is_sent_again_and_the_log_says_so(cluster, tmp_path, name):
    cluster.lose = (1,)
    executor = registry.find("executors", name)("spawn", 0, tmp_path / "scratch" / "inductor")
    assert play(executor, tmp_path, "answer", say=1).record["say"] == 1
    log = (tmp_path / "1.log").read_text()
    assert "the node burns; it is sent again" in log
    assert len(cluster.started) == 2
    cluster.lose = (3, 4)
    found = play(executor, tmp_path, "answer")
    assert (found.record, found.status) == (None, "error")
    assert found.reason.endswith("the node burns (attempt 2 of 2)")
    executor.close()


def test_a_job_that_is_lost_names_its_number_and_how_it_ended(cluster, tmp_path):
    cluster.lose = (1, 2)
    slurm_jobs, tasks = MAKE["slurm"](tmp_path / "a" / "cache", None), MAKE["ray"](tmp_path / "cache", None)
    assert play(slurm_jobs, tmp_path, "answer").reason == "job 1 ended with state NODE_FAIL: the node burns"
    assert play(tasks, tmp_path, "answer").reason == "task 0000000000000000 was lost: RayError: the node burns"


def test_what_slurm_or_ray_refuses_is_the_reason_and_is_not_sent_again(cluster, tmp_path):
    executor = registry.find("executors", "slurm:partition=nope,retries=5")("spawn", 0, tmp_path / "s" / "cache")
    found = play(executor, tmp_path, "answer")
    assert found.reason == "the job cannot be submitted: sbatch: error: invalid partition specified: nope"
    many = registry.find("executors", "ray:cpus=5")("spawn", 0, tmp_path)
    assert play(many, tmp_path, "answer").reason == "no node of the Ray cluster has 5 CPUs"
    assert cluster.started == []


def test_a_job_has_the_options_that_were_written(cluster, tmp_path, monkeypatch):
    text = "slurm:partition=gpu,account=x,gres=gpu:h100:1,time=30,cpus=8,mem=16G,at_once=3,retries=0"
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    executor = registry.find("executors", text)("spawn", 0, tmp_path / "s" / "cache")
    assert at_once(executor, "cuda") == 3
    assert play(executor, tmp_path, "answer").record["machine"]["node"] == "n17"
    wanted = {"partition": "gpu", "account": "x", "gres": "gpu:h100:1", "time": 30, "cpus_per_task": 8, "mem": "16G"}
    assert cluster.sbatch == {"no_requeue": True, "exclusive": True, **wanted}
    assert executor.options("cuda", 600.0) == {"no_requeue": True, **wanted}
    assert MAKE["slurm"](tmp_path, None).options("cuda", 600.0) == {"no_requeue": True, "gres": "gpu:1", "time": 30}
    assert "exclusive" not in registry.find("executors", "slurm:exclusive=false")("", 0, tmp_path).options("cpu", 1.0)


def test_a_task_has_a_gpu_or_the_cores_of_a_whole_node(cluster, tmp_path):
    executor = MAKE["ray"](tmp_path, None)
    assert (at_once(executor, "cuda"), at_once(shipping(executor, {"name": "file"}), "cpu")) == (2, 2)
    assert executor.needs({"describe": {"device": "auto"}}) == {"num_gpus": 1, "num_cpus": 1}
    assert executor.needs({"calibrate": {"device": "cpu"}}) == {"num_gpus": 0, "num_cpus": 4}
    assert executor.needs({"trial": {"point": {"device": "cuda"}}}) == {"num_gpus": 1, "num_cpus": 1}
    two = registry.find("executors", "ray:gpus=2,at_once=1")("spawn", 0, tmp_path)
    assert (two.needs({"check": {"trial": {"point": {"device": "cuda"}}}})["num_gpus"], at_once(two, "cpu")) == (2, 1)


def test_a_node_with_other_code_measures_nothing(cluster, tmp_path, monkeypatch):
    executor = MAKE["ray"](tmp_path, None)
    monkeypatch.setattr("nanobench.sweep.executors.ray.digest", lambda: "another")
    found = play(executor, tmp_path, "answer")
    assert found.record is None
    assert found.reason.endswith("ffffffff has other source code of nanobench than the control process; install the same "
                                 "version on all nodes")  # fmt: skip


def test_the_states_of_jobs_are_read_from_squeue(tmp_path, monkeypatch):
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho '12 RUNNING'; echo '13 NODE_FAIL'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queued() == {"12": "RUNNING", "13": "NODE_FAIL"}
    queue = slurm.Queue()
    states = [queue.state(types.SimpleNamespace(job_id=number, state="CANCELLED by 7"), 0.0) for number in ("12", "14")]
    assert states == ["RUNNING", "CANCELLED"]
    program.write_text("#!/bin/sh\nexit 1\n")
    assert slurm.queued() == {}


@pytest.mark.parametrize(("state", "status"), [("TIMEOUT", "timeout"), ("OUT_OF_MEMORY", "oom"), ("UNKNOWN", "error")])
def test_a_job_that_exceeds_a_limit_of_slurm_is_not_sent_again(tmp_path, state, status):
    found = slurm.lost(types.SimpleNamespace(job_id="7", stderr=lambda: None), state, tmp_path)
    assert (found.status, found.again) == (status, status == "error")
    assert str(found).startswith("job 7 ")


# Options
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slrum", "unknown executor 'slrum'; did you mean 'slurm'"),
        ("slurm:partion=x", "unknown argument 'partion' of executor 'slurm'; did you mean 'partition'"),
        ("local:pinned=2", "unknown argument 'pinned' of executor 'local'"),
        ("no_such_lab:build", "no_such_lab"),
    ],
)
def test_an_executor_that_does_not_exist_is_refused_at_once(text, words):
    with pytest.raises(UserError) as caught:
        SweepOptions(executor=text).validate()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slurm:retries=-1", "retries=-1 of executor 'slurm' is not allowed; give a whole number (at least 0)"),
        ("slurm:at_once=many", "at_once=many of executor 'slurm' is not allowed; give a whole number (at least 1)"),
        ("ray:cpus=0.5", "cpus=0.5 of executor 'ray' is not allowed; give a whole number (at least 1) or none"),
        ("json:loads", "cannot be made: TypeError"),
        ("test_executors:nothing", "has no run() and close()"),
    ],
)
def test_an_executor_that_cannot_be_made_is_one_line(cluster, tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        site.build(site.Site(text), "spawn", 0, tmp_path)
    assert words in str(caught.value)


def nothing(isolation, seed, cache):
    """What a plug-in may return by mistake."""


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_a_missing_package_is_named_with_the_fix(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    text = {"submitit": "slurm"}.get(name, name)
    with pytest.raises(UserError, match=rf"executor {text} needs {name}, which is not installed; install it with: pip"):
        site.build(site.Site(text), "spawn", 0, tmp_path)


def test_a_numbered_gpu_is_refused_for_another_machine():
    with pytest.raises(UserError, match="choose cuda with --executor slurm"):
        SweepOptions(executor="slurm", device="cuda:1").validate()


# Several trials at once
BATCHES = (1, 2, 4, 8, 16)
ARMS = (Arm(engine="uncached"), Arm(engine="cached"))
LIKE = {"cpu": "a CPU", "cores": 4}
SIZES = {"architecture": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 256, "block_size": 256}


class Machines:
    """An executor that answers several trials at once. The first ones of a round wait for each other, to show that they are."""

    def __init__(self, together=3, facts=lambda trial: LIKE, fails=lambda trial: None):
        self.together, self.facts, self.fails = together, facts, fails
        self.started, self.inside, self.lock = [], [], threading.Lock()
        self.meeting, self.closed = threading.Barrier(together), 0

    def at_once(self, device):
        return self.together

    def run(self, request, folder, log, timeout_s, progress):
        trial = Trial.from_json(request["trial"])
        with self.lock:
            assert trial.point not in self.inside, "two launches of a point at once"
            self.inside.append(trial.point)
            self.started.append((trial.launch, trial.point.batch_size))
            is_early = len([launch for launch, _ in self.started if launch == trial.launch]) <= self.together
            assert len(self.inside) <= self.together
        if is_early and self.meeting.parties > 1:
            self.meeting.wait(timeout=30)
        progress({"phase": "steady", "arm": "cached", "index": 1})
        if error := self.fails(trial):
            raise error
        walls = dict(zip(trial.arms, (2.0, 1.0), strict=False))
        arms = [record(arm, wall_s) for arm, wall_s in walls.items()]
        with self.lock:
            self.inside.remove(trial.point)
        return WorkerResult({"arms": arms, "machine": {"node": f"n{trial.point.batch_size}", "facts": self.facts(trial)}})

    def close(self):
        self.closed += 1


def record(arm, wall_s):
    """What a worker says of an arm."""
    from dataclasses import asdict

    repetitions = tuple(Repetition(kind="steady", repetition=n, block=n, wall_s=wall_s, tokens=12) for n in range(4))
    return asdict(ArmRecord(arm=arm, repetitions=repetitions, outcome=Outcome(status=Status.OK)))


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measures a plan on an executor. Returns the cells and the run."""

    def run(machines, kind=Sweep, **changes):
        known = {"device": "cpu", "gpus": [], "identity": {"hash": "0123456789ab", **LIKE}, "matmul_flops_per_s": 1e11}
        description = Description.from_json({**known, "models": {"gpt2-nano": {"n_params": 1, "n_kv_head": 2, **SIZES}}})
        description = replace(description, code=session.code_of([], []))
        base = {"model": "gpt2-nano", "dtype": "float32", "device": "cpu", "threads": 1, "prompt_len": 8, "new_tokens": 4}
        limits = {"memory_limit_bytes": None, "timeout_s": 60.0, "isolation": "spawn", "check": False, "calibration": "off"}
        timing = {"launches": 2, "seed": 0, "target_ci": 0.05, "max_seconds": 1.0, **changes}
        plan = Plan(points=tuple(Point(batch_size=size, **base) for size in BATCHES), arms=ARMS, **limits, **timing)
        info = RunInfo(command="kv-sweep", requested={}, plan=plan, description=description, started_at=session.now())
        kept = store.Run(tmp_path / "run")
        if not kept.info_file.exists():
            store.create(kept.folder, info)
        monkeypatch.setattr(local, "build", lambda *given: machines)
        return session.measure(kept, plan, description, kind=kind), kept

    return run


def launches_in(run):
    """Batch size -> launches that are stored."""
    found = {}
    for each in run.read_raw():
        if each.arm_index == 0:
            found.setdefault(each.point.batch_size, []).append(each.launch)
    return found


def test_several_trials_are_measured_at_once_each_point_once_per_round(measure):
    machines = Machines()
    cells, run = measure(machines)
    assert len(machines.started) == len(set(machines.started)) == 2 * len(BATCHES)
    assert launches_in(run) == {size: [1, 2] for size in BATCHES}
    assert [(cell["batch_size"], cell["arm_index"]) for cell in cells] == [(size, arm) for size in BATCHES for arm in (0, 1)]
    assert [cell["speedup"] for cell in cells if cell["arm_index"]] == pytest.approx([2.0] * len(BATCHES))
    assert {each.node for each in run.read_raw() if each.point.batch_size == 8} == {"n8"}
    assert run.info().finished_at
    assert machines.closed == 1


def test_the_next_round_begins_while_the_slowest_trial_of_the_one_before_still_runs(measure):
    """A second trial of a point that runs would fail in the executor."""
    begun, waited = threading.Event(), []

    def slow(trial):
        if trial.launch == 2:
            begun.set()
        if (trial.launch, trial.point.batch_size) == (1, BATCHES[0]):
            waited.append(begun.wait(timeout=30))

    machines = Machines(fails=slow)
    machines.meeting = threading.Barrier(1)
    _, run = measure(machines)
    assert waited == [True]
    assert launches_in(run) == {size: [1, 2] for size in BATCHES}


def test_what_is_launched_again_is_decided_when_all_planned_trials_have_ended(measure, monkeypatch):
    known, needs = [], schedule.needs
    monkeypatch.setattr(schedule, "needs", lambda plan, launches: known.append(len(launches)) or needs(plan, launches))
    machines = Machines(fails=lambda trial: time.sleep(0.02 * trial.point.batch_size))
    measure(machines)
    assert known == [2 * len(ARMS) * len(BATCHES)]


def test_extra_launches_are_decided_when_those_before_have_ended(measure, monkeypatch):
    """Every point is launched once more, then none."""
    again = []

    def needs(plan, launches):
        again.append(len(launches))
        return schedule.Needs(list(plan.points) if len(again) == 1 else [], [])

    monkeypatch.setattr(schedule, "needs", needs)
    monkeypatch.setattr(schedule, "limit_s", lambda plan, planned_s: math.inf)
    _, run = measure(Machines(fails=lambda trial: time.sleep(0.02 * trial.point.batch_size)))
    assert again == [2 * len(ARMS) * len(BATCHES), 3 * len(ARMS) * len(BATCHES)]
    assert launches_in(run) == {size: [1, 2, 3] for size in BATCHES}


def test_nodes_that_leave_between_two_rounds_leave_room_for_fewer_trials(measure):
    """At once three trials, then one; no trial is lost, and none runs beside another."""
    machines = Machines()
    machines.meeting = threading.Barrier(1)
    machines.at_once = lambda device: 3 if len(machines.started) < len(BATCHES) else 1
    alone = []

    def look(trial):
        if trial.launch == 2:
            alone.append(len(machines.inside))

    machines.fails = look
    _, run = measure(machines)
    assert launches_in(run) == {size: [1, 2] for size in BATCHES}
    assert alone == [1] * len(BATCHES)


def test_one_at_a_time_runs_in_the_order_of_the_plan_and_in_the_thread_of_the_sweep(measure):
    threads = set()
    machines = Machines(together=1, facts=lambda trial: threads.add(threading.current_thread()) or LIKE)
    _, run = measure(machines)
    plan = run.info().plan
    assert machines.started == [(launch, point.batch_size) for launch in (1, 2) for point in plan.order(launch)]
    assert threads == {threading.current_thread()}


def test_an_error_keeps_what_is_finished_and_ends_the_others(measure):
    def fails(trial):
        return UserError("gpt.py changed") if (trial.launch, trial.point.batch_size) == (2, 4) else None

    machines = Machines(fails=fails)
    with pytest.raises(UserError, match=r"gpt\.py changed"):
        measure(machines)
    assert machines.closed >= 1
    machines.fails, machines.inside, machines.started = (lambda trial: None), [], []
    machines.meeting = threading.Barrier(1)
    _, run = measure(machines)
    assert {launch for launch, _ in machines.started} == {2}
    assert launches_in(run) == {size: [1, 2] for size in BATCHES}


class Late(Sweep):
    """A sweep whose time is up when its second round has begun two trials."""

    def refuse_late(self, trial):
        if trial.launch > 1 and self.begun >= 2:
            raise TimeIsUp("time is up")
        self.begun = 0 if trial.launch == 1 else self.begun + 1


def test_trials_that_run_when_the_time_is_up_are_saved(measure):
    cells, run = measure(Machines(together=2), kind=Late)
    assert sorted(map(len, launches_in(run).values())) == [1, 1, 1, 2, 2]
    assert len(cells) == 2 * len(BATCHES)
    assert run.info().stopped == "time is up"


def test_an_adaptive_first_round_runs_one_trial_at_a_time(measure):
    machines = Machines(together=3)
    machines.meeting = threading.Barrier(1)
    sizes = []
    machines.facts = lambda trial: sizes.append(len(machines.inside)) or LIKE
    measure(machines, adaptive=True, launches=1)
    assert set(sizes) == {0}


def test_further_rounds_of_an_adaptive_sweep_run_several_trials_at_once(measure):
    machines = Machines(together=2)
    machines.meeting = threading.Barrier(1)
    together = []
    machines.fails = lambda trial: time.sleep(0.05) or together.append((trial.launch, len(machines.inside)))
    _, run = measure(machines, adaptive=True, launches=3)
    assert {count for launch, count in together if launch == 1} == {1}
    assert max(count for launch, count in together if launch > 1) == 2
    assert set(map(tuple, launches_in(run).values())) == {(1, 2, 3)}


# Machines that are not alike
def test_launches_of_unlike_machines_are_never_mixed(measure):
    other = {"cpu": "another CPU", "cores": 4}
    machines = Machines(facts=lambda trial: other if (trial.launch, trial.point.batch_size) == (1, 4) else LIKE)
    cells, run = measure(machines)
    cell = next(cell for cell in cells if cell["batch_size"] == 4 and cell["arm_index"] == 1)
    assert (cell["launches_ok"], cell["launches_failed"]) == (1, 1)
    reason = "n4 is not like the machine that the plan was made for (cpu is another CPU, not a CPU): its times are not kept"
    assert reason in cell["failures"]
    assert not [each for each in run.read_raw() if each.outcome.reason == reason and each.repetitions]
    assert {cell["launches_ok"] for cell in cells if cell["batch_size"] != 4} == {2}


def test_a_worker_names_its_machine_in_its_record(small_run):
    launches = store.Run(small_run[0]).read_raw()
    assert {each.node for each in launches} == {store.Run(small_run[0]).info().description.state["hostname"]}


# The command line
class Inline:
    """submitit whose jobs run where they are submitted."""

    def __init__(self, folder):
        self.folder = folder

    def update_parameters(self, **given):
        pass

    def submit(self, function, *arguments):
        function(*arguments)
        return types.SimpleNamespace(job_id="1", state="COMPLETED")


def test_a_sweep_on_a_cluster_has_the_files_of_a_local_one_and_continues_there(nanobench_here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(SlurmExecutor=Inline))
    asked = ("kv-sweep", *SMALL, "--batch", "1,2", "--launches", 1, "--executor", "slurm:at_once=1,time=5")
    nanobench_here(*asked, "--out", "run", cwd=tmp_path, code=0)
    run = store.Run(tmp_path / "run")
    assert run.info().requested["executor"] == "slurm:at_once=1,time=5"
    assert {each.outcome.gate for each in run.read_raw()} == {"exact"}
    assert all(each.outcome.checked_calls for each in run.read_raw())
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"cells.arrow", "cells.parquet", "journal.jsonl", "logs", "raw", "run.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    next(run.raw.glob("*-b2-*")).unlink()
    refused = nanobench_here("kv-sweep", "--resume", "run", "--executor", "ray", cwd=tmp_path, code=2)
    assert "drop --executor" in refused.stderr
    nanobench_here("kv-sweep", "--resume", "run", "--no-plot", cwd=tmp_path, code=0)
    assert launches_in(run) == {1: [1], 2: [1]}


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_an_interrupt_cancels_the_job_that_the_sweep_itself_waits_for(cluster, tmp_path, monkeypatch, name):
    executor, pid_file = MAKE[name](tmp_path / "run" / "scratch" / "inductor", None), tmp_path / "pid"

    def interrupted(*given):
        wait_until(lambda: pid_file.exists() and pid_file.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm.Slurm, "wait", interrupted)
    monkeypatch.setattr(sys.modules["ray"], "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(executor, tmp_path, "hang", say=str(pid_file))
    executor.close()
    wait_until(lambda: has_ended(int(pid_file.read_text())))
    assert cluster.started[0].poll() is not None


def test_what_slurm_refuses_is_one_line_and_leaves_nothing(cluster, nanobench_here, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    done = nanobench_here("kv-sweep", *SMALL, "--executor", "slurm:partition=nope", "--out", "run", cwd=here, code=2)
    refused = "the job cannot be submitted: sbatch: error: invalid partition specified: nope"
    assert done.stderr == f"the models cannot be described: {refused}\n"
    assert list(here.iterdir()) == []


def test_a_ray_cluster_that_does_not_answer_is_refused_at_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    with pytest.raises(UserError) as caught:
        site.build(site.Site("ray:address=127.0.0.1:1"), "spawn", 0, tmp_path)
    assert "executor ray finds no cluster at 127.0.0.1:1: [Errno 111] Connection refused; start one" in str(caught.value)
    asked = []
    monkeypatch.setattr(sys.modules["ray"], "init", lambda **given: asked.append(given["address"]), raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    site.build(site.Site("ray"), "spawn", 0, tmp_path)
    assert asked == ["auto"]

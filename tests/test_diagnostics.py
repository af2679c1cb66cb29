"""What is found wrong with a machine: each problem by itself, and nothing where nothing is."""

import pytest

from nanobench.analysis import diagnostics
from nanobench.probes import nvml

IDENTITY = {"cores": 8, "cpu_quota": 8.0, "memory_gib": 100}
GPU = {
    "name": "NVIDIA H100",
    "gpu_util": 0.0,
    "clock_event_reasons": "",
    "persistence_mode": True,
    "power_limit_enforced_w": 700.0,
    "power_limit_default_w": 700.0,
    "power_limit_max_w": 700.0,
    "performance_state": 0,
    "processes": 0,
}
STATE = {
    "load_1m": 4.0,
    "busy": [],
    "cpu_pressure": 0.1,
    "governor": "performance",
    "omp_threads": 8,
    "available_gib": 10.0,
    "gpus": [GPU, GPU],
}
"""Everything at its limit, and so still well."""


def found(state=(), gpu=(), **identity):
    """The problems of a machine that is healthy but for this."""
    gpus = [{**GPU, **dict(gpu)}] if gpu else STATE["gpus"]
    return diagnostics.problems({**IDENTITY, **identity}, {**STATE, "gpus": gpus, **dict(state)})


def only(state=(), gpu=(), **identity):
    """The one problem that there is; it says what is wrong, what that does and what to do."""
    (problem,) = found(state, gpu, **identity)
    assert problem.effect
    assert problem.fix
    return problem


def test_a_healthy_machine_has_no_problem():
    assert found() == []


def test_a_machine_without_a_gpu_has_no_problem_with_one():
    assert found({"gpus": []}) == []


@pytest.mark.parametrize(("cores", "words"), [(1, "only 1 core"), (2, "only 2 cores"), (3, "only 3 cores")])
def test_few_cores_are_a_problem(cores, words):
    problem = only({"omp_threads": 1, "load_1m": 0.0}, cores=cores, cpu_quota=None)
    assert problem.what == words
    assert "--threads" in problem.fix


def test_four_cores_are_enough():
    assert found({"omp_threads": 4, "load_1m": 0.0}, cores=4) == []


def test_more_threads_than_cores_are_a_problem():
    problem = only({"omp_threads": 9})
    assert problem.what == "9 threads on 8 cores"
    assert "OMP_NUM_THREADS=8" in problem.fix


def test_every_busy_process_is_named_with_its_share_of_a_core():
    busy = [{"name": "ffmpeg", "pid": 41, "cores": 1.5}, {"name": "python", "pid": 42, "cores": 0.12}]
    problems = found({"busy": busy})
    assert [problem.what for problem in problems] == [
        "ffmpeg (pid 41) takes 150% of a core",
        "python (pid 42) takes 12% of a core",
    ]
    assert {problem.fix for problem in problems} == {"stop that process or wait until it ends; or measure with --threads 6"}


def test_a_machine_with_one_core_is_not_told_to_use_fewer_threads():
    (problem,) = diagnostics.of_busy_processes(1, {"busy": [{"name": "make", "pid": 4, "cores": 1.0}]})
    assert problem.fix == "stop that process or wait until it ends"


def test_a_high_load_is_a_problem_where_no_process_explains_it():
    assert only({"load_1m": 4.1}).what == "load average 4.1 on 8 cores"
    busy = [{"name": "ffmpeg", "pid": 41, "cores": 1.5}]
    assert only({"load_1m": 40.0, "busy": busy}).what.startswith("ffmpeg")


def test_tasks_that_wait_for_a_core_are_a_problem():
    assert only({"cpu_pressure": 0.25}).what == "tasks waited for a core in 25% of the last ten seconds"


@pytest.mark.parametrize("governor", ["powersave", "schedutil", "ondemand"])
def test_a_governor_that_follows_the_load_is_a_problem(governor):
    problem = only({"governor": governor})
    assert problem.what == f"CPU governor {governor}"
    assert "performance" in problem.fix


@pytest.mark.parametrize(("quota", "told", "threads"), [(7.5, "7.5", 7), (2.0, "2", 2), (0.5, "0.5", 1)])
def test_a_quota_below_the_cores_is_a_problem(quota, told, threads):
    problem = only(cpu_quota=quota)
    assert problem.what == f"CPU quota of {told} cores, 8 cores visible"
    assert problem.fix.startswith(f"--threads {threads},")


def test_a_quota_of_more_than_the_cores_is_none():
    assert found(cpu_quota=16.0) == []


def test_too_little_memory_is_a_problem():
    assert only({"available_gib": 9.9}).what == "9.9 of 100 GiB of memory available"


@pytest.mark.parametrize(("processes", "words"), [(1, "1 process runs on it"), (2, "2 processes run on it")])
def test_other_processes_on_a_gpu_are_a_problem(processes, words):
    assert only(gpu={"processes": processes}).what == f"NVIDIA H100: {words}"


def test_a_gpu_capped_below_its_default_power_is_a_problem():
    problem = only(gpu={"power_limit_enforced_w": 300.0})
    assert problem.what == "NVIDIA H100: power capped at 300 of 700 W"
    assert "-pl 700" in problem.fix


def test_a_gpu_that_may_take_more_power_than_by_default_is_no_problem():
    assert found(gpu={"power_limit_enforced_w": 750.0}) == []


def test_a_driver_that_is_loaded_anew_for_each_process_is_a_problem():
    problem = only(gpu={"persistence_mode": False})
    assert problem.what == "NVIDIA H100: no persistence mode"
    assert "-pm 1" in problem.fix


@pytest.mark.parametrize("reason", ["hw_slowdown", "sw_thermal_slowdown,sw_power_cap"])
def test_clocks_held_down_for_heat_or_by_the_hardware_are_a_problem(reason):
    problem = only(gpu={"clock_event_reasons": reason})
    assert problem.what.startswith("NVIDIA H100: clocks limited (")
    assert "cool" in problem.fix


@pytest.mark.parametrize("reason", ["applications_clocks", "sw_power_cap"])
def test_clocks_that_someone_set_or_that_a_power_cap_holds_ask_for_no_cooling(reason):
    assert not any("cool" in problem.fix or "heat" in problem.effect for problem in found(gpu={"clock_event_reasons": reason}))


def test_each_gpu_is_looked_at_by_itself():
    gpus = [{**GPU, "name": "A", "processes": 3}, GPU, {**GPU, "name": "C", "persistence_mode": False}]
    assert [problem.what for problem in found({"gpus": gpus})] == ["A: 3 processes run on it", "C: no persistence mode"]


def test_problems_of_the_host_come_before_those_of_its_gpus():
    problems = found({"governor": "powersave", "cpu_pressure": 0.5}, gpu={"processes": 1})
    assert [problem.what.split()[0] for problem in problems] == ["tasks", "CPU", "NVIDIA"]


def test_what_a_machine_does_not_tell_is_no_problem():
    unknown = {"cpu_pressure": None, "governor": None, "gpus": [dict.fromkeys(GPU)]}
    assert found(unknown, cpu_quota=None) == []


def test_a_gpu_whose_driver_does_not_answer_is_no_problem():
    silent = nvml.Gpu(uuid="GPU-that-is-not-there").state()
    assert set(silent.values()) == {None}
    assert found({"gpus": [silent, {"name": "NVIDIA H100", **silent}, {}]}) == []


def test_a_gpu_without_a_name_is_told_of_all_the_same():
    assert only(gpu={"name": None, "processes": 1}).what == "GPU: 1 process runs on it"


def test_every_fact_that_these_tests_give_of_a_gpu_is_one_that_its_state_tells():
    assert set(GPU) - {"name"} <= set(nvml.Gpu(uuid="GPU-that-is-not-there").state())

"""The GPU's sensors, counters and sampling process on a scripted driver: no GPU, and no driver either."""

import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml as real
import pytest
import torch

import fakes
import virtual_device as virtual
from nanobench.probes import host, instruments, nvml, nvml_sampler
from nanobench.records import LaunchRecord, Readings
from nanobench.results import derive
from nanobench.schema import Arm, Point, Trial
from nanobench.worker import trial as trials

SCRIPTED = Path(__file__).parent / "scripted"
UUID = "GPU-8c8c1a5e-0000-1111-2222-333344445555"
OTHER = "GPU-aaaaaaaa-0000-1111-2222-333344445555"
DEVICE = SimpleNamespace(index=0)
NOT_SUPPORTED = {"error": "NotSupported"}
LOST = {"error": "GpuIsLost"}
FIELDS = {
    "nvmlDeviceGetUtilizationRates": ["gpu_util"],
    "nvmlDeviceGetClockInfo": ["clock_sm_hz", "clock_memory_hz"],
    "nvmlDeviceGetPowerUsage": ["power_w"],
    "nvmlDeviceGetTemperature": ["temperature_c"],
    "nvmlDeviceGetMemoryInfo": ["gpu_memory_used_bytes", "memory_gib"],
    "nvmlDeviceGetCurrentClocksEventReasons": ["clock_event_reasons"],
    "nvmlDeviceGetComputeRunningProcesses": ["foreign_processes", "processes"],
    "nvmlDeviceGetTotalEnergyConsumption": ["energy_j"],
    "nvmlDeviceGetViolationStatus": ["power_violation_s", "thermal_violation_s"],
    "nvmlDeviceGetTotalEccErrors": ["ecc_errors"],
    "nvmlDeviceGetName": ["name"],
    "nvmlDeviceGetPowerManagementLimit": ["power_limit_w"],
    "nvmlDeviceGetMigMode": ["mig"],
    "nvmlDeviceGetEccMode": ["ecc"],
    "nvmlSystemGetDriverVersion": ["driver"],
    "nvmlDeviceGetPersistenceMode": ["persistence_mode"],
    "nvmlDeviceGetEnforcedPowerLimit": ["power_limit_enforced_w"],
    "nvmlDeviceGetPowerManagementDefaultLimit": ["power_limit_default_w"],
    "nvmlDeviceGetPowerManagementLimitConstraints": ["power_limit_max_w"],
    "nvmlDeviceGetPerformanceState": ["performance_state"],
}


def load_fake():
    spec = importlib.util.spec_from_file_location("pynvml", SCRIPTED / "pynvml.py")
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    return fake


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Puts a scripted driver, with changes to its script, in the place of pynvml: here and in processes started from here."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SCRIPTED), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SCRIPTED_NVML", str(tmp_path / "nvml.json"))

    def put(**changes):
        (tmp_path / "nvml.json").write_text(json.dumps(changes))
        fake = load_fake()
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


@pytest.fixture
def make_probe(tmp_path):
    """A probe that is closed at the end of the test whatever happens."""
    made = []

    def make(**options):
        made.append(nvml.NvmlProbe(DEVICE, tmp_path, uuid=UUID, **options))
        return made[-1]

    yield make
    for probe in made:
        probe.close()


def processes(*pids):
    return [{"pid": pid, "usedGpuMemory": 1} for pid in pids]


def everything(gpu):
    gpu.note_before_context()
    return {**gpu.sample(), **gpu.counters(), **gpu.identity(), **gpu.state()}


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def wait_for_lines(probe, count):
    wait_for(lambda: len(nvml_sampler.read_lines(probe.sampling.out)) >= count)


# The fake


def names_of(module):
    return {name for name in vars(module) if re.match(r"(nvml|NVML)\w", name)}


def test_the_fake_has_nothing_that_the_real_package_lacks():
    fake = load_fake()
    assert names_of(fake) - names_of(real) == set()
    for name in names_of(fake):
        ours, theirs = getattr(fake, name), getattr(real, name)
        if inspect.isfunction(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
        elif isinstance(ours, int):
            assert ours == theirs, name
        elif ours is not fake.NVMLError:
            assert str(ours()) == str(theirs()), name


def test_nanobench_uses_no_name_of_the_package_that_the_fake_lacks():
    source = Path(nvml.__file__).read_text()
    used = set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML_\w+|NVMLError\w*)", source)) - {"nvmlReturn"}
    assert len(used) > 30
    assert used - names_of(load_fake()) == set()


# What a GPU says


def test_a_sample_is_in_base_units(driver):
    driver(nvmlDeviceGetCurrentClocksEventReasons=0x4 | 0x20)
    gpu = nvml.Gpu(uuid=UUID)
    gpu.note_before_context()
    assert gpu.sample() == {
        "gpu_util": 0.87,
        "clock_sm_hz": 1755e6,
        "clock_memory_hz": 2619e6,
        "power_w": 412.5,
        "temperature_c": 54.0,
        "gpu_memory_used_bytes": 4_920_809_984,
        "clock_event_reasons": "sw_power_cap,sw_thermal_slowdown",
        "foreign_processes": 0,
    }
    assert gpu.failures == {}


def test_counters_are_in_joules_and_seconds(driver):
    driver()
    counters = {"energy_j": 1000.0, "power_violation_s": 5.0, "thermal_violation_s": 7.0, "ecc_errors": 0}
    assert nvml.Gpu(uuid=UUID).counters() == counters


def test_the_identity_names_the_kind_of_gpu_and_how_it_is_set_up_but_not_which_one_it_is(driver):
    driver()
    identity = nvml.Gpu(uuid=UUID).identity()
    assert identity == {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_gib": 80,
        "power_limit_w": 700.0,
        "mig": False,
        "ecc": True,
        "driver": "570.86.15",
    }
    json.dumps(identity)


def test_the_state_has_limits_clocks_and_load(driver):
    driver(nvmlDeviceGetComputeRunningProcesses=processes(7, 8))
    state = nvml.Gpu(uuid=UUID).state()
    limits = [state[f"power_limit_{which}_w"] for which in ("enforced", "default", "max")]
    assert limits == [650.0, 700.0, 700.0]
    assert (state["persistence_mode"], state["performance_state"], state["processes"]) == (True, 0, 2)
    assert (state["clock_sm_hz"], state["temperature_c"], state["gpu_util"]) == (1755e6, 54.0, 0.87)
    json.dumps(state)


def test_an_unknown_performance_state_is_unknown(driver):
    driver(nvmlDeviceGetPerformanceState=32)
    assert nvml.Gpu(uuid=UUID).state()["performance_state"] is None


@pytest.mark.parametrize("call", FIELDS)
def test_a_call_that_fails_makes_its_own_fields_null_and_no_others(driver, call):
    driver()
    whole = everything(nvml.Gpu(uuid=UUID))
    driver(**{call: NOT_SUPPORTED})
    gpu = nvml.Gpu(uuid=UUID)
    assert everything(gpu) == {**whole, **dict.fromkeys(FIELDS[call])}
    assert gpu.failures == {"Not Supported": [call]}


def test_the_fields_of_a_failing_call_are_all_that_there_are(driver):
    driver()
    assert set(everything(nvml.Gpu(uuid=UUID))) == {field for names in FIELDS.values() for field in names}


def test_a_gpu_that_supports_nothing_is_null_throughout(driver):
    driver(**dict.fromkeys(FIELDS, NOT_SUPPORTED))
    assert set(everything(nvml.Gpu(uuid=UUID)).values()) == {None}


def test_names_may_be_bytes_as_in_older_packages(driver):
    fake = driver()
    fake.script |= {"nvmlDeviceGetName": b"Tesla T4", "nvmlSystemGetDriverVersion": b"470.1"}
    identity = nvml.Gpu(uuid=UUID).identity()
    assert (identity["name"], identity["driver"]) == ("Tesla T4", "470.1")


@pytest.mark.parametrize(("answer", "mode"), [([1, 1], True), ([0, 1], False), (NOT_SUPPORTED, None)])
def test_mig_and_ecc_are_what_is_in_force_now(driver, answer, mode):
    driver(nvmlDeviceGetMigMode=answer, nvmlDeviceGetEccMode=answer)
    identity = nvml.Gpu(uuid=UUID).identity()
    assert identity["mig"] is mode
    assert identity["ecc"] is mode


# Which GPU


@pytest.mark.parametrize("uuid", [OTHER, OTHER.removeprefix("GPU-"), OTHER.encode()])
def test_a_uuid_is_surer_than_an_index(driver, uuid):
    driver(uuids=[UUID, OTHER])
    gpu = nvml.Gpu(0, uuid)
    assert gpu.handle.index == 1
    assert gpu.failures == {}
    assert nvml.Gpu.named(gpu.device).handle.index == 1


def test_a_part_of_a_gpu_is_found_by_the_uuid_that_torch_gives(driver):
    part = "MIG-bbbbbbbb-0000-1111-2222-333344445555"
    driver(uuids=[UUID, part])
    gpu = nvml.Gpu(0, part.removeprefix("MIG-"))
    assert gpu.handle.index == 1
    assert gpu.failures == {}


@pytest.mark.parametrize(
    ("visible", "index"), [(None, 1), ("", 1), ("1,0", 0), (f"{UUID}, {OTHER}", 1), (f"{OTHER},{UUID}", 0)]
)
def test_an_index_is_torchs_and_goes_by_the_visible_devices(driver, monkeypatch, visible, index):
    driver(uuids=[UUID, OTHER])
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = nvml.Gpu(1)
    assert gpu.handle.index == index
    assert nvml.Gpu.named(gpu.device).handle.index == index


@pytest.mark.parametrize(("gpu", "reason"), [((0, OTHER), "Not Found"), ((5,), "Invalid Argument")])
def test_a_gpu_that_is_not_there_says_nothing_and_why(driver, gpu, reason):
    driver()
    gone = nvml.Gpu(*gpu)
    assert set(everything(gone).values()) == {None}
    assert list(gone.failures) == [reason]


def test_torch_is_asked_for_the_uuid_and_its_absence_is_no_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="8c8c"))
    assert nvml.torch_uuid(torch.device("cuda", 1)) == "8c8c"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    assert nvml.torch_uuid(torch.device("cuda", 1)) is None


@pytest.mark.parametrize("reason", ["DriverNotLoaded", "LibraryNotFound"])
def test_without_a_driver_everything_is_null_for_one_reason(driver, reason):
    driver(nvmlInit={"error": reason})
    gpu = nvml.Gpu(uuid=UUID)
    assert set(everything(gpu).values()) == {None}
    assert list(gpu.failures.values()) == [["nvmlInit"]]


def has_driver():
    try:
        real.nvmlInit()
    except real.NVMLError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has a driver")
def test_the_real_package_without_a_driver_gives_notes_and_never_an_exception(tmp_path):
    gpu = nvml.Gpu()
    assert set(everything(gpu).values()) == {None}
    assert list(gpu.failures.values()) == [["nvmlInit"]]
    probe = nvml.NvmlProbe(torch.device("cuda", 0), tmp_path)
    probe.before()
    assert set(probe.after().values()) == {None}
    assert probe.close() == []
    assert probe.note.startswith("nvmlInit: ")


# Why clocks are held down


def test_reasons_have_the_names_of_nvmls_bits():
    bits = {
        "nvmlClocksEventReasonApplicationsClocksSetting": "applications_clocks",
        "nvmlClocksEventReasonSwPowerCap": "sw_power_cap",
        "nvmlClocksEventReasonHwSlowdown": "hw_slowdown",
        "nvmlClocksEventReasonSyncBoost": "sync_boost",
        "nvmlClocksEventReasonSwThermalSlowdown": "sw_thermal_slowdown",
        "nvmlClocksEventReasonHwThermalSlowdown": "hw_thermal_slowdown",
        "nvmlClocksEventReasonHwPowerBrakeSlowdown": "hw_power_brake",
        "nvmlClocksEventReasonDisplayClockSetting": "display",
        "nvmlClocksThrottleReasonBoardLimit": "board_limit",
        "nvmlClocksThrottleReasonReliability": "reliability",
    }
    assert {getattr(real, name): ours for name, ours in bits.items()} == nvml.CLOCK_EVENT_REASONS
    assert real.nvmlClocksEventReasonGpuIdle == nvml.IDLE


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ""),
        (0x1, ""),
        (0x5, "sw_power_cap"),
        (0x48, "hw_slowdown,hw_thermal_slowdown"),
        (0x10004, "sw_power_cap,unknown_0x10000"),
    ],
)
def test_idleness_is_no_throttle_and_a_new_bit_is_not_lost(bits, names):
    assert nvml.reason_names(bits) == names


def test_an_older_driver_has_reasons_under_their_older_name(driver):
    driver(nvmlDeviceGetCurrentClocksEventReasons={"error": "FunctionNotFound"}, nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    gpu = nvml.Gpu(uuid=UUID)
    assert gpu.readings()["clock_event_reasons"] == "hw_thermal_slowdown"
    assert gpu.failures == {}


def test_an_older_package_without_the_call_is_like_an_older_driver(driver):
    fake = driver(nvmlDeviceGetCurrentClocksThrottleReasons=0x8)
    del fake.nvmlDeviceGetCurrentClocksEventReasons, fake.nvmlDeviceGetMigMode
    gpu = nvml.Gpu(uuid=UUID)
    assert gpu.readings()["clock_event_reasons"] == "hw_slowdown"
    assert gpu.identity()["mig"] is None
    assert gpu.failures == {"Function Not Found": ["nvmlDeviceGetMigMode"]}


# Whose processes


def test_who_was_there_before_or_came_later_is_foreign_and_who_came_with_us_is_not(driver):
    fake = driver(nvmlDeviceGetComputeRunningProcesses=processes(11))
    gpu = nvml.Gpu(uuid=UUID)
    gpu.note_before_context()
    assert gpu.sample()["foreign_processes"] == 1
    fake.script["nvmlDeviceGetComputeRunningProcesses"] = processes(11, 70)
    gpu.note_own()
    assert gpu.sample()["foreign_processes"] == 1
    fake.script["nvmlDeviceGetComputeRunningProcesses"] = processes(70, 80)
    fake.script["nvmlDeviceGetGraphicsRunningProcesses"] = processes(80, 90)
    assert gpu.sample()["foreign_processes"] == 2
    fake.script["nvmlDeviceGetComputeRunningProcesses"] = []
    fake.script["nvmlDeviceGetGraphicsRunningProcesses"] = NOT_SUPPORTED
    assert gpu.sample()["foreign_processes"] == 0


def test_our_own_process_is_ours_whenever_it_appears(driver):
    driver(nvmlDeviceGetComputeRunningProcesses=processes(os.getpid(), 5))
    assert nvml.Gpu(uuid=UUID).sample()["foreign_processes"] == 1


def test_whose_a_process_is_stays_unknown_until_somebody_looked_before_it_came(driver):
    driver(nvmlDeviceGetComputeRunningProcesses=processes(5))
    gpu = nvml.Gpu(uuid=UUID)
    gpu.note_own()
    assert gpu.sample()["foreign_processes"] is None


# The probe


def test_a_repetition_has_the_rise_of_the_counters_and_the_sensors_at_its_end(driver, make_probe):
    driver()
    probe = make_probe()
    probe.before()
    seen = probe.after()
    assert seen["energy_j"] == pytest.approx(12.5)
    assert (seen["power_violation_s"], seen["thermal_violation_s"], seen["ecc_errors"]) == (0.25, 0.0, 0)
    assert (seen["clock_sm_hz"], seen["power_w"], seen["clock_event_reasons"]) == (1755e6, 412.5, "sw_power_cap")
    assert "gpu_util" not in seen
    assert set(seen) <= {field.name for field in fields(Readings)}
    assert probe.note is None


def test_a_counter_that_wraps_is_unknown_and_never_negative(driver, make_probe):
    wraps = {"by": {"0": {"steps": [{"violationTime": 9}, {"violationTime": 3}]}, "1": {"violationTime": 4}}}
    driver(nvmlDeviceGetTotalEnergyConsumption={"steps": [2**32 - 1, 5, 1005]}, nvmlDeviceGetViolationStatus=wraps)
    probe = make_probe()
    probe.before()
    seen = probe.after()
    assert (seen["energy_j"], seen["power_violation_s"], seen["thermal_violation_s"]) == (None, None, 0.0)
    assert probe.note == "energy_j, power_violation_s: the counter decreased: it wrapped, or the driver was reset"
    probe.before()
    assert probe.after()["energy_j"] == 0.0


def test_a_counter_that_is_lost_on_the_way_is_unknown(driver, make_probe):
    driver(nvmlDeviceGetTotalEnergyConsumption={"steps": [7, LOST]}, nvmlDeviceGetTotalEccErrors={"steps": [LOST, 3]})
    probe = make_probe()
    probe.before()
    seen = probe.after()
    assert (seen["energy_j"], seen["ecc_errors"], seen["power_w"]) == (None, None, 412.5)
    assert probe.note == "nvmlDeviceGetTotalEccErrors, nvmlDeviceGetTotalEnergyConsumption: GPU is lost"


def test_a_driver_that_goes_away_leaves_nulls_and_a_note_that_does_not_grow(driver, make_probe):
    fake = driver()
    probe = make_probe()
    probe.before()
    fake.script["lost_after"] = 0
    assert set(probe.after().values()) == {None}
    note = probe.note
    assert "nvmlDeviceGetPowerUsage" in note
    assert note.endswith(": GPU is lost")
    for _ in range(50):
        probe.before()
        probe.after()
    assert len(probe.note) <= len(note)
    assert "\n" not in note


def test_a_process_that_comes_with_our_first_repetition_is_ours(driver, make_probe):
    fake = driver(nvmlDeviceGetComputeRunningProcesses=processes(3))
    probe = make_probe()
    fake.script["nvmlDeviceGetComputeRunningProcesses"] = processes(3, 44)
    probe.before()
    assert probe.after()["foreign_processes"] == 1
    fake.script["nvmlDeviceGetComputeRunningProcesses"] = processes(3, 44, 45)
    probe.before()
    assert probe.after()["foreign_processes"] == 2


# The sampling process


def test_samples_come_about_ten_times_a_second_in_order_and_the_file_is_removed(driver, make_probe, tmp_path):
    driver(nvmlDeviceGetComputeRunningProcesses=processes(3, 44))
    probe = make_probe()
    wait_for_lines(probe, 1)
    time.sleep(1.0)
    samples = probe.close()
    starts = [sample.started_at for sample in samples]
    assert starts == sorted(starts)
    assert 3 <= sum(start < starts[0] + 0.95 for start in starts) <= 12
    assert abs(starts[0] - time.time()) < 30
    assert {sample.kind for sample in samples} == {"sample"}
    assert [sample.repetition for sample in samples] == list(range(len(samples)))
    first = samples[0]
    assert (first.gpu_util, first.clock_sm_hz, first.clock_event_reasons, first.foreign_processes) == (
        0.87,
        1755e6,
        "sw_power_cap",
        2,
    )
    assert first.energy_j is None
    assert probe.note is None
    assert probe.close() == []
    assert list(tmp_path.glob("*.jsonl")) == []


def test_missed_ticks_are_left_out_and_the_schedule_does_not_drift():
    assert nvml_sampler.next_tick(0, 0.004, 0.1) == 1
    assert nvml_sampler.next_tick(7, 0.799, 0.1) == 8
    assert nvml_sampler.next_tick(7, 1.234, 0.1) == 13
    assert nvml_sampler.next_tick(3, 0.299999, 0.1) == 4


def test_a_killed_sampling_process_leaves_its_samples_and_a_note_that_names_the_signal(driver, make_probe):
    driver()
    probe = make_probe(every_s=0.02)
    wait_for_lines(probe, 3)
    probe.sampling.process.send_signal(signal.SIGKILL)
    probe.sampling.process.wait(10)
    probe.before()
    assert probe.after()["power_w"] == 412.5
    assert probe.note == "the sampling process ended with signal 9"
    assert len(probe.close()) >= 3
    assert probe.note == "the sampling process ended with signal 9"


def test_a_sampling_process_that_hangs_is_killed(driver, make_probe, monkeypatch):
    monkeypatch.setattr(nvml_sampler, "EXIT_TIMEOUT_S", 0.2)
    driver()
    probe = make_probe()
    wait_for_lines(probe, 1)
    process = probe.sampling.process
    process.send_signal(signal.SIGSTOP)
    assert probe.close()
    assert probe.note == "the sampling process did not end in time and was killed"
    assert process.wait(10) == -signal.SIGKILL


def start_sampler(out, device="0"):
    command = [sys.executable, "-m", "nanobench.probes.nvml", device, str(out), "--every", "0.02"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_sampling_process_ends_when_its_standard_input_closes(driver, tmp_path):
    driver()
    process = start_sampler(tmp_path / "out")
    wait_for(lambda: nvml_sampler.read_lines(tmp_path / "out"))
    assert process.poll() is None
    assert process.communicate(timeout=10) == (b"", None)
    assert process.returncode == 0


def test_the_sampling_process_ends_however_its_parent_ends(driver, tmp_path):
    driver()
    code = f"""
import pathlib, types, time
from nanobench.probes.nvml import NvmlProbe
probe = NvmlProbe(types.SimpleNamespace(index=0), pathlib.Path({str(tmp_path)!r}), uuid={UUID!r})
print(probe.sampling.process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    sampler = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: nvml_sampler.read_lines(tmp_path / "gpu-samples.jsonl"))
    assert sampler.status() != psutil.STATUS_ZOMBIE
    parent.kill()
    parent.communicate(timeout=10)
    wait_for(lambda: not sampler.is_running() or sampler.status() == psutil.STATUS_ZOMBIE)


def test_a_torn_line_is_left_out(tmp_path):
    line = json.dumps({"started_at": 1.5, "power_w": 3.0}).encode()
    (tmp_path / "out").write_bytes(line + b"\n" + line + b"\n" + line[:-7])
    assert nvml_sampler.read_lines(tmp_path / "out") == [{"started_at": 1.5, "power_w": 3.0}] * 2
    assert nvml_sampler.read_lines(tmp_path / "none") == []


def test_a_gpu_that_is_lost_in_mid_run_leaves_null_samples_and_the_reason(driver, make_probe):
    fake = driver(lost_after=30)
    fake.script["lost_after"] = None
    probe = make_probe(every_s=0.02)
    wait_for_lines(probe, 8)
    samples = probe.close()
    assert (samples[0].power_w, samples[-1].power_w, samples[-1].foreign_processes) == (412.5, None, None)
    assert probe.note.count("nvmlDeviceGetPowerUsage") == 1
    assert probe.note.endswith(": GPU is lost")


def test_a_sampling_process_without_a_driver_says_so_and_takes_no_samples(driver, make_probe):
    fake = driver()
    Path(os.environ["SCRIPTED_NVML"]).write_text(json.dumps({"nvmlInit": {"error": "DriverNotLoaded"}}))
    assert fake.script["nvmlInit"] is None
    probe = make_probe()
    probe.sampling.process.wait(10)
    assert probe.close() == []
    assert probe.note == "nvmlInit: Driver Not Loaded; the sampling process ended with status 1"


def test_a_probe_without_a_driver_starts_no_process(driver, make_probe):
    driver(nvmlInit={"error": "LibraryNotFound"})
    probe = make_probe()
    assert probe.sampling is None
    assert probe.note == "nvmlInit: NVML Shared Library Not Found"
    assert probe.close() == []


def test_a_process_that_can_not_be_started_costs_the_samples_only(driver, make_probe, monkeypatch):
    driver()
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    probe = make_probe()
    probe.before()
    assert probe.after()["energy_j"] == pytest.approx(12.5)
    assert probe.close() == []
    assert probe.note == "the sampling process did not start: No such file or directory"


def loaded_by(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_sampling_process_loads_nothing_heavy(driver):
    driver()
    loaded = loaded_by("from nanobench.probes import nvml; nvml.Gpu(0).sample()")
    assert loaded - loaded_by("pass") - set(sys.stdlib_module_names) == {"nanobench", "pynvml"}


def test_a_sweep_goes_on_when_sampler_and_driver_die_in_mid_run(driver, tmp_path, monkeypatch):
    driver(nvmlDeviceGetTotalEnergyConsumption={"steps": list(range(10**6, 2 * 10**6, 10**3))}, lost_after=120)
    device = virtual.VirtualDevice((killing(tmp_path, launch=300),))
    monkeypatch.setattr(fakes, "virtual_device", device)
    probes = [host.HostProbe(), nvml.NvmlProbe(DEVICE, tmp_path, uuid=UUID)]
    seen = instruments.Instruments(virtual.VirtualClock(device), probes, sustained_s=0.1)
    point = Point(model="fakes:tiny", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=4)
    arms = (Arm(engine="fakes:on_virtual_device"), Arm(engine="fakes:twice"))
    trial = Trial(point=point, arms=arms, launch=1, seed=0, target_ci=1e-9, max_seconds=1.0)
    records = trials.measure(trial, {}, tmp_path, lambda progress: None, seen)
    cells = derive.derive([LaunchRecord.of(trial, 0, record) for record in records])
    assert [cell["launches_ok"] for cell in cells] == [1, 1]
    assert cells[1]["speedup"] == pytest.approx(2.0, rel=1e-2)
    for record in records:
        steady = [each for each in record.repetitions if each.kind == "steady"]
        assert steady[0].clock_sm_hz == 1755e6
        assert steady[0].energy_j > 0
        assert steady[-1].clock_sm_hz is None
        assert steady[-1].energy_j is None
        assert "signal 9" in record.outcome.probe_note
        assert "GPU is lost" in record.outcome.probe_note or "GpuIsLost" in record.outcome.probe_note


def killing(folder, launch):
    """An effect that kills the sampling process at a launch."""

    def effect(kernel):
        if kernel.number == launch:
            for child in psutil.Process().children():
                child.kill()
        return kernel

    return effect


def test_the_power_now_is_preferred_to_a_mean_over_a_second(driver, make_probe):
    fake = driver()
    fake.nvmlDeviceGetFieldValues = lambda handle, fields: [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=123_400))]
    probe = make_probe()
    probe.before()
    assert probe.after()["power_w"] == 123.4


@pytest.mark.parametrize("answer", [{"nvmlReturn": 3, "value": SimpleNamespace(uiVal=0)}, None])
def test_a_driver_without_the_power_now_gives_the_mean_and_no_note(driver, make_probe, answer):
    fake = driver()

    def values(handle, fields):
        if answer is None:
            raise fake.NVMLError_NotSupported()
        return [SimpleNamespace(**answer)]

    fake.nvmlDeviceGetFieldValues = values
    probe = make_probe()
    probe.before()
    assert probe.after()["power_w"] == 412.5
    assert probe.note is None


def test_the_sampling_process_lists_processes_once_in_ten_samples(driver, monkeypatch, tmp_path):
    fake = driver()
    taken = []
    monkeypatch.setattr(nvml, "take_samples", lambda read, out, every_s: taken.extend(read() for _ in range(25)))
    monkeypatch.setattr(sys, "argv", ["nvml", "0", str(tmp_path / "samples")])
    assert nvml.main() == 0
    assert [number for number, line in enumerate(taken) if "pids" in line] == [0, 10, 20]
    assert fake.seen[("nvmlDeviceGetComputeRunningProcesses", ())] == 3

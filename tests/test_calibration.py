"""Calibrations: what is measured, where it is kept, and when it is measured again."""

import functools
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import virtual_device
from conftest import SMALL
from nanobench.errors import UserError
from nanobench.probes import environment, profiler
from nanobench.records import Status
from nanobench.results import finder, store, user_cache
from nanobench.results.repetitions import ARM_FIELDS, POINT_FIELDS
from nanobench.results.run_context import Calibration, DriftCheck, Machine, Setting
from nanobench.roofline.limits import KINDS, Limit, Limits, Unresolved
from nanobench.schema import Point
from nanobench.sweep import calibration
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.machine import differences
from nanobench.sweep.runner import Sweep
from nanobench.worker.calibration import measure, model
from nanobench.worker.calibration.model import InstrumentedModel, Size
from virtual_device import VirtualClock, VirtualDevice

HERE = Setting("cpu", "float32", 1)
ROWS = [
    {"kind": kind, "value": value, "spread": 0.0, "rows": 1, "set_bytes": 0}
    for kind, value in {"read": 1e9, "matmul": 1e10, "operation": 1e-6, "pass": 1.0}.items()
]
LIMITS = Limits.from_json(ROWS)


class Worker:
    """An executor that answers with fixed limits and counts how often it was asked, and for how much."""

    def __init__(self, record=None):
        self.record, self.asked = {"limits": ROWS} if record is None else record, []

    def run(self, request, folder, log, timeout_s, progress):
        self.asked.append(request["calibrate"])
        return WorkerResult(self.record or None, Status.ERROR, "worker ended with exit code 1; see its log")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_machine_is_calibrated_once(cache, tmp_path):
    worker = Worker()
    first = calibration.full(worker, "abc", HERE, tmp_path, fresh=False)
    assert calibration.full(worker, "abc", HERE, tmp_path, fresh=False) == first
    assert worker.asked == [{"device": "cpu", "dtype": "float32", "threads": 1, "brief": False}]
    assert first.limits.at("read") == pytest.approx(1e9)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantised_weights_are_calibrated_in_bfloat16_alone_on_a_cpu(cache, tmp_path, dtype, weights):
    """In another dtype it would take minutes."""
    worker = Worker()
    setting = Setting("cpu", dtype, 1, weights)
    with pytest.raises(UserError, match=f"cpu {dtype} 1 {weights} is not calibrated: .*; choose --dtype bfloat16"):
        calibration.full(worker, "abc", setting, tmp_path, fresh=True)
    assert worker.asked == []
    for calibrated in (replace(setting, dtype="bfloat16"), replace(setting, device="cuda"), replace(setting, weights="float")):
        calibration.full(worker, "abc", calibrated, tmp_path, fresh=False)
    assert len(worker.asked) == 3


@pytest.mark.parametrize(
    ("identity", "asked", "fresh"),
    [
        ("other", HERE, False),
        ("abc", Setting("cpu", "float32", 2), False),
        ("abc", Setting("cpu", "bfloat16", 1), False),
        ("abc", HERE, True),
    ],
)
def test_another_machine_other_threads_another_dtype_or_a_wish_for_it_measure_again(cache, tmp_path, identity, asked, fresh):
    worker = Worker()
    calibration.full(worker, "abc", HERE, tmp_path, fresh=False)
    calibration.full(worker, identity, asked, tmp_path, fresh)
    assert len(worker.asked) == 2


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", '{"limits": 7}', '{"limits": [7]}', '{"limits": [{}]}', '{"limits": [{"kind": {}}]}'),
        *('{"limits": []}', json.dumps({"limits": [{**row, "value": 0} for row in ROWS]}), json.dumps({"limits": ROWS[1:]})),
    ],
)
def test_a_kept_file_that_cannot_be_read_or_predicted_from_is_measured_again(cache, tmp_path, text):
    worker = Worker()
    calibration.full(worker, "abc", HERE, tmp_path, fresh=False)
    calibration.file_of("abc", HERE).write_text(text)
    assert calibration.full(worker, "abc", HERE, tmp_path, fresh=False).limits == LIMITS
    assert len(worker.asked) == 2


def test_a_kept_file_with_bad_values_is_used_without_them(cache, tmp_path):
    worker = Worker()
    bad = [{**row, "value": value} for row in ROWS for value in (None, 0, -1.0, math.nan)]
    user_cache.write(calibration.file_of("abc", HERE), {"limits": [*ROWS, *bad]})
    found = calibration.full(worker, "abc", HERE, tmp_path, fresh=False).limits
    assert (found.found, len(found.unresolved)) == (LIMITS.found, len(bad))
    assert worker.asked == []


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "file"))
    assert calibration.full(Worker(), "abc", HERE, tmp_path, fresh=False).limits == LIMITS


def test_what_was_measured_beside_other_work_is_used_and_not_kept(cache, tmp_path):
    busy = Worker({"limits": ROWS, "pressure_fraction": 0.4})
    found = calibration.full(busy, "abc", HERE, tmp_path, fresh=False)
    assert found.limits == LIMITS
    assert calibration.why_not_kept(found) == "tasks waited for a core in 40% of the time"
    calibration.full(busy, "abc", HERE, tmp_path, fresh=False)
    assert len(busy.asked) == 2
    quiet = Worker({"limits": ROWS, "pressure_fraction": 0.01})
    calibration.full(quiet, "abc", HERE, tmp_path, fresh=False)
    calibration.full(quiet, "abc", HERE, tmp_path, fresh=False)
    assert len(quiet.asked) == 1


def test_a_calibration_that_nothing_can_be_predicted_from_is_used_and_not_kept(cache, tmp_path):
    noisy = Worker({"limits": [*ROWS[:2], {**ROWS[2], "value": None, "spread": None, "reason": "noise"}]})
    for asked in (1, 2):
        found = calibration.full(noisy, "abc", HERE, tmp_path, fresh=False)
        assert calibration.why_not_kept(found) == "the limit 'operation' has no value: noise"
        assert len(noisy.asked) == asked


def test_a_worker_that_dies_is_one_line_with_the_way_on(cache, tmp_path):
    with pytest.raises(UserError, match=r"cpu float32 1 cannot be calibrated: worker ended.*--calibration off"):
        calibration.full(Worker({}), "abc", HERE, tmp_path, fresh=False)


@pytest.fixture
def sweep(small_run, tmp_path):
    """A sweep over a copy of a run that has no calibration, which may be calibrated."""
    shutil.copytree(small_run[0], tmp_path / "run")
    run = store.Run(tmp_path / "run")
    info = run.info()
    plan = replace(info.plan, calibration="auto")
    return Sweep(run, plan, info.description, lambda: None, lambda progress: None)


def test_a_calibration_that_takes_long_is_shown(cache, sweep):
    shown = []
    sweep.watch = lambda progress: shown.append(progress.report)
    for _ in range(2):
        sweep.calibrate(Worker(), next(sweep.plan.rounds())[0], True)
    assert shown == [{"phase": "calibrating", "arm": "cpu float32 1"}]


def test_a_sweep_goes_on_without_predictions_where_nothing_can_be_calibrated(cache, sweep):
    sweep.calibrate(Worker({}), next(sweep.plan.rounds())[0], True)
    info = sweep.run.info()
    assert info.calibrations == {}
    assert info.calibration_note.startswith("cpu float32 1 cannot be calibrated")
    assert not info.machine.limits
    sweep.check_drift(next(sweep.plan.rounds())[0], Worker())
    assert sweep.run.info().calibrations == {}


def test_a_sweep_whose_calibration_resolved_too_little_says_why_and_goes_on(cache, sweep):
    noisy = Worker({"limits": [*ROWS[:2], {**ROWS[2], "value": None, "reason": "noise"}]})
    sweep.calibrate(noisy, next(sweep.plan.rounds())[0], True)
    sweep.check_drift(next(sweep.plan.rounds())[0], noisy)
    info = sweep.run.info()
    assert info.calibration_note == "cpu float32 1: the limit 'operation' has no value: noise"
    (found,) = info.calibrations.values()
    assert found.limits.unresolved == (Unresolved("operation", "noise"),)
    assert len(found.drift_checks) == 1
    assert sweep.cells.derive_at(info.plan.points[0])[0]["prediction_note"] == "the limit 'operation' has no value: noise"


def test_a_calibration_whose_first_drift_check_fails_still_predicts(cache, sweep):
    class Half(Worker):
        """Fails where a brief calibration is asked for."""

        def run(self, request, *others):
            self.record = {} if request["calibrate"]["brief"] else {"limits": ROWS}
            return super().run(request, *others)

    sweep.calibrate(Half(), next(sweep.plan.rounds())[0], True)
    info = sweep.run.info()
    assert info.calibration_note is None
    assert info.machine.limits_of(info.plan.points[0]) == LIMITS


def test_a_run_is_calibrated_once_and_checked_for_drift_around_every_trial(cache, sweep):
    worker = Worker()
    rounds = list(sweep.plan.rounds())
    for trials in rounds:
        sweep.calibrate(worker, next(sweep.plan.rounds())[0], True)
        for trial in trials:
            sweep.check_drift(trial, worker)
    trials = [trial for trials in rounds for trial in trials]
    assert [asked["brief"] for asked in worker.asked].count(False) == 1
    assert len(worker.asked) == 1 + len(rounds) + len(trials)
    (calibration,) = sweep.run.info().calibrations.values()
    assert [check.point for check in calibration.drift_checks] == [trial.point for trial in trials]
    assert all(check.before == check.after == LIMITS for check in calibration.drift_checks)


def test_only_workers_that_share_a_device_and_can_afford_it_are_checked_for_drift(sweep):
    sweep.plan = replace(sweep.plan, launches=2)
    assert sweep.checks_drift(1, "cpu")
    assert sweep.checks_drift(1, "cuda")
    assert not sweep.checks_drift(2, "cuda")
    sweep.plan = replace(sweep.plan, launches=1)
    assert sweep.checks_drift(1, "cpu")
    assert not sweep.checks_drift(1, "cuda:0")


def test_memory_that_grows_makes_no_other_machine(monkeypatch):
    found = []
    for gib in (2, 3):
        monkeypatch.setattr(environment.psutil, "virtual_memory", lambda gib=gib: SimpleNamespace(total=gib << 30))
        found.append((environment.identity(), environment.Machine().facts))
    (small, its_facts), (large, other_facts) = found
    assert (small["memory_gib"], large["memory_gib"]) == (2, 3)
    assert small["hash"] == large["hash"]
    assert its_facts == other_facts
    assert differences(small, other_facts) == []


def test_a_drift_check_that_fails_costs_that_check(cache, sweep):
    sweep.calibrate(Worker(), next(sweep.plan.rounds())[0], True)
    sweep.check_drift(next(sweep.plan.rounds())[0], Worker({}))
    (calibration,) = sweep.run.info().calibrations.values()
    assert calibration.drift_checks == ()


def test_a_journal_whose_last_line_was_cut_off_keeps_the_others(cache, sweep):
    sweep.calibrate(Worker(), next(sweep.plan.rounds())[0], True)
    sweep.run.append({"event": "time", "wall_s": 2.0})
    whole = sweep.run.info()
    with sweep.run.journal.open("a") as file:
        file.write('{"event": "time", "wal')
    assert sweep.run.info() == whole


def drift(before, after, batch_size=1):
    point = Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=batch_size, prompt_len=4, new_tokens=4)
    return DriftCheck(point, *(Limits((Limit("pass", value, 0.0),)) for value in (before, after)))


def test_a_points_limits_are_those_seen_around_its_own_trials_and_others_those_of_the_run():
    limits = Limits((Limit("pass", 1.0, 0.0), Limit("matmul", 12.0, 0.0)))
    checks = (drift(2.0, 4.0), drift(6.0, 6.0, batch_size=8))
    machine = Machine.of({}, {"cpu float32 1": Calibration(limits, drift_checks=checks)}, "some CPU")
    here = checks[0].point
    assert machine.limits_of(here).at("matmul") == pytest.approx(12 / 3)
    assert machine.limits_of(replace(here, batch_size=8)).at("matmul") == pytest.approx(12 / 6)
    assert machine.limits_of(replace(here, batch_size=2)).at("matmul") == pytest.approx(12 / 5)
    assert machine.limits_of(replace(here, threads=2)) is None


def test_points_that_differ_in_nothing_that_matters_share_a_calibration():
    plain = {"model": "m", "dtype": "float32", "device": "cpu", "prompt_len": 4, "new_tokens": 4}
    points = [Point(**plain, threads=threads, batch_size=batch_size) for threads in (2, 1) for batch_size in (1, 8)]
    assert calibration.settings(points) == [HERE, Setting("cpu", "float32", 2)]


SMALL_SIZES = (measure.DISPATCH_SIZE, Size(64, 2, 128, (1, 2, 16), ((1, 24), (16, 64))))


@pytest.fixture
def small(monkeypatch):
    """A calibration of networks that take no time."""
    monkeypatch.setattr(model, "PASSES_S", 0.0)
    for name, value in {"SIZES": SMALL_SIZES, "BRIEF_SIZES": SMALL_SIZES[1:], "LARGE_BYTES": 1 << 20}.items():
        monkeypatch.setattr(measure, name, value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_limit_that_a_cpu_has_is_measured_and_a_brief_look_moves_all(small, dtype):
    found = measure.calibrate(torch.device("cpu"), dtype)
    assert {limit.kind for limit in entries(found)} == set(KINDS) - {"sync", "host_to_device"}
    assert found.missing() is None
    now = measure.brief(torch.device("cpu"), dtype)
    assert places_of(now, "pass") == places_of(found, "pass")
    twice = found.moved([Limits(tuple(replace(limit, value=2 * limit.value) for limit in found.found))])
    for before, after in zip(found.found, twice.found, strict=True):
        assert after.value == pytest.approx(before.value * (2 if KINDS[before.kind] == "s" else 0.5))


def entries(limits):
    """All limits, resolved or not: on tiny networks noise decides which."""
    return [*limits.found, *limits.unresolved]


def places_of(limits, kind):
    return {limit.place for limit in entries(limits) if limit.kind == kind}


def test_the_places_of_limits_are_those_that_a_prediction_asks_for(small):
    found = measure.calibrate(torch.device("cpu"), "float32")
    places = {kind: places_of(found, kind) for kind in KINDS}
    matrix, head = 4 * 3 * 64 * 64, 4 * 64 * 128
    assert places["matmul"] == {(rows, matrix) for rows in (1, 2, 16, 24, 1024)}
    assert places["lm_head"] == {(rows, head) for rows in (1, 2, 16)}
    steps = {(1, 2 * 64 * 4 * rows * model.STEP_CONTEXT) for rows in (1, 2, 16)}
    assert places["attention"] == steps | {(tokens, 2 * 64 * 4 * rows * tokens) for rows, tokens in ((1, 24), (16, 64))}
    assert places["operation"] == {
        (1, 4 * (layers * (12 * width**2 + 13 * width) + 2 * width + width * vocab))
        for width, layers, vocab in ((32, 4, 64), (64, 2, 128))
    }


def test_parts_and_what_lies_between_them_make_up_a_pass():
    small = InstrumentedModel(SMALL_SIZES[1], torch.device("cpu"), "float32")
    _, total_s, parts = small.time_once(small.cached_step(2))
    assert set(parts) == {"matmul", "lm_head", "attention", "argmax"}
    assert len([kind for kind, _, _ in small.timestamps if kind == "matmul"]) == 4 * 2
    assert 0 < sum(parts.values()) < total_s


@pytest.fixture
def on_gpu(monkeypatch):
    """A virtual device, and a model whose clock is the device's."""
    device = VirtualDevice()
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: device.launch(1.0))
    small = InstrumentedModel(SMALL_SIZES[1], torch.device("cpu"), "float32")
    small.clock = VirtualClock(device)
    return device, small


def test_on_a_gpu_a_part_takes_the_devices_time_however_slow_the_host_is(on_gpu):
    device, small = on_gpu
    multiply = small.instrument("matmul", lambda: device.launch(3e-6, host_s=50e-6))
    attend = small.instrument("attention", lambda: device.launch(7e-6, host_s=50e-6))

    def work():
        for _ in range(4):
            multiply()
            attend()
        device.launch(5e-6)

    host_s, total_s, parts = small.time_once(work)
    assert parts == pytest.approx({"matmul": 12e-6, "attention": 28e-6})
    assert total_s == pytest.approx(45e-6)
    assert host_s == pytest.approx(8 * 50e-6 + virtual_device.LAUNCH_S + 16 * virtual_device.EVENT_S)


def test_on_a_gpu_the_hosts_time_per_operation_is_that_of_a_pass_without_timestamps(on_gpu):
    device, small = on_gpu
    multiply = small.instrument("matmul", lambda: device.launch(3e-6, host_s=50e-6))
    assert small.host_times(lambda: [multiply() for _ in range(4)]) == pytest.approx([4 * 50e-6] * model.MIN_PASSES)
    assert small.time_pass(multiply).parts_s["matmul"] == pytest.approx([3e-6] * model.MIN_PASSES)


def test_on_a_gpu_several_transfers_lie_between_two_readings_of_the_clock():
    device = VirtualDevice()
    clock = VirtualClock(device)
    alone, many = (
        measure.transfer_times(clock, lambda: device.launch(80e-6, host_s=20e-6), count)
        for count in (1, measure.TRANSFERS_ENQUEUED)
    )
    assert len(alone) == len(many) == measure.TRANSFERS
    assert alone == pytest.approx([100e-6] * measure.TRANSFERS, rel=0.1)
    assert many == pytest.approx([80e-6 + 20e-6 / measure.TRANSFERS_ENQUEUED] * measure.TRANSFERS, rel=0.02)


def test_the_weights_of_a_calibration_are_no_constants():
    small = InstrumentedModel(SMALL_SIZES[1], torch.device("cpu"), "float32")
    assert all(parameter.unique().numel() > 1 for parameter in small.adapter.module.parameters())


def test_operations_are_counted_whole_and_not_in_their_parts():
    x = torch.ones(8, 8)
    counted = profiler.count(lambda: torch.nn.functional.linear(x, x) + x, torch.device("cpu"))
    assert (counted.operations, counted.kernels, counted.busy) == (2, 2, None)


def test_twice_the_work_is_twice_the_operations():
    x = torch.ones(8)
    once, twice = (profiler.count(lambda n=n: [x + x for _ in range(n)], torch.device("cpu")).operations for n in (3, 6))
    assert (once, twice) == (3, 6)


def test_a_sweep_calibrates_looks_again_in_every_round_and_predicts(nanobench_here, small, tmp_path):
    """On a calibration of two small networks, that is kept as of this machine and looked at again by the sweep itself."""
    own = {"NANOBENCH_CACHE": str(tmp_path / "cache")}
    limits = measure.calibrate(torch.device("cpu"), "float32").to_json()
    kept = {"limits": limits, "pressure_fraction": 0.0, "measured_at": "2026-01-01T00:00:00+00:00"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOBENCH_CACHE", own["NANOBENCH_CACHE"])
        user_cache.write(calibration.file_of(environment.identity()["hash"], HERE), kept)
    calibrates_and_predicts(functools.partial(nanobench_here, cwd=tmp_path, code=0, env=own), tmp_path)
    (found,) = store.Run(tmp_path / "run").info().calibrations.values()
    assert found.limits == Limits.from_json(limits)


def calibrates_and_predicts(command, folder):
    """A sweep, calibrate and predict."""
    asked = [word for word in SMALL if word not in ("--calibration", "off")]
    command("kv-sweep", *asked, "--batch", "1,2", "--launches", 2, "--trace", "--out", "run")
    (found,) = store.Run(folder / "run").info().calibrations.values()
    assert len(found.drift_checks) == 4
    cells = finder.load(folder / "run")
    predicted = ["predicted_ttft_s", "predicted_tpot_s", "predicted_e2e_s", "host_floor_s", "operations_per_step"]
    assert (cells[predicted] > 0).all().all()
    assert cells["prediction_error"].notna().all()
    assert set(cells["bound_by"]) <= {"host", "bandwidth", "compute", "unexplained"}
    faster = cells[cells["arm"] == "cached"]
    assert (faster["predicted_speedup"] > 0).all()
    assert faster["naive_speedup"].tolist() == pytest.approx([(8 + 9 + 10 + 11) / (8 + 4)] * 2)
    traces = sorted((folder / "run" / "traces").iterdir())
    assert len(traces) == 4
    assert json.loads(traces[0].read_text())["traceEvents"]
    shown = command("calibrate", "--threads", 1, "--device", "cpu", "--json").stdout
    assert "not stored: " in shown or "stored in " in shown
    assert json.loads(shown.splitlines()[-1])["calibrations"][0]["setting"] == "cpu float32 1"
    foretold = command("predict", "run", "--gpu", "h200,t4", "--json").stdout
    rows = json.loads(foretold.splitlines()[-1])["predicted"]
    assert len(rows) == 8
    assert all(row["predicted_tpot_s"] > 0 and row["measured_output_tok_s"] is None for row in rows)
    assert all(name in SAID or name.startswith(("predict", "measured")) for row in rows for name in row)


SAID = {*POINT_FIELDS, *ARM_FIELDS, "arm", "gpu"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("kv-sweep", *SMALL[:2], "--calibration", "maybe"), ["'maybe'", "auto, fresh, off"]),
        (("kv-sweep", *SMALL[:2], "--nvtx"), ["--nvtx", "CUDA only", "--trace"]),
        (("calibrate", "--dtype", "int4"), ["'int4'", "float32"]),
        (("calibrate", "--threads", "0"), ["--threads", "below 1"]),
        (("predict", "nowhere", "--gpu", "h200"), ["no run in nowhere"]),
        (("predict", "nowhere"), ["--gpu is missing", "h200"]),
        (("predict", "nowhere", "--gpu", "h20"), ["'h20'", "h200"]),
    ],
)
def test_a_mistake_gets_one_line(nanobench_here, tmp_path, arguments, words):
    done = nanobench_here(*arguments, cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr

"""The whole measuring protocol on a simulated device with known times: no GPU, no real time, exact figures."""

import pytest

import fakes
import virtual_device as virtual
from nanobench.probes.instruments import Instruments
from nanobench.records import Gate, LaunchRecord, Verdict
from nanobench.results import derive
from nanobench.schema import Arm, Point, Trial
from nanobench.worker import trial as trials
from nanobench.worker.workloads import timed
from virtual_device import VirtualClock, VirtualDevice

REFERENCE, TWICE = "fakes:on_virtual_device", "fakes:twice"
NEW = 4
CALL_S = 10e-3 + 3 * 2e-3
"""Device time of a call of the reference: a prefill of 10 ms and three steps of 2 ms."""
LAUNCH_S, SYNC_S, EVENT_S = virtual.LAUNCH_S, virtual.SYNC_S, virtual.EVENT_S


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Measures one launch of one point on a virtual device with these effects; gives a LaunchRecord per arm."""

    def run(*effects, engines=(REFERENCE, TWICE), number=1, clock=VirtualClock, sustained_s=0.0, probes=(), **asked):
        device = VirtualDevice(effects)
        monkeypatch.setattr(fakes, "virtual_device", device)
        point = Point(model="fakes:tiny", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=NEW)
        arms = tuple(Arm(engine=engine) for engine in engines)
        plan = {"launch": number, "seed": 0, "target_ci": 1e-9, "max_seconds": 1.0, **asked}
        trial = Trial(point=point, arms=arms, **plan)
        instruments = Instruments(clock(device), [probe(device) for probe in probes], sustained_s)
        # A verdict of an earlier launch whose digest does not fit: the arms are not new, and are gated again.
        known = {arm.label: Gate(Verdict.EXACT, "") for arm in arms} if number > 1 else {}
        records = trials.measure(trial, known, tmp_path, lambda progress: None, instruments)
        return [LaunchRecord.of(trial, 0, record) for record in records]

    return run


def cell(launches, engine):
    return next(cell for cell in derive.derive(launches) if cell["engine"] == engine)


def of(launches, engine, kind="steady"):
    """An arm's repetitions of one kind."""
    return [each for launch in launches if launch.arm.engine == engine for each in launch.of_kind(kind)]


def test_the_columns_are_the_devices_own_times(launch):
    found = cell(launch(), REFERENCE)
    assert found["gate"] == "exact"
    # A repetition holds two calls, so that it lasts 20 ms; only the first launch of it stands before the device's work.
    plain_s = 2 * CALL_S + LAUNCH_S + SYNC_S
    assert found["output_tok_s"] == pytest.approx(2 * 2 * NEW / plain_s, rel=1e-4)
    assert found["ttft_s"] == pytest.approx(10e-3, rel=1e-3)
    assert found["tpot_s"] == pytest.approx(2e-3, rel=1e-6)
    assert found["e2e_s"] == pytest.approx(CALL_S, rel=1e-3)
    assert found["itl_p50_s"] == pytest.approx(2e-3, rel=1e-6)
    assert found["itl_p50_lo_s"] is None  # four calls alike, whose twelve gaps count as four


def test_a_ratio_is_the_ratio_of_the_devices_times(launch):
    launches = launch() + launch(number=2)
    found = cell(launches, TWICE)
    assert found["speedup"] == pytest.approx(2.0, rel=1e-3)
    assert found["speedup_lo"] <= found["speedup"] <= found["speedup_hi"]
    assert found["status"] == "ok"
    assert found["pairs"] == sum(not each.timestamped for each in of(launches, TWICE))


def test_one_repetition_in_five_has_timestamps_and_throughput_comes_from_the_others(launch):
    repetitions = of(launch(), REFERENCE)
    assert [each.block for each in repetitions if each.timestamped] == [
        each.block for each in repetitions if each.block % 5 == 0
    ]
    assert all(len(each.token_times_s) == each.calls * NEW for each in repetitions if each.timestamped)


def test_events_cost_a_host_bound_arm_what_an_event_costs(launch):
    found = cell(launch(engines=("fakes:host_bound",), max_seconds=0.5), "fakes:host_bound")
    # Per token 60 launches of 5 us; the prefill is one launch.
    tokens_s = LAUNCH_S + 3 * 60 * LAUNCH_S
    assert found["timestamp_overhead"] == pytest.approx(NEW * EVENT_S / tokens_s, rel=0.02)
    per_token = EVENT_S / (60 * LAUNCH_S)
    assert per_token == pytest.approx(0.0033, abs=1e-4)


class SyncsAtEveryToken(VirtualClock):
    """What many scripts do: wait for the device after each token, then read the host's clock."""

    def timestamp(self):
        self.device.synchronize()
        return self.device.host_s


def test_a_wait_at_every_token_shows_as_twice_the_timestamp_overhead(launch):
    found = cell(launch(engines=("fakes:host_bound",), clock=SyncsAtEveryToken, max_seconds=0.5), "fakes:host_bound")
    assert found["timestamp_overhead"] == pytest.approx(NEW * SYNC_S / (LAUNCH_S + 3 * 60 * LAUNCH_S), rel=0.05)
    assert found["timestamp_overhead"] > 0.0065


class NeverWaits(VirtualClock):
    """A timer that forgets to wait for the device."""

    def sync(self):
        pass


def test_a_timer_that_does_not_wait_is_caught(launch, monkeypatch):
    # To such a timer a call takes 20 us: by its own count half a second of warm-up would be 25,000 of them.
    monkeypatch.setattr(timed, "WARMUP_S", 1e-4)
    monkeypatch.setattr(timed, "MIN_REPETITION_S", 1e-4)
    launches = launch(clock=NeverWaits, max_seconds=1e-3)
    found = cell(launches, REFERENCE)
    assert {each.reason for each in of(launches, REFERENCE)} == {"the timer stopped before the device did"}
    assert found["status"] == "unstable"
    assert "invalid" in found["reason"]
    assert found["invalid_reasons"].endswith("x the timer stopped before the device did")
    assert found["output_tok_s"] is None
    assert found["speedup"] is None


def test_a_compilers_spike_is_a_row_of_its_own_and_enters_no_average(launch):
    plain, spiky = launch(), launch(virtual.compile_spike(launches=NEW, host_s=5.0))
    first = of(spiky, REFERENCE, "first_call")[0].wall_s
    assert first == pytest.approx(NEW * 5.0 + 2e-3, abs=0.02)
    assert cell(spiky, REFERENCE)["first_call_s"] == first
    assert cell(spiky, REFERENCE)["output_tok_s"] == pytest.approx(cell(plain, REFERENCE)["output_tok_s"])
    assert cell(spiky, TWICE)["speedup"] == pytest.approx(cell(plain, TWICE)["speedup"])


def test_a_ramp_cancels_in_interleaved_pairs_and_would_not_in_blocks_and_is_called_no_steady_state(launch):
    launches = launch(virtual.ramp(0.05), max_seconds=4.0)
    found = cell(launches, TWICE)
    assert found["speedup"] == pytest.approx(2.0, rel=2e-3)
    times = [each.wall_s / each.calls for each in of(launches, REFERENCE) if not each.timestamped]
    half = len(times) // 2
    assert sum(times[half:]) / sum(times[:half]) > 1.05
    assert found["status"] == "no_steady_state"
    assert "never settle" in found["reason"]
    assert found["output_tok_s"] > 0


def test_a_throttled_stretch_hits_both_arms_and_leaves_the_ratio(launch):
    launches = launch(virtual.throttled(1.5, 2.5, factor=3.0), max_seconds=4.0)
    times = [each.wall_s for each in of(launches, REFERENCE)]
    assert max(times) > 2.5 * min(times)
    assert cell(launches, TWICE)["speedup_trimmed"] == pytest.approx(2.0, rel=1e-2)


def test_a_late_step_is_kept_and_stands_at_its_token(launch):
    # Not in the first launch, where a profiled call comes last.
    asked = {"engines": (REFERENCE,), "max_seconds": 0.3, "number": 2}
    later = [each for each in of(launch(**asked), REFERENCE) if each.block >= 5]
    # One launch a token: so many stand before the first token of block 5, whose third token is to be late.
    before = fakes.virtual_device.launches - sum(each.calls * NEW for each in later)
    disturbed = of(launch(virtual.late(before + 2, 7e-3), **asked), REFERENCE)
    late = next(each for each in disturbed if each.block == 5)
    gaps = [after - one for one, after in zip(late.token_times_s[: NEW - 1], late.token_times_s[1:NEW], strict=True)]
    assert gaps == pytest.approx([2e-3, 9e-3, 2e-3], rel=1e-3)
    assert late.valid


def test_memory_that_runs_out_in_mid_run_is_a_row_and_spares_the_other_arm(launch):
    launches = launch(virtual.out_of_memory(60), engines=(REFERENCE, TWICE))
    assert {cell(launches, engine)["status"] for engine in (REFERENCE, TWICE)} == {"oom"}
    assert cell(launches, REFERENCE)["reason"] == "OutOfMemoryError: virtual device out of memory"
    assert cell(launches, REFERENCE)["output_tok_s"] is None


def test_a_repetition_begins_on_an_idle_device_whatever_ran_before(launch, monkeypatch):
    launches = launch(engines=(REFERENCE,), max_seconds=0.2)
    assert of(launches, REFERENCE)
    assert all(each.device_s <= each.wall_s for each in of(launches, REFERENCE))
    assert all(each.enqueue_s < 0.1 * each.wall_s for each in of(launches, REFERENCE))


def test_the_phases_are_rows_and_columns(launch):
    launches = launch()
    kinds = [each.kind for launch in launches if launch.arm.engine == REFERENCE for each in launch.repetitions]
    assert list(dict.fromkeys(kinds)) == ["import", "load", "build", "first_call", "gate", "warmup", "steady"]
    found = cell(launches, REFERENCE)
    assert sum(each.wall_s for each in of(launches, REFERENCE, "warmup")) + found["first_call_s"] >= 0.5
    assert found["warmup_s"] + found["first_call_s"] == pytest.approx(0.5, abs=2 * CALL_S)
    assert found["steady_s"] == pytest.approx(sum(each.wall_s for each in of(launches, REFERENCE)))
    assert found["load_s"] > 0
    assert found["import_s"] > 0


def test_two_calls_at_least_warm_a_device_up_that_goes_on_by_itself(launch):
    launches = launch(virtual.compile_spike(launches=NEW, host_s=5.0), engines=(REFERENCE,))
    assert len(of(launches, REFERENCE, "warmup")) == 1


def test_the_sustained_phase_is_run_once_where_a_probe_needs_it_and_enters_no_ratio(launch):
    first, later = launch(sustained_s=3.5), launch(sustained_s=3.5, number=2)
    assert of(first, REFERENCE, "sustained")[-1].wall_s >= 3.5
    assert of(first, TWICE, "sustained")[-1].wall_s >= 3.5
    assert of(later, TWICE, "sustained") == []
    plain = cell(launch(), TWICE)
    assert cell(first, TWICE)["speedup"] == pytest.approx(plain["speedup"])
    assert cell(first, TWICE)["repetitions"] == plain["repetitions"]


def test_a_quick_launch_has_no_sustained_phase_unless_requested(launch):
    assert of(launch(sustained_s=3.5, sustain=False), TWICE, "sustained") == []


class DeviceTime:
    """Meets Probe: a counter that rises by a joule per second of the device."""

    note = None

    def __init__(self, device):
        self.device, self.start_s = device, 0.0

    def ready(self):
        pass

    def before(self):
        self.start_s = self.device.ready_s

    def after(self):
        return {"energy_j": self.device.ready_s - self.start_s}

    def close(self):
        return []


def test_counters_span_the_sustained_work_alone(launch):
    """Their rise over the phase is that of the calls that divide it, however long one call is."""
    for sustained_s in (0.02, 3.5):
        (sustained,) = of(launch(sustained_s=sustained_s, probes=(DeviceTime,)), REFERENCE, "sustained")
        assert sustained.energy_j == pytest.approx(sustained.wall_s, rel=0.01)


def test_the_warm_up_is_at_the_measured_shape(launch):
    launches = launch()
    shapes = {(each.point.batch_size, each.point.prompt_len, each.point.new_tokens) for each in launches}
    assert shapes == {(2, 8, NEW)}
    for each in of(launches, REFERENCE, "warmup"):
        assert each.tokens == each.calls * 2 * NEW

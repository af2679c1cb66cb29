"""The CUDA clock and the timer on a virtual device: an in-order stream with a launch cost, no GPU and no real time."""

from types import SimpleNamespace

import pytest
import torch

import virtual_device as virtual
from nanobench.probes import clock as clocks
from nanobench.schema import Arm, Point
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.generate import Generate
from virtual_device import VirtualDevice


class Event:
    """What torch gives, over a virtual device; here recording costs nothing, so that times are round."""

    device: VirtualDevice
    created = 0

    def __init__(self, enable_timing):
        assert enable_timing
        Event.created += 1

    def record(self):
        self.at = max(Event.device.ready_s, Event.device.host_s)

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(virtual, "SYNC_S", 0.0)
    monkeypatch.setattr(Event, "created", 0)
    device = Event.device = VirtualDevice(host_s=100.0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(clocks, "synchronize", lambda which: device.synchronize())
    monkeypatch.setattr(clocks, "perf_counter", lambda: device.host_s)
    return device


class Engine:
    """Prefill 10 ms, step 2 ms on the device; 5 us and 1 us to launch."""

    def __init__(self, device, sync=False):
        self.device, self.sync = device, sync

    def prefill(self, prompt_BT):
        self.device.launch(10e-3, host_s=5e-6)

    def step(self):
        self.device.launch(2e-3, host_s=1e-6)
        if self.sync:
            self.device.synchronize()
        return 1

    logits_BV = None


def timed(device, engine, timestamped, calls=1, new_tokens=4):
    point = Point(model="m", dtype="float32", device="cuda", threads=1, batch_size=3, prompt_len=5, new_tokens=new_tokens)
    workload = Generate(
        None,
        SimpleNamespace(prompt_BT=SimpleNamespace(device=torch.device("cuda"))),
        point,
        Arm(engine="fake"),
        clocks.CudaClock(torch.device("cuda")),
    )
    workload.engine, workload.calls = engine, calls
    return workload, workload.time("steady", 0, Block(0, timestamped, prompt_seed=0))


def test_events_give_the_devices_own_times(device):
    _, repetition = timed(device, Engine(device), timestamped=True)
    assert repetition.token_times_s == pytest.approx([10.005e-3, 12.005e-3, 14.005e-3, 16.005e-3])
    assert repetition.wall_s == pytest.approx(16.005e-3)
    assert repetition.device_s == pytest.approx(16.005e-3)
    assert repetition.enqueue_s == pytest.approx(8e-6)
    assert repetition.tokens == 12


def test_the_timer_never_waits_inside_what_it_times(device):
    timed(device, Engine(device), timestamped=True, calls=3)
    assert device.syncs == 2


def test_an_engine_that_waits_for_every_token_shows_in_the_enqueue_time(device):
    _, repetition = timed(device, Engine(device, sync=True), timestamped=False)
    assert repetition.enqueue_s == pytest.approx(repetition.wall_s)
    assert device.syncs == 2 + 3


def test_a_repetition_begins_on_an_idle_device(device):
    device.launch(5.0, host_s=1e-6)
    _, repetition = timed(device, Engine(device), timestamped=True)
    assert repetition.wall_s == pytest.approx(16.005e-3)


def test_plain_repetitions_carry_no_marks_and_the_same_times(device):
    _, repetition = timed(device, Engine(device), timestamped=False)
    assert repetition.token_times_s is None
    assert repetition.wall_s == pytest.approx(16.005e-3)


def test_several_calls_run_back_to_back_and_are_marked_from_the_start_of_the_first(device):
    _, repetition = timed(device, Engine(device), timestamped=True, calls=2, new_tokens=2)
    assert repetition.token_times_s == pytest.approx([10.005e-3, 12.005e-3, 22.005e-3, 24.005e-3])
    assert repetition.tokens == 2 * 3 * 2


def test_events_are_made_once_and_used_again(device):
    workload, _ = timed(device, Engine(device), timestamped=True)
    made = Event.created
    workload.time("steady", 1, Block(1, timestamped=True, prompt_seed=1))
    assert Event.created == made == 6


def test_a_host_mark_has_a_cost_and_a_cuda_mark_none_that_is_known():
    assert clocks.timestamp_cost_s(clocks.HostClock()) > 0
    assert clocks.timestamp_cost_s(clocks.CudaClock(torch.device("cuda"))) is None
    assert isinstance(clocks.make_clock(torch.device("cpu")), clocks.HostClock)
    assert isinstance(clocks.make_clock(torch.device("cuda")), clocks.CudaClock)

"""The host's probe over a scripted /proc and /sys, and the instruments that read several probes."""

import contextlib
import os
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nanobench.probes import host
from nanobench.probes.host import HostProbe
from nanobench.probes.instruments import Instruments, make_instruments
from nanobench.records import Readings, Repetition

COUNTERS, GAUGES = ("pressure_s", "quota_throttled_periods", "steal_s"), ("cpu_hz", "rss_bytes")
FILES = {
    "pressure_s": "proc/pressure/cpu",
    "quota_throttled_periods": "cgroup/box/cpu.stat",
    "steal_s": "proc/stat",
    "cpu_hz": "cpus/cpu2/cpufreq/scaling_cur_freq",
    "rss_bytes": "proc/self/statm",
}
"""Reading -> the file behind it on the scripted machine."""
V1 = "nr_periods 9\nnr_throttled {}\nthrottled_time 5\n"
V2 = "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 9\nnr_throttled {}\nthrottled_usec 5\n"


class Machine:
    """Four cores, of which we may use two; 100 ticks a second, pages of 4096 bytes."""

    def __init__(self, root):
        self.root, self.probes = root, []
        self.write("proc/self/cgroup", "0::/box\n")
        self.write("cpus/cpu0/cpufreq/scaling_cur_freq", "999\n")
        self.set(pressure_us=1_000_000, quota_throttled_periods=3, steal_ticks=40, khz=2_400_000, pages=25)

    def probe(self):
        self.probes.append(HostProbe())
        return self.probes[-1]

    def path(self, name):
        return self.root / name

    def write(self, name, text):
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def set(self, pressure_us=None, quota_throttled_periods=None, steal_ticks=None, khz=None, pages=None):
        full = "full avg10=9.00 avg60=9.00 avg300=9.00 total=77\n"
        texts = {
            "pressure_s": (pressure_us, "some avg10=0.00 avg60=1.50 avg300=2.00 total={}\n" + full),
            "quota_throttled_periods": (quota_throttled_periods, V2),
            "steal_s": (steal_ticks, "cpu  10 20 30 50 60 70 80 {} 90 99\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n"),
            "cpu_hz": (khz, "{}\n"),
            "rss_bytes": (pages, "1000 {} 30 40 0 50 0\n"),
        }
        for name, (value, text) in texts.items():
            if value is not None:
                self.write(FILES[name], text.format(value))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for name, folder in (("PROC", "proc"), ("CGROUPS", "cgroup"), ("CPUS", "cpus")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(host, name, tmp_path / folder)
    monkeypatch.setattr(host, "spin", lambda: 0.005)
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 100, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 2}, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 8.0, 9.0))
    made = Machine(tmp_path)
    yield made
    for source in (source for probe in made.probes for source in {**probe.counters, **probe.gauges}.values()):
        with contextlib.suppress(OSError, TypeError):
            os.close(source.file)


def seen(probe, work=lambda: None):
    """The readings of one repetition."""
    probe.before()
    work()
    return probe.after()


# Counters and levels


def test_counters_are_told_as_what_they_rose_by_over_the_repetition(machine):
    found = seen(machine.probe(), lambda: machine.set(pressure_us=1_250_000, quota_throttled_periods=5, steal_ticks=48))
    assert found["pressure_s"] == pytest.approx(0.25)
    assert found["quota_throttled_periods"] == 2
    assert found["steal_s"] == pytest.approx(0.08 / 4)  # 8 ticks of four cores


def test_a_repetition_sees_nothing_of_what_happened_before_it_or_between_two(machine):
    probe = machine.probe()
    machine.set(pressure_us=5_000_000, quota_throttled_periods=50, steal_ticks=500)
    assert [seen(probe)[name] for name in COUNTERS] == [0, 0, 0]
    machine.set(pressure_us=6_000_000, quota_throttled_periods=60, steal_ticks=600)
    found = seen(probe, lambda: machine.set(pressure_us=6_000_001, quota_throttled_periods=61, steal_ticks=604))
    assert [found[name] for name in COUNTERS] == [pytest.approx(1e-6), 1, pytest.approx(0.01)]


def test_levels_are_those_at_the_end_of_the_repetition(machine):
    found = seen(machine.probe(), lambda: machine.set(khz=1_200_000, pages=50))
    assert found["cpu_hz"] == 1.2e9
    assert found["rss_bytes"] == 50 * 4096
    assert found["load_1m"] == 1.25


def test_a_machine_that_tells_all_leaves_nothing_to_explain(machine):
    probe = machine.probe()
    found = seen(probe)
    assert None not in found.values()
    assert probe.note is None


def test_every_reading_is_a_field_of_the_raw_rows(machine):
    assert set(seen(machine.probe())) < {field.name for field in fields(Readings)}


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/user.slice/app\n", "user.slice/app/cpu.stat", V2),
        ("0::/\n", "cpu.stat", V2),
        ("0::/not/visible/from/inside\n", "cpu.stat", V2),
        ("4:cpu,cpuacct:/docker/abc\n", "cpu,cpuacct/docker/abc/cpu.stat", V1),
        ("4:cpu,cpuacct:/docker/abc\n", "cpu,cpuacct/cpu.stat", V1),
        ("9:name=systemd:/x\n5:cpuset:/x\n2:cpuacct:/x\n1:cpu:/x\n0::/x\n", "cpu/x/cpu.stat", V1),
        ("1:name=systemd:/x\n0::/x\n", "x/cpu.stat", V2),
        ("0::/my app:1/run\n", "my app:1/run/cpu.stat", V2),
    ],
    ids=["v2", "v2 inside", "v2 hidden", "v1", "v1 inside", "v1 apart", "v2 beside systemd", "v2 with a space"],
)
def test_throttling_is_found_in_control_groups_of_either_version(machine, groups, file, text):
    machine.path(FILES["quota_throttled_periods"]).unlink()
    machine.write("proc/self/cgroup", groups)
    machine.write(f"cgroup/{file}", text.format(7))
    for decoy in ("cpuset/x", "cpuacct/x", "name=systemd/x", "memory"):
        machine.write(f"cgroup/{decoy}/cpu.stat", V1.format(1000))
    found = seen(machine.probe(), lambda: machine.write(f"cgroup/{file}", text.format(9)))
    assert found["quota_throttled_periods"] == 2


def test_a_group_without_a_quota_of_its_own_is_held_by_that_of_the_root(machine):
    machine.write("cgroup/box/cpu.stat", "usage_usec 7\nuser_usec 4\nsystem_usec 3\n")
    machine.write("cgroup/cpu.stat", V2.format(1))
    assert seen(machine.probe(), lambda: machine.write("cgroup/cpu.stat", V2.format(4)))["quota_throttled_periods"] == 3


# Readings that a machine does not report


def test_what_a_machine_does_not_tell_is_null_and_the_note_says_which_and_why(machine):
    for file in (*FILES.values(), "proc/self/cgroup"):
        machine.path(file).unlink()
    probe = machine.probe()
    found = seen(probe)
    assert {name for name, value in found.items() if value is None} == {*COUNTERS, *GAUGES}
    told = dict(part.split(": ", 1) for part in probe.note.split("; "))
    assert set(told) == {*COUNTERS, *GAUGES}
    for name in ("pressure_s", "steal_s", "rss_bytes"):
        assert told[name] == f"{machine.path(FILES[name])}: No such file or directory"
    assert told["quota_throttled_periods"] == told["cpu_hz"] == "not reported by this machine"


@pytest.mark.parametrize("name", FILES)
def test_one_absent_source_takes_no_other_reading_along(machine, name):
    machine.path(FILES[name]).unlink()
    probe = machine.probe()
    found = seen(probe)
    assert [missing for missing, value in found.items() if value is None] == [name]
    assert probe.note.startswith(f"{name}: ")
    assert "; " not in probe.note


@pytest.mark.parametrize(
    "text", [b"", b"rubbish", b"a b\n\nc\n", b"0::\n", b"::::\n", b"0:/box\n", b"1:cpu,cpuacct\n", b"0::/b\xffx\n"]
)
def test_a_control_group_that_cannot_be_understood_is_one_that_does_not_tell(machine, text):
    machine.path("proc/self/cgroup").write_bytes(text)
    probe = machine.probe()
    assert seen(probe)["quota_throttled_periods"] is None
    assert probe.note.startswith("quota_throttled_periods: ")


def test_a_control_group_that_must_not_be_read_is_one_that_does_not_tell(machine):
    machine.path(FILES["quota_throttled_periods"]).unlink()
    machine.path(FILES["quota_throttled_periods"]).mkdir()  # reading it raises OSError, whoever asks
    probe = machine.probe()
    assert seen(probe)["quota_throttled_periods"] is None
    assert probe.note.startswith("quota_throttled_periods: ")


def spoil(machine, probe, name, how):
    """What may happen to a source while it is held open."""
    if how == "closed":
        os.close({**probe.counters, **probe.gauges}[name].file)
    else:
        machine.path(FILES[name]).write_bytes({"empty": b"", "words": b"out of order\n", "binary": b"\xff\xfe\x00"}[how])


@pytest.mark.parametrize("how", ["closed", "empty", "words", "binary"])
@pytest.mark.parametrize("name", FILES)
def test_a_source_that_fails_in_mid_run_is_null_from_then_on_and_the_others_are_told(machine, name, how):
    probe = machine.probe()
    assert None not in seen(probe).values()
    assert probe.note is None
    found = seen(probe, lambda: spoil(machine, probe, name, how))
    for later in (found, seen(probe), seen(probe)):
        assert [each for each in FILES if later[each] is None] == [name]
    assert probe.note.startswith(f"{name}: {machine.path(FILES[name])}: ")
    assert "; " not in probe.note


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_that_comes_back_within_a_repetition_tells_nothing_of_it(machine, name):
    probe = machine.probe()
    text = machine.path(FILES[name]).read_text()
    machine.write(FILES[name], "")
    assert seen(probe, lambda: machine.write(FILES[name], text))[name] is None
    assert seen(probe)[name] == 0


@pytest.mark.parametrize("name", FILES)
def test_the_note_on_an_empty_source_is_in_words_of_the_machine_not_of_the_interpreter(machine, name):
    probe = machine.probe()
    seen(probe, lambda: spoil(machine, probe, name, "empty"))
    assert "index out of range" not in probe.note


@pytest.mark.parametrize("name", FILES)
def test_a_probe_whose_file_was_closed_behind_it_can_still_be_ended(machine, name):
    probe = machine.probe()
    spoil(machine, probe, name, "closed")
    assert probe.close() == []


def test_an_ended_probe_holds_no_file_and_reads_nothing(machine):
    before = len(os.listdir("/dev/fd"))
    probe = machine.probe()
    assert len(os.listdir("/dev/fd")) == before + len(FILES)
    assert probe.close() == []
    assert probe.close() == []
    assert len(os.listdir("/dev/fd")) == before
    assert [seen(probe)[name] for name in FILES] == [None] * len(FILES)


# The loop of fixed length


def test_the_loop_runs_just_before_a_repetition_and_not_more_often_than_it_must(machine, monkeypatch):
    clock = SimpleNamespace(now_s=0.0, perf_counter=lambda: clock.now_s, thread_time=lambda: 0.0)
    durations = iter((0.005, 0.006, 0.007))

    def spin():
        took_s = next(durations)
        clock.now_s += took_s
        return took_s

    monkeypatch.setattr(host, "time", clock)
    monkeypatch.setattr(host, "spin", spin)
    probe = machine.probe()

    def at(now_s):
        clock.now_s = now_s
        return seen(probe)["spin_s"]

    rest_s = host.SPIN_EVERY_S
    assert at(0.0) == 0.005  # the first repetition has one, even at the very start of the clock
    assert at(0.005 + 0.9 * rest_s) is None
    assert at(0.005 + 1.1 * rest_s) == 0.006
    assert at(0.005 + 1.2 * rest_s) is None
    assert at(9.0) == 0.007


def test_the_loop_is_no_part_of_the_repetition(machine, monkeypatch):
    order = []
    monkeypatch.setattr(host, "spin", lambda: order.append("spin") or 0.005)
    monkeypatch.setattr(host, "switches", lambda: order.append("switches") or 0)
    seen(machine.probe(), lambda: order.append("work"))
    assert order == ["spin", "switches", "work", "switches"]


def test_the_loop_takes_some_time():
    assert host.spin() > 0


# The worker's own thread and process


def work_for(cpu_s):
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def test_time_on_a_core_is_that_of_work_and_not_that_of_sleep(machine):
    probe = machine.probe()
    idle, busy = seen(probe, lambda: time.sleep(0.05)), seen(probe, lambda: work_for(0.05))
    assert busy["cpu_s"] >= 0.05
    assert 0 <= idle["cpu_s"] < busy["cpu_s"] / 2


def test_involuntary_switches_are_counted_in_whole_numbers(machine, monkeypatch):
    found = seen(machine.probe(), lambda: work_for(0.01))["involuntary_switches"]
    assert isinstance(found, int)
    assert found >= 0
    counts = iter((7, 10))
    monkeypatch.setattr(host, "switches", lambda: next(counts))
    assert seen(machine.probe())["involuntary_switches"] == 3


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_this_process_began_some_time_ago_and_grows_older():
    first = host.process_age_s()
    assert first > 0
    assert host.process_age_s() >= first


def test_the_age_of_a_process_is_the_time_since_boot_less_that_of_its_start(machine, monkeypatch):
    monkeypatch.setattr(host, "time", SimpleNamespace(clock_gettime={7: 80.0}.__getitem__, CLOCK_BOOTTIME=7))
    after_name = ["S", *map(str, range(4, 22)), "5000", *map(str, range(23, 53))]
    machine.write("proc/self/stat", f"42 (a) b (c) {' '.join(after_name)}\n")
    assert host.process_age_s() == pytest.approx(80 - 50)


@pytest.mark.parametrize("text", [None, "", "rubbish", "42 (python) S 1 2 3\n"])
def test_the_age_of_a_process_is_unknown_where_the_kernel_does_not_tell(machine, text):
    if text is not None:
        machine.write("proc/self/stat", text)
    assert host.process_age_s() is None


# Instruments


class Fake:
    """A probe that writes down when it is asked."""

    def __init__(self, name, log, note=None, samples=(), **readings):
        self.name, self.log, self.note, self.samples, self.readings = name, log, note, samples, readings

    def ready(self):
        self.log.append(f"{self.name} ready")

    def before(self):
        self.log.append(f"{self.name} before")

    def after(self):
        self.log.append(f"{self.name} after")
        return self.readings

    def close(self):
        self.log.append(f"{self.name} closed")
        return list(self.samples)


def test_the_probe_nearest_to_the_work_is_the_one_that_is_asked_last_before_and_first_after_it():
    log = []
    instruments = Instruments(None, [Fake(name, log) for name in "abc"])
    instruments.ready()
    instruments.observe(lambda: log.append("work") or Repetition(kind="steady"))
    assert log[:3] == ["a ready", "b ready", "c ready"]
    assert log[3:] == ["a before", "b before", "c before", "work", "c after", "b after", "a after"]


def test_what_all_probes_saw_stands_beside_the_times_of_the_repetition():
    done = Repetition(kind="steady", repetition=3, block=4, wall_s=1.5, tokens=12, valid=False, reason="recompiled")
    host_probe, gpu_probe = Fake("a", [], cpu_s=1.25, load_1m=None), Fake("b", [], power_w=300.0, clock_event_reasons="")
    found = Instruments(None, [host_probe, gpu_probe]).observe(lambda: done)
    assert found == Repetition(
        kind="steady",
        repetition=3,
        block=4,
        wall_s=1.5,
        tokens=12,
        valid=False,
        reason="recompiled",
        cpu_s=1.25,
        power_w=300.0,
        clock_event_reasons="",
    )


def test_without_probes_a_repetition_is_left_as_it_is():
    done = Repetition(kind="steady", wall_s=1.5)
    instruments = Instruments(None)
    assert instruments.observe(lambda: done) == done
    assert instruments.note is None
    assert instruments.close() == []


def test_work_that_fails_is_not_hidden_and_the_next_is_observed_from_its_own_start():
    log = []
    instruments = Instruments(None, [Fake("a", log, cpu_s=1.0)])

    def fails():
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        instruments.observe(fails)
    assert instruments.observe(lambda: Repetition(kind="steady")).cpu_s == 1.0
    assert log == ["a before", "a before", "a after"]


def test_ending_the_instruments_ends_every_probe_and_keeps_the_samples_of_all():
    log = []
    samples = [Repetition(kind="sample", repetition=number, started_at=float(number)) for number in range(3)]
    probes = [Fake("a", log, samples=samples[:1]), Fake("b", log), Fake("c", log, samples=samples[1:])]
    assert Instruments(None, probes).close() == samples
    assert sorted(log) == ["a closed", "b closed", "c closed"]


def test_the_notes_of_the_probes_are_joined_and_those_without_one_say_nothing():
    notes = ("cpu_hz: not reported by this machine", None, "power_w: Not Supported")
    assert Instruments(None, [Fake("a", [], note=note) for note in notes]).note == f"{notes[0]}; {notes[2]}"
    assert Instruments(None, [Fake("a", []), Fake("b", [])]).note is None


def test_a_cpu_is_watched_by_the_hosts_probe_alone_and_needs_no_sustained_work(tmp_path):
    instruments = make_instruments(torch.device("cpu"), tmp_path)
    (probe,) = instruments.probes
    assert isinstance(probe, HostProbe)
    assert instruments.sustained_s == 0
    assert instruments.observe(lambda: Repetition(kind="steady", wall_s=1.0)).cpu_s is not None
    assert instruments.close() == []
    assert list(tmp_path.iterdir()) == []

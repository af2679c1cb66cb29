"""One measurement at a time on one device, whoever asks."""

import os
import subprocess
import sys
import time

import pytest

from conftest import SMALL, environment
from nanobench.errors import UserError
from nanobench.results import store
from nanobench.sweep import device_lock


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOBENCH_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def hold(device="cpu", wait=False, say=print):
    return device_lock.hold(device, wait, say)


def test_a_device_that_is_held_is_refused_and_its_holder_named():
    with hold(), pytest.raises(UserError, match=r"cpu is held by `.*` \(pid \d+, .*since .*--wait"), hold():
        pass


def test_a_device_is_free_again_after_its_holder_and_two_devices_do_not_wait_for_each_other():
    with hold():
        pass
    with hold(), hold("cuda:0"), hold("cuda:1"):
        pass


def test_a_device_is_the_same_by_all_its_names(monkeypatch):
    assert device_lock.physical("cuda") == device_lock.physical("cuda:0") == "cuda:0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert [device_lock.physical(name) for name in ("cpu", "cuda", "cuda:1", "cuda:2")] == ["cpu", "cuda:3", "cuda:1", "cuda:2"]


def test_ranks_hold_a_gpu_each(monkeypatch):
    assert device_lock.devices_of_ranks("cuda", 3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert device_lock.devices_of_ranks("cuda:1", 1) == ["cuda:1"]
    assert device_lock.devices_of_ranks("cpu", 2) == ["cpu"]
    with device_lock.hold_all(["cuda:0", "cuda:1"], False, print):
        for device in ("cuda:0", "cuda:1"):
            with pytest.raises(UserError, match=f"{device} is held"), hold(device):
                pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with device_lock.hold_all(["cuda:0", "cuda:1"], False, print):
        pass
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with hold("cuda:1"):
        with pytest.raises(UserError, match="cuda:1 is held"), device_lock.hold_all(["cuda:0", "cuda:1"], False, print):
            pass
        with hold("cuda:0"):
            pass


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_holds_a_device_by_number(monkeypatch, error):
    def nobody():
        raise error("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(device_lock.getpass, "getuser", nobody)
    with hold(), pytest.raises(UserError, match=f"pid {os.getpid()}, {os.getuid()}, since"), hold():
        pass


def test_a_link_that_somebody_left_is_not_followed(tmp_path):
    """The folder of locks belongs to all users."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "locks" / "cpu.holder").symlink_to(tmp_path / "mine")
    with hold():
        assert f'"pid": {os.getpid()}' in (tmp_path / "locks" / "cpu.holder").read_text()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOBENCH_LOCKS", str(tmp_path / "file" / "locks"))
    with pytest.raises(UserError, match="NANOBENCH_LOCKS"), hold():
        pass


def test_a_holder_that_was_killed_holds_nothing(tmp_path):
    hold_it = "with device_lock.hold('cpu', False, print): print('held', flush=True), time.sleep(60)"
    code = f"import time\nfrom nanobench.sweep import device_lock\n{hold_it}"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"pid {other.pid}"), hold():
        pass
    other.kill()
    other.wait()
    with hold():
        pass


def test_verify_refuses_a_device_that_a_sweep_holds(nanobench_here, tmp_path):
    with hold():
        own = {"NANOBENCH_LOCKS": str(tmp_path / "locks")}
        refused = nanobench_here("verify", *SMALL[:2], cwd=tmp_path, code=2, env=own)
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith("cpu is held by")
    assert "--wait" in line


@pytest.mark.slow
def test_a_sweep_waits_for_the_device_holds_it_while_it_measures_and_a_third_is_refused(nanobench_here, tmp_path):
    asked = ("kv-sweep", *SMALL, "--batch", 1, "--launches", 1, "--max-seconds", 3, "--target-ci", 1e-4)
    locks = {"NANOBENCH_LOCKS": str(tmp_path / "locks")}
    with hold():
        command = [sys.executable, "-m", "nanobench", *map(str, asked), "--wait", "--out", "waiting"]
        own = {**environment(), **locks, "PYTHONUNBUFFERED": "1"}
        sweep = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "waiting" in sweep.stdout.readline()
        released_at = time.time()
    while not (tmp_path / "waiting" / "raw").exists():
        assert sweep.poll() is None
        time.sleep(0.05)
    refused = nanobench_here(*asked, "--out", "refused", cwd=tmp_path, code=2, env=locks).stderr
    with hold(wait=True):
        held_at = time.time()
    assert len(refused.strip().splitlines()) == 1
    assert f"pid {sweep.pid}" in refused
    assert "--out waiting" in refused
    assert "--wait" in refused
    assert not (tmp_path / "refused").exists()
    out, error = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out + error
    measured = [each for launch in store.Run(tmp_path / "waiting").read_raw() for each in launch.repetitions if each.started_at]
    assert released_at < min(each.started_at for each in measured)
    assert max(each.started_at + each.wall_s for each in measured) < held_at

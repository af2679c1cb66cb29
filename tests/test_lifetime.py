"""No process outlives the one that started it: whatever is killed, nothing is left."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict

import psutil
import pytest

from conftest import environment
from nanobench.schema import Arm, Point, Trial
from nanobench.sweep.executors import base, local

MARK = "NANOBENCH_TEST_MARK"


def test_a_worker_whose_launcher_has_ended_exits_before_it_loads_torch(tmp_path):
    own = {**environment(), "NANOBENCH_LAUNCHER": "1"}
    command = [sys.executable, "-X", "importtime", "-m", "nanobench.worker", "--serve"]
    done = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "nanobench.worker.lifetime" in done.stderr
    assert "torch" not in done.stderr


def test_a_process_that_is_killed_takes_those_along_that_it_started_in_other_sessions():
    child = "p = subprocess.Popen(['sleep', '600'], start_new_session=True); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", f"import subprocess; {child}"], stdout=subprocess.PIPE, text=True)
    grandchild = psutil.Process(int(process.stdout.readline()))
    base.end(process)
    assert process.returncode == -9
    psutil.wait_procs([grandchild], timeout=10)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    base.end(process)


class Family:
    """A command line, and all processes that inherited its mark."""

    def __init__(self, folder, *arguments):
        self.mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "nanobench", *map(str, arguments)]
        own = {**environment(), MARK: self.mark}
        self.cli = subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self.cli.pid

    def ended(self):
        """Waits for the end of the command line."""
        self.cli.wait(timeout=1)

    def members(self):
        """Role -> processes that run."""
        found = {"cli": [], "launcher": [], "rank": [], "server": [], "worker": [], "other": []}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[self.role(process)].append(process)
        return found

    def role(self, process):
        words = process.cmdline()
        if process.pid == self.pid:
            return "cli"
        if "nanobench.worker" not in words:
            return "other"
        if "--serve" in words:
            return "server" if process.ppid() == self.pid else "worker"
        return "launcher" if "--ranks=2" in words else "rank"

    def wait_for(self, role, ready=lambda process: True, count=1):
        """The processes of a role, as soon as there are so many that are ready."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = [process for process in self.members()[role] if ready(process)]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no {role}: {self.members()}")

    def wait_for_the_end(self):
        """Waits until no process is left; returns those that are."""
        deadline = time.monotonic() + 60
        while any(left := self.members().values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.ended()
        return [process for processes in left for process in processes]


HANGING = Trial(
    point=Point(
        model="fakes:hanging_rank",
        dtype="float32",
        device="cpu",
        threads=1,
        batch_size=2,
        seq_len=32,
        phase="pretrain",
        data="synthetic",
        optimizer="adamw",
        world_size=2,
    ),
    arms=(Arm(),),
    launch=1,
    seed=0,
    target_ci=0.05,
    max_seconds=0.05,
)


class Ranks(Family):
    """Two ranks that a thread of this process follows, as the command line does."""

    def __init__(self, folder, mark):
        self.mark, self.pid, self.result = mark, os.getpid(), None
        self.follower = threading.Thread(target=self.follow, args=(folder,))
        self.follower.start()

    def follow(self, folder):
        executor = local.build("forkserver", 0, folder / "cache")
        request = {"trial": asdict(HANGING), "gates": {}}
        self.result = executor.run(request, folder / "run", folder / "log", 600.0, lambda report: None)

    def ended(self):
        self.follower.join(timeout=60)
        assert not self.follower.is_alive()


def kill(running):
    """Kills what is left of a family."""
    for processes in running.members().values():
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
    running.ended()


def hangs(folder):
    """Whether a file says that an arm is running: from then on nothing changes."""
    return lambda process: any(path.stat().st_size for path in folder.glob("run/**/running"))


@pytest.fixture
def family(tmp_path):
    """Starts a command line; kills what is left of it at the end."""
    started = []

    def start(*arguments):
        started.append(Family(tmp_path, *arguments, "--out", "run", "--launches", 1, "--no-plot", "--threads", 1))
        return started[-1]

    yield start
    for each in started:
        kill(each)


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Two ranks that hang, without the command line."""
    for name, value in {**environment(), MARK: uuid.uuid4().hex}.items():
        monkeypatch.setenv(name, value)
    running = Ranks(tmp_path, os.environ[MARK])
    yield running
    kill(running)


TRAINING = ("train-throughput", "--model", "fakes:hanging_rank", "--nproc", 2, "--batch", 2, "--seq-len", 32)
GENERATION = ("kv-sweep", "--model", "fakes:tiny", "--engine", "fakes:hanging", "--batch", 4, "--calibration", "off")
GENERATION += ("--prompt-len", 8, "--new-tokens", 4)


@pytest.mark.slow
def test_ranks_that_only_begin_to_load_torch_end_too(ranks):
    ranks.wait_for("rank")
    ranks.members()["launcher"][0].kill()
    assert ranks.wait_for_the_end() == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "rank"])
def test_no_rank_outlives_its_launcher_or_its_peer(ranks, tmp_path, victim):
    ranks.wait_for("rank", hangs(tmp_path), count=2)
    sorted(ranks.members()[victim], key=lambda process: process.pid)[0].kill()
    assert ranks.wait_for_the_end() == []
    assert ranks.result.status == "error"


@pytest.mark.slow
def test_no_rank_outlives_the_command_line(family, tmp_path):
    running = family(*TRAINING)
    running.wait_for("rank", hangs(tmp_path), count=2)
    running.cli.kill()
    assert running.wait_for_the_end() == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["cli", "server"])
def test_no_worker_outlives_its_fork_server_or_the_command_line(family, tmp_path, victim):
    running = family(*GENERATION)
    running.wait_for("worker", hangs(tmp_path))
    running.members()[victim][0].kill()
    assert running.wait_for_the_end() == []


@pytest.mark.slow
def test_the_command_line_ends_its_ranks_when_it_is_told_to_stop(family, tmp_path):
    running = family(*TRAINING)
    running.wait_for("rank", hangs(tmp_path), count=2)
    os.kill(running.cli.pid, 15)
    assert running.wait_for_the_end() == []
    assert running.cli.returncode == 130

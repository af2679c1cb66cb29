"""The command line in a process of its own or in this one, and a small sweep measured once for all tests that read results."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

# Tests run side by side: with more threads than cores, they wait for each other longer than small passes take. torch reads it
# when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

TESTS = Path(__file__).parent
SMALL = (
    "--model",
    "gpt2-nano",
    "--prompt-len",
    "8",
    "--new-tokens",
    "4",
    "--threads",
    "1",
    "--max-seconds",
    "0.2",
    "--no-plot",
    "--calibration",
    "off",
)


@pytest.fixture
def no_plots(monkeypatch):
    """A report is its text alone: drawing its figures takes seconds, and the tests of figures draw them."""
    from nanobench.views import plots

    monkeypatch.setattr(plots, "draw_all", lambda *arguments: [])


@pytest.fixture
def compile_with(monkeypatch):
    """Takes the backend of the modes `default` and `dynamic`: graphs are captured as ever, and inductor would take a minute."""
    import torch

    from nanobench import schema

    def use(backend):
        for mode in ("default", "dynamic"):
            monkeypatch.setitem(schema.COMPILE_MODES, mode, {**schema.COMPILE_MODES[mode], "backend": backend})
        torch._dynamo.reset()

    yield use
    torch._dynamo.reset()


@pytest.fixture
def derived(monkeypatch):
    """How often cells were derived."""
    from nanobench.results import derive

    count, before = [], derive.derive

    def counted(*arguments):
        count.append(1)
        return before(*arguments)

    monkeypatch.setattr(derive, "derive", counted)
    return count


def own_locks():
    """Tests run side by side on one device, each process with locks of its own."""
    return f"{tempfile.gettempdir()}/nanobench-locks-{os.getpid()}"


def environment():
    """The tests' plug-ins can be named; colours and width are those of a pipe."""
    paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "NANOBENCH_LOCKS": own_locks()}


@pytest.fixture(scope="session")
def nanobench():
    """Runs the command line in `cwd` in a process of its own and returns the finished process."""

    def run(*arguments, cwd, timeout=300, code=None, env=None):
        command = [sys.executable, "-m", "nanobench", *map(str, arguments)]
        own = {**environment(), **(env or {})}
        done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, timeout=timeout)
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def nanobench_here():
    """The same, command line and workers both in this process: seconds quicker, for what is neither killed nor limited."""
    import in_process

    def run(*arguments, env=None, **known):
        return in_process.run(*arguments, env={"NANOBENCH_LOCKS": own_locks(), **(env or {})}, **known)

    return run


def made_once(tmp_path_factory, name, make):
    """A folder that `make` fills, for the tests of all processes of pytest-xdist; whoever changes it takes a copy."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def small_run(nanobench, tmp_path_factory):
    """The folder of a sweep with two launches and two batch sizes, measured by real processes, and what it printed."""

    def make(folder):
        asked = ("kv-sweep", *SMALL, "--batch", "1,3", "--launches", 2, "--out", "run", "--json")
        (folder / "printed").write_text(nanobench(*asked, cwd=folder, code=0).stdout)

    folder = made_once(tmp_path_factory, "small", make)
    return folder / "run", (folder / "printed").read_text()

"""A small sweep measured once for all tests that read results, and the command line in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """Tests run side by side: more threads than cores would only slow them down."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def environment():
    """The tests' plug-ins can be named; colours and width are those of a pipe."""
    paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    # Tests run side by side on one device, each process with locks of its own.
    return {**os.environ, **own, "NANOBENCH_LOCKS": f"{tempfile.gettempdir()}/nanobench-locks-{os.getpid()}"}


@pytest.fixture(scope="session")
def nanobench():
    """Runs the command line in `cwd` and returns the finished process."""

    def run(*arguments, cwd, timeout=300, code=None):
        command = [sys.executable, "-m", "nanobench", *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout)
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def small_run(nanobench, tmp_path_factory):
    """The folder of a sweep with two launches and two batch sizes, and what it printed."""
    folder = tmp_path_factory.mktemp("small")
    done = nanobench("kv-sweep", *SMALL, "--batch", "1,3", "--launches", 2, "--out", "run", "--json", cwd=folder, code=0)
    return folder / "run", done.stdout

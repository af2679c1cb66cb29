"""A small sweep on real clusters of this machine, with a job or a node that is lost. `make test-cluster` runs this."""

import importlib.util
import os
import socket
import subprocess
import sys

import pytest

import clusters
from conftest import TESTS, environment
from nanobench import load
from nanobench.records import MEASURED
from nanobench.results import store

pytestmark = pytest.mark.skipif("NANOBENCH_TEST_CLUSTER" not in os.environ, reason="make test-cluster runs it")
SWEEP = ("kv-sweep", "--model", "gpt2-nano", "--batch", "1,2", "--launches", "2", "--calibration", "off", "--no-plot")
QUICK = ("--threads", "1", "--max-seconds", "0.5", "--max-minutes", "planned", "--out", "run")
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def command(executor):
    return [sys.executable, "-m", "nanobench", *SWEEP, *QUICK, "--executor", executor]


@pytest.fixture(scope="module")
def local_cells(nanobench, tmp_path_factory):
    """The cells of the same sweep on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    nanobench(*SWEEP, *QUICK, cwd=folder, code=0)
    return load(folder / "run")


def check(folder, local_cells):
    """Compares the run in a folder with the local one, in all that does not depend on times. Returns it."""
    run, cells = store.Run(folder / "run"), load(folder / "run")
    heads = ["batch_size", "arm", "arm_index", "gate", "launches_ok", "launches_failed", "kv_cache_bytes", "identity"]
    assert list(cells.columns) == list(local_cells.columns)
    assert cells[heads].to_dict() == local_cells[heads].to_dict()
    assert set(cells["launches_ok"]) == {2}
    assert set(cells["gate"]) == {"exact"}
    assert set(cells["status"]) <= set(MEASURED)
    assert (cells[cells["arm_index"] > 0]["speedup"] > 0).all()
    assert len(list(run.raw.glob("*.parquet"))) == 4
    assert {path.name for path in run.folder.iterdir()} == {
        *("cells.arrow", "cells.parquet", "journal.jsonl", "logs", "raw", "run.json")
    }
    return run


def lost_jobs(run):
    """The lines of the logs about lost jobs."""
    return [
        line for path in run.logs.iterdir() for line in path.read_text().splitlines() if line.endswith("; it is sent again")
    ]


@pytest.mark.skipif(bool(clusters.missing_programs()), reason="Slurm is not installed")
def test_a_sweep_on_slurm_survives_the_loss_of_a_job(local_cells, tmp_path):
    with clusters.slurm(tmp_path / "slurm"):
        sweep = subprocess.Popen(command("slurm:partition=main,time=10,at_once=2"), cwd=tmp_path, env=environment())
        clusters.wait_until("the plan is made", (tmp_path / "run" / "run.json").exists)
        job, *_ = clusters.wait_until("a trial runs", lambda: clusters.jobs("RUNNING"))
        clusters.kill_job(job)
        assert sweep.wait(timeout=300) == 0
        assert clusters.jobs("PENDING,RUNNING") == []
        assert clusters.jobs("FAILED") == [job]
    run = check(tmp_path, local_cells)
    (line,) = lost_jobs(run)
    assert line.startswith(f"job {job} ended with state FAILED")
    assert {each.node for each in run.read_raw()} == set(clusters.NODES)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_sweep_on_ray_survives_the_loss_of_a_node(local_cells, tmp_path):
    words = [sys.executable, str(TESTS / "clusters.py"), *command("ray")]
    apart = ["unshare", "-n", "bash", "-c", 'ip link set lo up; exec "$@"', "bash", *words]
    done = subprocess.run(apart, cwd=tmp_path, env={**environment(), **RAY}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a node was killed" in done.stdout
    run = check(tmp_path, local_cells)
    (line,) = lost_jobs(run)
    assert "was lost: " in line
    assert all(each.node.startswith(socket.gethostname() + " ") for each in run.read_raw())

"""The export for pytest-benchmark: its own command reads it, and its figures are those of the cells."""

import json
import shutil
import subprocess
import sys

import pytest

from conftest import TESTS

RUN = TESTS / "runs" / "protocol-4"


@pytest.fixture(scope="module")
def exported(nanobench_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    nanobench_here("export", RUN, "--format", "pytest-benchmark", "--out", folder / "0001_run.json", cwd=folder, code=0)
    return folder / "0001_run.json"


def test_every_measured_cell_is_a_benchmark(exported):
    document = json.loads(exported.read_text())
    assert len(document["benchmarks"]) >= 2
    assert len({each["fullname"] for each in document["benchmarks"]}) == len(document["benchmarks"])
    for each in document["benchmarks"]:
        found = each["stats"]
        assert found["min"] <= found["q1"] <= found["median"] <= found["q3"] <= found["max"]
        assert found["rounds"] == len(found["data"]) > 1
        assert found["ops"] == pytest.approx(1 / found["mean"])


def test_pytest_benchmark_compares_it(exported):
    other = shutil.copy(exported, exported.with_name("0002_run.json"))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(exported), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=exported.parent)
    assert done.returncode == 0, done.stderr
    assert "cached" in done.stdout
    assert "uncached" in done.stdout

"""The example of a plug-in: a package that pip installs, with members that nanobench lists, checks and measures."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import SMALL, environment, made_once
from nanobench import registry

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"
NAME = "nanobench-gpt-example 0.1"


def test_every_entry_point_names_something_that_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert f"{project['name']} {project['version']}" == NAME
    groups = project["entry-points"]
    assert len(groups) == 4
    for group, entries in groups.items():
        assert group.removeprefix("nanobench.") in (*registry.PACKAGES, "metrics", "plots")
        for value in entries.values():
            assert registry.function(value) if group != "nanobench.metrics" else value.endswith("CACHE_SHARE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip installed the example into; its sources stay as they are."""

    def make(folder):
        shutil.copytree(EXAMPLE, folder / "plugin")
        offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", folder / "plugin"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(tmp_path_factory, "plugin", make)


@pytest.fixture
def paths(installed):
    """The environment of a process that finds the installed package."""
    return {"PYTHONPATH": os.pathsep.join([str(installed / "site"), environment()["PYTHONPATH"]])}


@pytest.mark.slow
def test_its_members_are_listed_with_their_distribution(nanobench, paths, tmp_path):
    for family, name in (
        ("engines", "chunked-prefill"),
        ("samplers", "min-p"),
        ("metrics", "cache_share"),
        ("plots", "tpot_vs_batch"),
    ):
        done = nanobench("list", family, cwd=tmp_path, env=paths, code=0)
        last = done.stdout.splitlines()[-1]
        assert last.split()[0] == name
        assert NAME in last
        assert done.stderr == ""


@pytest.mark.slow
def test_its_own_tests_pass(installed, paths):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, installed / "plugin" / "tests"]
    done = subprocess.run(command, env={**environment(), **paths}, capture_output=True, text=True, cwd=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.slow
def test_its_members_are_measured_and_shown(nanobench, paths, tmp_path):
    asked = ("--engine", "cached,chunked-prefill:chunk=3", "--sampler", "min-p:p=0.1", "--batch", 2, "--quick", "--out", "run")
    nanobench("kv-sweep", *SMALL, *asked, cwd=tmp_path, env=paths, code=0)
    cells = json.loads(nanobench("export", "run", "--format", "json", cwd=tmp_path, env=paths, code=0).stdout)
    assert [cell["engine"] for cell in cells] == ["cached", "chunked-prefill:chunk=3"]
    for cell in cells:
        assert cell["gate"] in ("exact", "rounding"), cell["gate_note"]
        assert cell["status"] in ("ok", "imprecise", "unstable", "no_steady_state")
        assert cell["cache_share"] == cell["kv_cache_bytes"] / (cell["kv_cache_bytes"] + cell["weight_bytes"])
    code = json.loads((tmp_path / "run" / "run.json").read_text())["code"]
    assert "nanobench_example/engine.py" in code["nanobench_example.engine"]["files"]
    report = nanobench("report", "run", cwd=tmp_path, env=paths, code=0)
    assert report.stderr == ""
    text = (tmp_path / "run" / "report.md").read_text()
    assert "cache share" in text
    assert "![Time per output token of each arm, by batch size.](plots/tpot_vs_batch.png)" in text

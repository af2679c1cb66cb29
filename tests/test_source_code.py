"""The source files that a measurement depends on: found without an import, named without a path of the machine, compared."""

import json
import subprocess
import sys

import pytest

from nanobench import source_code
from nanobench.source_code import Source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder; `folder(path, text)` writes a file below it."""
    monkeypatch.chdir(tmp_path)

    def write(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write.path = tmp_path
    return write


def files(module):
    return set(source_code.of_module(module, commits=False).files)


# What counts
@pytest.mark.parametrize(
    "statement",
    [
        "import lab_layers",
        "import lab_layers as layers",
        "from lab_layers import Attention",
        "def build():\n    import lab_layers",
        "import importlib\nlayers = importlib.import_module('lab_layers')",
        "import lab_middle",
    ],
)
def test_a_module_counts_with_what_it_imports(folder, statement):
    folder("lab_gpt.py", f"import json, torch\nimport nanobench.plugins\n{statement}\n")
    folder("lab_layers.py", "import os\n")
    folder("lab_middle.py", "import lab_layers\n")
    folder("lab_other.py", "import lab_gpt\n")
    assert files("lab_gpt") - {"lab_middle.py"} == {"lab_gpt.py", "lab_layers.py"}


def test_a_module_counts_with_its_packages_and_with_what_is_imported_relative_to_them(folder):
    folder("lab_pkg/__init__.py", "from . import log\n")
    folder("lab_pkg/log.py")
    folder("lab_pkg/models/__init__.py")
    folder("lab_pkg/models/gpt.py", "from .parts import mlp\nfrom ..kernels.norm import rms\nfrom .. import nothing\n")
    folder("lab_pkg/models/parts/__init__.py")
    folder("lab_pkg/models/parts/mlp.py")
    folder("lab_pkg/kernels/norm.py", "from . import *\n")
    folder("lab_pkg/unused.py")
    found = {
        *("lab_pkg/__init__.py", "lab_pkg/log.py", "lab_pkg/models/__init__.py", "lab_pkg/models/gpt.py"),
        *("lab_pkg/models/parts/__init__.py", "lab_pkg/models/parts/mlp.py", "lab_pkg/kernels/norm.py"),
    }
    assert files("lab_pkg.models.gpt") == found


def test_folders_without_an_init_file_are_packages_too(folder):
    folder("lab_space/inner/gpt.py", "from lab_space.inner import layers\n")
    folder("lab_space/inner/layers.py")
    assert files("lab_space.inner.gpt") == {"lab_space/inner/gpt.py", "lab_space/inner/layers.py"}


def test_a_folder_of_the_search_path_counts_and_installed_packages_do_not(folder, monkeypatch):
    elsewhere, installed = folder.path / "elsewhere", folder.path / "site-packages"
    folder("lab_gpt.py", "import lab_shared, lab_installed, json\n")
    folder("elsewhere/lab_shared.py")
    folder("site-packages/lab_installed/__init__.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere), str(installed)])
    assert files("lab_gpt") == {"lab_gpt.py", "lab_shared.py"}


def test_an_installed_plug_in_counts_with_its_own_package_alone(folder, monkeypatch):
    folder("site-packages/lab_turbo/__init__.py")
    folder("site-packages/lab_turbo/engine.py", "import lab_turbo.kernels, lab_dependency\n")
    folder("site-packages/lab_turbo/kernels.py")
    folder("site-packages/lab_dependency.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder.path / "site-packages")])
    assert files("lab_turbo.engine") == {"lab_turbo/__init__.py", "lab_turbo/engine.py", "lab_turbo/kernels.py"}


def test_a_module_of_the_current_folder_comes_before_one_of_the_same_name(folder, monkeypatch):
    folder("lab_gpt.py", "import lab_mine\n")
    folder("lab_mine.py")
    folder("later/lab_gpt.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder.path / "later")])
    assert files("lab_gpt") == {"lab_gpt.py", "lab_mine.py"}


def test_nothing_is_imported(folder):
    folder("lab_gpt.py", "import lab_layers\nraise RuntimeError('imported')\n")
    folder("lab_layers.py", "raise RuntimeError('imported')\n")
    before = set(sys.modules)
    assert files("lab_gpt") == {"lab_gpt.py", "lab_layers.py"}
    assert not {name for name in set(sys.modules) - before if name.startswith("lab_")}


@pytest.mark.parametrize("module", ["lab_none", "lab_gpt.none", "", "sys", ".relative"])
def test_a_module_that_is_not_found_has_no_file_of_its_own(folder, module):
    folder("lab_gpt.py")
    assert files(module) <= {"lab_gpt.py"}


@pytest.mark.parametrize("text", ["def build(:\n", "\0", "x = '\\d'\n", "from ....far import x\n", "(" * 5000])
def test_a_file_that_cannot_be_parsed_counts_without_its_imports(folder, text, recwarn):
    folder("lab_gpt.py", text)
    assert files("lab_gpt") == {"lab_gpt.py"}
    assert not recwarn.list


def test_of_nanobench_all_counts_that_can_change_a_measurement():
    found = source_code.of_nanobench(commits=False).files
    measuring = ("schema/__init__.py", "models/presets.toml", "engines/cached.py", "worker/trial.py", "sweep/runner.py")
    reading = ("views/report.py", "analysis/verdict.py", "results/status.py", "cli/app.py")
    assert {f"nanobench/{name}" for name in measuring} < set(found)
    assert not {f"nanobench/{name}" for name in reading} & set(found)
    assert all((source_code.PACKAGE.parent / name).is_file() for name in found)


# Comparison
def test_a_change_is_named_by_its_file_and_no_path_of_the_machine_is_kept(folder):
    helper = folder("lab_pkg/helper.py", "x = 1\n")
    folder("lab_pkg/gpt.py", "from lab_pkg import helper\n")

    def now():
        own = source_code.of_module("lab_pkg.gpt", commits=False)
        return {"nanobench": Source({"nanobench/schema.py": "a"}), "lab_pkg.gpt": own}

    was = now()
    assert str(folder.path) not in json.dumps({name: vars(source) for name, source in was.items()})
    assert source_code.changed(was, now()) == []
    assert source_code.digest(was) == source_code.digest(now())
    folder("lab_pkg/unused.py")
    assert source_code.changed(was, now()) == []
    helper.write_text("x = 2\n")
    assert source_code.changed(was, now()) == ["lab_pkg/helper.py"]
    assert source_code.digest(was) != source_code.digest(now())
    helper.unlink()
    assert source_code.changed(was, now()) == ["lab_pkg/helper.py"]
    assert source_code.changed(was, {**now(), "nanobench": Source({"nanobench/schema.py": "b"})})[-1] == "nanobench/schema.py"


def test_the_commit_is_that_of_the_repository_and_no_part_of_the_comparison(folder):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments], check=True, capture_output=True)

    path = folder("lab_gpt.py", "x = 1\n")
    untracked = source_code.of_module("lab_gpt", commits=True)
    assert (untracked.commit, untracked.dirty) == (None, None)
    git("init")
    assert source_code.of_module("lab_gpt", commits=True).commit is None
    git("add", ".")
    git("commit", "-m", "first")
    tracked = source_code.of_module("lab_gpt", commits=True)
    assert len(tracked.commit) == 40
    assert tracked.dirty is False
    assert source_code.changed({"lab_gpt": untracked}, {"lab_gpt": tracked}) == []
    path.write_text("x = 2\n")
    edited = source_code.of_module("lab_gpt", commits=True)
    assert (edited.commit, edited.dirty) == (tracked.commit, True)

"""Source code that changes: a resumed run is refused, a running one stops, a kept batch size is searched again."""

import json

import pytest

from conftest import SMALL
from nanobench.errors import UserError
from nanobench.results import store
from nanobench.schema import Arm, Point
from nanobench.source_code import Source
from nanobench.sweep import autobatch, code
from nanobench.sweep.batch_search import SearchConfig

POINT = Point(model="lab_gpt:build", dtype="float32", device="cpu", threads=1, batch_size=0, prompt_len=8, new_tokens=4)
ARM = Arm(engine="lab_engine:build")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a model, an engine and what the engine imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab_gpt.py").write_text("import torch\n")
    (tmp_path / "lab_engine.py").write_text("import lab_kernels\n")
    (tmp_path / "lab_kernels.py").write_text("scale = 1\n")
    return tmp_path


def change(folder, name="lab_kernels.py"):
    (folder / name).write_text("scale = 2\n")


# Which code
def test_the_code_of_a_plan_is_nanobench_and_its_plug_ins(here):
    found = code.code_of([POINT], [ARM])
    assert list(found) == ["nanobench", "lab_engine", "lab_gpt"]
    assert set(found["lab_engine"].files) == {"lab_engine.py", "lab_kernels.py"}


def test_members_of_our_own_and_no_names_at_all_add_nothing(here):
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=1, seq_len=8, optimizer="adamw")
    for arm in (Arm(), Arm(engine="cached", sampler="top-k"), Arm(engine="nanobench.worker.selftest_engines:undelayed")):
        assert list(code.code_of([point], [arm])) == ["nanobench"]


def test_a_batch_size_is_kept_for_the_code_that_it_was_found_with(here):
    def kept(arm=ARM):
        return autobatch.file_of(POINT, (arm,), SearchConfig(), "auto")

    before = kept()
    assert kept() == before
    change(here, "unrelated.py")
    assert kept() == before
    change(here)
    assert kept() != before


# Words
def source(commit=None, dirty=None, **files):
    return Source({f"{name}.py": value for name, value in files.items()}, commit, dirty)


def refusal(was, now):
    with pytest.raises(UserError) as caught:
        code.refuse_resume("run", was, now)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_code_is_not_refused_whatever_its_commit():
    code.refuse_resume("run", {"a": source("1" * 40, False, a="x")}, {"a": source(None, None, a="x")})


def test_a_refusal_names_the_files_and_the_way_out():
    was = {"nanobench": source(a="1"), "lab": source(b="1")}
    assert refusal(was, {"nanobench": source(a="1"), "lab": source(b="2")}) == (
        "--resume run was begun with other source code: b.py changed; undo the change, or start a new run with --out"
    )
    many = refusal(was, {"nanobench": source(a="2"), "lab": source(b="2", c="1", d="1")})
    assert "a.py, b.py, c.py and 1 more changed" in many


def test_a_clean_commit_is_the_way_back_and_one_with_edits_is_none():
    clean, now = {"nanobench": source("0123456789abcdef", False, a="1")}, {"nanobench": source(a="2")}
    assert "go back to nanobench at commit 0123456789ab, or start" in refusal(clean, now)
    edited = {"nanobench": source("0123456789abcdef", True, a="1")}
    assert "undo the change, or start" in refusal(edited, now)


def test_a_run_that_kept_no_hashes_says_so():
    words = "kept no hashes of its source code, so it cannot continue; start a new run with --out"
    assert words in refusal({}, {"a": source()})


# Executors
class Noting:
    """An executor that notes its requests."""

    def __init__(self):
        self.seen, self.closed = [], False

    def run(self, request, folder, log, timeout_s, progress):
        self.seen.append(request)
        return "result"

    def close(self):
        self.closed = True


def test_the_model_that_an_engine_drafts_with_belongs_to_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lab_draft.py").write_text("def build(): ...\n")
    (tmp_path / "draft.pt").write_text("weights")
    drafts = ("lookup", "lab_draft:build", "nanogpt:draft.pt")
    found = [code.code_of([POINT], [Arm(engine=f"speculative:draft={draft}")]) for draft in drafts]
    assert [sorted(set(each) - {"nanobench", "lab_gpt"}) for each in found] == [[], ["lab_draft"], ["draft.pt"]]


def test_code_is_compared_around_trials_only(tmp_path):
    inner, found = Noting(), []
    same = code.SameCode(inner, {"a": source(a="1")}, lambda: found.append(1) or {"a": source(a="1")}, tmp_path, True)
    for request in ({"calibrate": {}}, {"trial": {}}):
        assert same.run(request, tmp_path, tmp_path, 1.0, print) == "result"
    assert len(found) == 2
    same.close()
    assert inner.closed


@pytest.mark.parametrize(
    ("continues", "fix"), [(True, "and continue with --resume, or start a new run"), (False, "measure again")]
)
def test_a_trial_does_not_start_with_other_code(tmp_path, continues, fix):
    inner = Noting()
    same = code.SameCode(inner, {"a": source(a="1")}, lambda: {"a": source(a="2")}, tmp_path, continues)
    kept = "changed while the run was measured; finished trials are kept in"
    with pytest.raises(UserError, match=rf"a\.py {kept} .*: .*{fix}$"):
        same.run({"trial": {}}, tmp_path, tmp_path, 1.0, print)
    assert inner.seen == []


# Runs
ENGINE = """
import lab_kernels
from pathlib import Path
from nanobench.engines.uncached import Uncached

def build(adapter, sampler, point, compiler):
    if lab_kernels.edits:
        path = Path("lab_kernels.py")
        path.write_text(path.read_text() + "# edited while it is measured\\n")
    return Uncached(adapter, sampler, point, compiler, last_only=True)
"""


def sweep(nanobench_here, folder, *more, code=0):
    return nanobench_here("kv-sweep", *more, cwd=folder, code=code)


def test_a_plug_in_that_changes_between_two_launches_is_not_mixed_into_one_run(nanobench_here, here):
    (here / "lab_engine.py").write_text(ENGINE)
    (here / "lab_kernels.py").write_text("edits = False\n")
    asked = ("--engine", "uncached,lab_engine:build", "--batch", 1, "--launches", 2, "--out", "run")
    sweep(nanobench_here, here, *SMALL, *asked)
    run = store.Run(here / "run")
    assert str(here) not in run.info_file.read_text()
    assert set(json.loads(run.info_file.read_text())["code"]) == {"nanobench", "lab_engine"}
    assert {launch.identity.count("-") for launch in run.read_raw()} == {1}
    first, last = sorted(run.raw.glob("*.parquet"))
    last.unlink()
    (here / "lab_kernels.py").write_text("edits = False  # faster\n")
    refused = sweep(nanobench_here, here, "--resume", "run", code=2)
    assert refused.stderr.strip() == (
        "--resume run was begun with other source code: lab_kernels.py changed; undo the change, or start a new run with --out"
    )
    assert list(run.raw.glob("*.parquet")) == [first]
    (here / "lab_kernels.py").write_text("edits = False\n")
    sweep(nanobench_here, here, "--resume", "run", "--no-plot")
    assert len(list(run.raw.glob("*.parquet"))) == 2


def test_a_plug_in_that_changes_during_a_trial_ends_the_sweep_and_the_trial_is_not_kept(nanobench_here, here):
    (here / "lab_engine.py").write_text(ENGINE)
    (here / "lab_kernels.py").write_text("edits = True\n")
    asked = ("--engine", "uncached,lab_engine:build", "--batch", 1, "--launches", 2, "--out", "run")
    done = sweep(nanobench_here, here, *SMALL, *asked, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("lab_kernels.py changed while the run was measured; finished trials are kept in run")
    assert "--resume" in line
    assert list((here / "run" / "raw").iterdir()) == []

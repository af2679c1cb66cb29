"""The fixture for pytest: which answers let a test pass, fail or be skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import environment
from nanobench.api import pytest_plugin
from nanobench.api.comparisons import Compared

DECISIONS = {"faster": "keep", "same": "keep", "slower": "discard", "different outputs": "discard", "failed": "discard"}


def compared(answer, **facts):
    known = {"base": "BASE: a", "new": "NEW: b", "ratio": 0.9, "low": 0.85, "high": 0.95, "launches": 4, "needed": None}
    known |= {"reason": None, "gate": [], "points": [], "wall_s": 1.0, "run": "run", **facts}
    return Compared(answer=answer, decision=DECISIONS.get(answer, "need more"), **known)


@pytest.fixture
def question(monkeypatch, tmp_path):
    """A question whose answer is set, and what was asked."""

    def make(answer, **facts):
        asked = []

        def ab(base, new, **options):
            asked.append((base, new, options))
            return compared(answer, **facts)

        monkeypatch.setattr(pytest_plugin, "ab", ab)
        return pytest_plugin.Question("my_gpt:old", "my_gpt:new", {"batch": 8}, tmp_path), asked

    return make


@pytest.mark.parametrize("answer", ["faster", "same"])
def test_a_change_that_is_not_slower_passes(question, answer, tmp_path):
    made, asked = question(answer)
    assert made.assert_not_slower(threshold=0.05).answer == answer
    ((base, new, options),) = asked
    assert (base, new) == ("my_gpt:old", "my_gpt:new")
    assert Path(options.pop("out")).parent == tmp_path
    assert options == {"batch": 8, "threshold": "0.05"}


def test_the_threshold_is_that_of_the_assertion_or_of_the_question_or_2_percent(question, tmp_path):
    made, asked = question("same")
    made.assert_not_slower()
    pytest_plugin.Question("a", "b", {"threshold": "10%"}, tmp_path).assert_not_slower()
    pytest_plugin.Question("a", "b", {"threshold": "10%"}, tmp_path).assert_not_slower(0.05)
    assert [options["threshold"] for _, _, options in asked] == ["0.02", "10%", "0.05"]


@pytest.mark.parametrize("answer", ["slower", "different outputs", "failed"])
def test_a_change_that_is_slower_or_wrong_fails_with_its_ratio_and_reason(question, answer):
    made, _ = question(answer, reason="logits off by 0.3")
    with pytest.raises(pytest.fail.Exception, match=r"0.900x \[0.850, 0.950\]; 4 launches; logits off by 0.3") as failure:
        made.assert_not_slower()
    assert answer in str(failure.value)


def test_what_is_undecided_is_skipped_or_fails(question):
    made, _ = question("undecided", ratio=None, low=None, high=None, reason="busy")
    with pytest.raises(pytest.skip.Exception, match="could not decide: BASE: a against NEW: b; 4 launches; busy"):
        made.assert_not_slower()
    with pytest.raises(pytest.fail.Exception, match="undecided"):
        made.assert_not_slower(undecided="fail")
    with pytest.raises(ValueError, match="undecided='perhaps' is not one of skip, fail"):
        made.assert_not_slower(undecided="perhaps")


def test_each_question_of_a_test_keeps_a_run_of_its_own(question, tmp_path):
    made, asked = question("same")
    made.assert_not_slower()
    made.assert_not_slower()
    pytest_plugin.Question("a", "b", {}, tmp_path).assert_not_slower()
    folders = [Path(options["out"]) for _, _, options in asked]
    assert len(set(folders)) == 3
    assert all(each.is_dir() and not list(each.iterdir()) for each in folders)


PROJECT = """
from nanobench.api import pytest_plugin
from test_pytest_plugin import compared


def test_not_slower(nanobench_ab, monkeypatch):
    monkeypatch.setattr(pytest_plugin, "ab", lambda base, new, **options: compared("same"))
    nanobench_ab(base="my_gpt:old", new="my_gpt:new", batch=8).assert_not_slower(threshold=0.05)


def test_slower(nanobench_ab, monkeypatch):
    monkeypatch.setattr(pytest_plugin, "ab", lambda base, new, **options: compared("slower"))
    nanobench_ab(base="my_gpt:old", new="my_gpt:new").assert_not_slower()
"""


def test_a_project_of_its_own_uses_the_fixture(tmp_path):
    (tmp_path / "test_mine.py").write_text(PROJECT)
    # By its name, not by its entry point: it may be installed or not.
    plugins = ("no:nanobench", "nanobench.api.pytest_plugin", "no:cacheprovider")
    words = [sys.executable, "-m", "pytest", "-q", *(word for each in plugins for word in ("-p", each)), "test_mine.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "nanobench: slower: BASE: a against NEW: b; 0.900x [0.850, 0.950]" in done.stdout


def test_the_plug_in_loads_nothing_heavy():
    code = "import sys, nanobench.api.pytest_plugin; print(sorted({'torch', 'pandas', 'numpy', 'scipy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

"""The GitHub action: its steps run as they stand, with the environment that a runner gives them."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from test_revision import git

ACTION = yaml.safe_load((Path(__file__).parent.parent / ".github" / "actions" / "ab" / "action.yml").read_text())
TOLD = {"answer": "same", "ratio": 1.0}


@pytest.fixture
def runner(tmp_path):
    """A clone of a repository with a branch, as a runner checks it out, and a nanobench that notes what it is asked."""
    origin, clone, tools = tmp_path / "origin", tmp_path / "clone", tmp_path / "bin"
    origin.mkdir()
    git(origin, "init", "-b", "main")
    (origin / "file").write_text("one")
    git(origin, "add", ".")
    git(origin, "commit", "-m", "one")
    git(tmp_path, "clone", "-q", str(origin), str(clone))
    git(clone, "checkout", "-q", "-b", "change")
    (clone / "file").write_text("two")
    git(clone, "commit", "-qam", "two")
    tools.mkdir()

    def run(inputs, answer="same", code=0):
        (tools / "nanobench").write_text(
            f"#!/bin/bash\nprintf '%s\\n' \"$@\" > {tmp_path}/asked\necho a table\n"
            f"echo '{json.dumps({**TOLD, 'answer': answer})}'\nexit {code}\n"
        )
        os.chmod(tools / "nanobench", stat.S_IRWXU)
        known = {name: each.get("default", "") for name, each in ACTION["inputs"].items()} | inputs
        outputs = {}
        for step in ACTION["runs"]["steps"]:
            files = {name: tmp_path / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
            for path in files.values():
                path.touch()
            event = {"github.event.repository.default_branch": "main"}
            values = {**known, **event, **{f"steps.{key}": value for key, value in outputs.items()}}
            own = {name: filled(text, values) for name, text in step["env"].items()}
            environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GITHUB_BASE_REF": "main", **own}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
                cwd=clone, env={**environment, **{name: str(path) for name, path in files.items()}},
                capture_output=True, text=True,
            )  # fmt: skip
            for line in files["GITHUB_OUTPUT"].read_text().splitlines():
                name, _, value = line.partition("=")
                outputs[f"{step['id']}.outputs.{name}"] = value
            if done.returncode:
                break
        return done, outputs, (tmp_path / "github_step_summary").read_text()

    run.asked = lambda: (tmp_path / "asked").read_text().splitlines()
    run.base = git(clone, "rev-parse", "HEAD~1")
    return run


def filled(text, values):
    """The expressions of a step's environment, replaced as a runner does."""
    return re.sub(r"\$\{\{ (?:inputs\.)?([\w.-]+) \}\}", lambda match: values[match[1]], text)


def test_it_compares_the_merge_base_with_the_change_and_writes_the_summary(runner):
    done, outputs, summary = runner({"model": "my_gpt:build", "options": "--batch 1,8 --threads 1"})
    assert done.returncode == 0, done.stderr
    assert runner.asked() == [
        "ab", runner.base, "HEAD", "--model", "my_gpt:build", "--threshold", "5%", "--max-minutes", "10",
        "--batch", "1,8", "--threads", "1", "--json",
    ]  # fmt: skip
    assert outputs["measure.outputs.answer"] == "same"
    assert "### nanobench ab: same" in summary
    assert "a table" in summary


@pytest.mark.parametrize(
    ("answer", "code", "inputs", "ends"),
    [
        ("slower", 1, {}, 1),
        ("different outputs", 1, {}, 1),
        ("undecided", 3, {}, 0),
        ("undecided", 3, {"fail-on-undecided": "true"}, 3),
    ],
)
def test_the_job_fails_where_it_should(runner, answer, code, inputs, ends):
    done, outputs, summary = runner({"model": "m:b", **inputs}, answer, code)
    assert done.returncode == ends
    assert outputs["measure.outputs.answer"] == answer
    assert answer in summary


def test_a_named_base_is_taken_as_it_is(runner):
    runner({"model": "m:b", "base": "v1.0"})
    assert runner.asked()[1] == "v1.0"


def test_a_model_with_shell_characters_is_one_word(runner):
    done, _, _ = runner({"model": "m:b; touch hacked"})
    assert done.returncode == 0
    assert runner.asked()[4] == "m:b; touch hacked"

"""The command ab through real processes: two revisions of a model in a git repository, and everything that can be wrong."""

import json
import signal
import subprocess
import sys
import time

import pytest

from conftest import environment
from nanobench.results.store import Run
from planted import OTHER
from test_revision import git, state

MODEL = """
import time
from nanobench.models.gpt2 import build as gpt2

def build():
    adapter = gpt2(n_layer=1, n_head=2, n_embd=32, vocab_size=64, block_size=64)
    plain = type(adapter.module)
    class Slower(plain):
        def forward(self, *arguments):
            start = time.perf_counter()
            result = plain.forward(self, *arguments)
            end = start + FACTOR * (time.perf_counter() - start)
            while time.perf_counter() < end:
                pass
            return result
    adapter.module.__class__ = Slower
    return adapter
"""
OPTIONS = ("--model", "my_gpt:build", "--batch", "2", "--prompt-len", "8", "--new-tokens", "6", "--threads", "1")
OPTIONS += ("--max-seconds", "0.2", "--json")


def write(folder, factor, more=""):
    (folder / "my_gpt.py").write_text(f"FACTOR = {factor}\n{MODEL}{more}")


@pytest.fixture
def repository(tmp_path):
    """Commits: first 1.0, second three times slower, third with other outputs."""
    top = tmp_path / "repository"
    top.mkdir()
    git(top, "init")
    for factor, more, message in ((1.0, "", "one"), (3.0, "", "slow"), (1.0, OTHER, "other")):
        write(top, factor, more)
        git(top, "add", ".")
        git(top, "commit", "-m", message)
    return top


def document(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_slower_revision_is_found_and_the_repository_stays_as_it_is(nanobench, repository, tmp_path):
    """The slower side is the files as they are now, beside the last commit but two."""
    write(repository, 3.0)
    before = state(repository)
    done = nanobench("ab", "HEAD~2", ".", *OPTIONS, "--out", tmp_path / "run", cwd=repository, code=1)
    found = document(done)
    assert "with uncommitted changes" in done.stdout
    assert (found["answer"], found["decision"]) == ("slower", "discard")
    assert 0.2 < found["ratio"] < 0.6
    assert found["gate"][0].startswith("same outputs")
    assert "all" in found["gate"][0]
    assert all(each.outcome.checked_calls for each in Run(tmp_path / "run").read_raw())
    assert state(repository) == before
    assert list(tmp_path.glob("nanobench-ab-*")) == []


@pytest.mark.slow
def test_other_outputs_come_before_any_speed(nanobench, repository, tmp_path):
    done = nanobench("ab", "HEAD~2", "HEAD", *OPTIONS, "--out", tmp_path / "run", cwd=repository, code=1)
    found = document(done)
    assert (found["answer"], found["ratio"]) == ("different outputs", None)
    assert found["reason"].startswith("different outputs: logits")
    assert found["launches"] <= 1


@pytest.mark.slow
def test_an_interrupt_and_a_side_that_cannot_run_leave_nothing_behind(nanobench, repository, tmp_path):
    """An interrupt in the middle; a revision without the model; a base that fails its gate. The checkout is dirty meanwhile."""
    write(repository, 1.0, "# not committed\n")
    git(repository, "rm", "-q", "--cached", "my_gpt.py")
    git(repository, "commit", "-qm", "without the model")
    git(repository, "add", "my_gpt.py")
    before, own = state(repository), {"TMPDIR": str(tmp_path)}
    done = nanobench("ab", "HEAD~1", "HEAD", *OPTIONS, cwd=repository, code=2, env=own)
    assert done.stderr.startswith("NEW: ")
    assert "my_gpt" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    wrong = ("--base-arg", "engine=fakes:frozen_embedding", "--out", tmp_path / "wrong")
    done = nanobench("ab", "HEAD~1", ".", *OPTIONS, *wrong, cwd=repository, code=1, env=own)
    found = document(done)
    assert (found["answer"], found["ratio"]) == ("failed", None)
    assert found["reason"].startswith("wrong: ")
    words = [sys.executable, "-m", "nanobench", "ab", "HEAD~3", "HEAD~2", *OPTIONS, "--out", str(tmp_path / "run")]
    running = subprocess.Popen(words, cwd=repository, env={**environment(), **own}, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: list((tmp_path / "run" / "raw").glob("*.parquet")))
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted: nothing is decided; " in out
    assert state(repository) == before
    assert not list(tmp_path.glob("nanobench-*"))
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def wait_for(condition, timeout_s=120):
    """Waits until something is so."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_training_steps_are_compared_too(nanobench, tmp_path):
    small = ("--model", "gpt2-nano", "--threads", "1", "--max-seconds", "0.1", "--json")
    slower = ("gpt2-nano", "gpt2-nano", "--new-arg", "checkpointing=checkpointed")
    shape = ("--train", "--batch", "2", "--seq-len", "32")
    done = nanobench("ab", *slower, *small, *shape, "--out", "two", cwd=tmp_path, code=1)
    assert document(done)["answer"] == "slower"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ab compares two sides"),
        (("HEAD",), "ab compares two sides"),
        (("HEAD", "nothing"), "unknown side 'nothing'"),
        (("HEAD", "HEAD", "--threshold", "no"), "--threshold 'no' is not a share"),
        (("HEAD", "HEAD", "--threshold", "200%"), "--threshold '200%' is not a share"),
        (("HEAD", "HEAD", "--engine", "cached,uncached"), "ab compares one arm on each side; give one engine"),
        (("HEAD", "HEAD", "--new-arg", "batch_size=4"), "unknown field 'batch_size'"),
        (("cached", "cached", "--new-arg", "param_dtype=bfloat16"), "param_dtype is not for generation; a side of generation"),
        (("HEAD", "HEAD", "--base-python", "/nowhere"), "'/nowhere' is no program"),
        (("HEAD", "HEAD", "--batch", "none"), "is not a whole number"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(nanobench_here, repository, arguments, message):
    before = state(repository)
    done = nanobench_here("ab", *arguments, cwd=repository, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert state(repository) == before

"""Mistakes of the user: one line, exit code 2, and nothing left behind."""

import pytest

from conftest import SMALL
from nanobench.cli import app

WRONG = {
    "unknown model": (["--model", "gpt3"], ["'gpt3'", "did you mean 'gpt2'", "my_pkg.my_mod:build"]),
    "unknown engine": (["--engine", "uncached,cahced"], ["'cahced'", "did you mean 'cached'", "uncached-full-logits"]),
    "unknown dtype": (["--dtype", "float23"], ["'float23'", "did you mean 'float32'", "bfloat16"]),
    "unknown sampler": (["--sampler", "greed"], ["did you mean 'greedy'"]),
    "argument of a sampler": (["--sampler", "top-k:k=0"], ["k=0 of sampler 'top-k'", "a whole number (at least 1)"]),
    "draft length": (["--engine", "cached,speculative", "--draft-len", "65"], ["draft_len=65", "at most 64"]),
    "argument of an engine": (["--engine", "cached,speculative:accept=2"], ["accept=2", "at most 1) or none"]),
    "unknown compile mode": (["--compile-mode", "on"], ["'on'", "off", "default"]),
    "unknown field": (["--axis", "bacth_size=1"], ["'bacth_size'", "did you mean 'batch_size'"]),
    "unknown option": (["--bacth", "1"], ["--bacth", "--batch"]),
    "batch 0": (["--batch", "0"], ["batch", "0", "from 1 up"]),
    "batch x": (["--batch", "4,x"], ["'x'", "1,4,8"]),
    "too long": (
        ["--model", "gpt2-nano", "--prompt-len", "250", "--new-tokens", "20"],
        ["250", "20", "block_size 256", "--new-tokens 6"],
    ),
    "no cuda": (["--device", "cuda"], ["cuda", "0 CUDA devices", "cpu"]),
    "unknown device": (["--device", "gpu"], ["'gpu'", "cuda"]),
    "broken toml": (["--config", "broken.toml"], ["broken.toml", "TOML"]),
    "unknown toml key": (["--config", "unknown.toml"], ["'bacth'", "did you mean 'batch'"]),
    "missing toml": (["--config", "none.toml"], ["none.toml", "cannot be read"]),
    "out is a file": (["--out", "file"], ["file", "--out"]),
    "out in a file": (["--out", "file/run"], ["file/run cannot be written", "Not a directory", "another --out"]),
    "out that nobody can make": (["--out", "/proc/nope"], ["/proc/nope cannot be written", "another --out"]),
    "out with a long name": (["--out", "x" * 300], ["File name too long", "another --out"]),
    "out with a null": (["--out", "a\0b"], ["null", "another --out"]),
    "out holds a run": (["--out", "taken"], ["taken", "--resume taken"]),
    "resume of nothing": (["--resume", "nowhere"], ["nowhere", "no run"]),
    "model that is no module": (["--model", "no_such:build"], ["no_such", "module:function"]),
    "model without build": (["--model", "fakes:bild"], ["fakes has no function 'bild'", "engine"]),
    "model that fails": (["--model", "fakes:broken"], ["fakes:broken", "no weights here"]),
    "model that is no adapter": (["--model", "fakes:no_adapter"], ["no_adapter", "Adapter", "module, shape"]),
    "model with an impossible shape": (["--model", "fakes:shapeless"], ["n_head 'two'", "not a whole number from 1"]),
    "memory limit": (["--memory-limit", "lots"], ["'lots'", "4GiB"]),
    "target": (["--target-ci", "narrow"], ["'narrow'", "2% or 0.02"]),
    "launches": (["--launches", "0"], ["0", "1 or more"]),
    "seed": (["--seed", "x"], ["--seed", "integer"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line_and_exit_code_2_and_leaves_nothing(nanobench_here, tmp_path, name):
    arguments, words = WRONG[name]
    (tmp_path / "broken.toml").write_text("batch = = 3")
    (tmp_path / "unknown.toml").write_text("bacth = [1, 2]")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    done = nanobench_here("kv-sweep", *([] if "--model" in arguments else SMALL[:2]), *arguments, cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kv-swep"], ["did you mean", "kv-sweep"]),
        (["list", "engine"], ["'engine'", "did you mean 'engines'"]),
        (["run", "none.toml"], ["none.toml", "cannot be read"]),
        (["run", "gates.toml", "--out", "x"], ["--out", "verify", "keeps no results", "remove it"]),
        (["run", "gates.toml", "--dry-run"], ["--dry-run", "verify"]),
        (["selftest", "--device", "../x"], ["unknown device '../x'", "cuda:0"]),
        (["kv-sweep", "--model", "\udcff"], [r"argument '\udcff' is not UTF-8"]),
        (["list", "x" * 10_000], ["unknown family 'xxx", " ... ", "configs)"]),
    ],
)
def test_other_commands_answer_in_one_line_too(nanobench_here, tmp_path, arguments, words):
    (tmp_path / "gates.toml").write_text('command = "verify"')
    done = nanobench_here(*arguments, cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word.lower() in done.stderr.lower()


def test_an_error_of_an_option_names_the_help_of_its_command(nanobench, tmp_path):
    done = nanobench("kv-sweep", "--bacth", "1", cwd=tmp_path, code=2)
    assert done.stderr.strip().endswith("(run nanobench kv-sweep --help for usage)")


SMOKE = {
    "kv-sweep": ["--model", "gpt3"],
    "train-throughput": ["--phase", "x"],
    "verify": ["--engine", "x"],
    "sample": ["--prompt", ""],
    "run": ["none.toml"],
    "autobatch": ["--out", "/proc/nope"],
    "calibrate": ["--threads", "0"],
    "predict": ["nowhere"],
    "report": ["nowhere"],
    "plot": ["x"],
    "export": ["nowhere", "--format", "x"],
    "explain": ["nowhere"],
    "cost": ["nowhere", "--price-per-hour", "1"],
    "list": ["x"],
    "selftest": ["--x"],
    "env": ["--x"],
    "ab": ["HEAD"],
    "bisect": ["HEAD"],
    "tune": ["--goal", "x"],
    "compare": ["nowhere", "nowhere"],
    "history": ["nowhere"],
    "audit": ["--only", "x"],
    "kv-dashboard": ["--what", "x"],
    "doctor": ["nowhere"],
}
"""Every command with a mistake."""
OF_ITS_OWN = ("kv-sweep", "report", "list")
"""Commands that are run in a process of their own, as a user does."""


def test_every_command_is_among_them():
    assert {command.name for command in app.registered_commands} == set(SMOKE)


@pytest.mark.parametrize("command", SMOKE)
def test_every_command_answers_in_one_line_and_with_exit_code_2(request, tmp_path, command):
    run = request.getfixturevalue("nanobench" if command in OF_ITS_OWN else "nanobench_here")
    done = run(command, *SMOKE[command], cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []

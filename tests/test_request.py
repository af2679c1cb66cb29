"""What a run says of how to request it: the command itself, its continuation, and the same measured again."""

import json
import shutil

import pytest

from nanobench.errors import UserError
from nanobench.results import request
from nanobench.sweep.ab_options import AbOptions
from nanobench.sweep.options import SweepOptions, changed_options
from nanobench.sweep.session import reopen


def test_a_command_line_has_every_option_as_it_was_given():
    requested = {"batch": "1,8", "compile": True, "axis": ["dtype=float32", "batch_size=1"], "model": "my gpt:build"}
    line = request.command_line("kv-sweep", requested)
    assert line == "nanobench kv-sweep --batch 1,8 --compile --axis dtype=float32 --axis batch_size=1 --model 'my gpt:build'"


def test_the_sides_of_a_comparison_have_no_names():
    asked = AbOptions(base="main", new=".", new_arg=["compile_mode=default"], train=True, out="run")
    line = request.again("ab", changed_options(asked))
    assert line == "nanobench ab main . --train --new-arg compile_mode=default"


@pytest.mark.parametrize("command", ["kv-sweep", "train-throughput"])
def test_a_sweep_is_measured_again_without_what_belongs_to_one_run(command):
    requested = {"batch": "4", "out": "results/run", "calibration": "off", "yes": True, "json": True}
    assert request.again(command, requested) == f"nanobench {command} --batch 4 --calibration off"
    assert request.with_calibration(command, requested) == f"nanobench {command} --batch 4 --calibration auto"
    assert request.resumed(command, "a run") == f"nanobench {command} --resume 'a run'"


@pytest.mark.parametrize("command", ["ab", "tune", "audit", "selftest", "bisect"])
def test_what_cannot_be_continued_or_calibrated_is_not_advised(command):
    assert request.resumed(command, "run") == request.with_calibration(command, {}) == ""


@pytest.mark.parametrize("command", request.SWEEPS)
def test_the_commands_that_continue_a_run_have_the_options(nanobench_here, tmp_path, command):
    shown = nanobench_here(command, "--help", cwd=tmp_path, code=0).stdout
    assert "--resume" in shown
    assert "--calibration" in shown


@pytest.mark.parametrize(("command", "names"), request.POSITIONAL.items())
def test_what_is_written_without_a_name_is_an_argument_of_the_command(nanobench_here, tmp_path, command, names):
    shown = nanobench_here(command, "--help", cwd=tmp_path, code=0).stdout
    usage = next(line for line in shown.splitlines() if "Usage" in line)
    assert all(name.upper() in usage for name in names)


@pytest.mark.parametrize(("command", "advice"), [("ab", ""), ("train-throughput", ": nanobench train-throughput --resume {}")])
def test_a_run_of_another_command_is_continued_by_that_command_if_it_can_be(small_run, tmp_path, command, advice):
    folder = tmp_path / "run"
    shutil.copytree(small_run[0], folder)
    file = folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "command": command}))
    with pytest.raises(UserError) as found:
        reopen(SweepOptions(resume=str(folder)), "kv-sweep")
    assert str(found.value) == f"{folder} is a run of {command}{advice.format(folder)}"

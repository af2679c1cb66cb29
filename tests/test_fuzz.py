"""Fuzzed command lines: a result or one line, and nothing written that was not requested."""

import os
import sys

import pytest
from typer.testing import CliRunner

import fuzz
from conftest import TESTS, own_locks
from in_process import InProcess
from nanobench.cli import app
from nanobench.probes import environment
from nanobench.records import Status
from nanobench.sweep.executors import local
from nanobench.sweep.executors.base import WorkerResult

SEED = 18
CODES = (0, 1, 2)


class CutShort(InProcess):
    """Describes machine and models, and measures nothing."""

    def run(self, request, folder, log, timeout_s, progress):
        if "describe" in request:
            return super().run(request, folder, log, timeout_s, progress)
        return WorkerResult(None, Status.ERROR, "cut short")


@pytest.fixture
def answer(tmp_path, monkeypatch, small_run):
    """Runs a case in a folder of its own: the finished command, and what it wrote elsewhere than it may."""
    monkeypatch.setattr(local, "build", CutShort)
    monkeypatch.setattr(environment, "matmul_flops_per_s", lambda device: 1e11)
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("NANOBENCH_LOCKS", own_locks())
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "cache"))

    def run(number):
        case, folder = fuzz.case(SEED, number), tmp_path / str(number)
        fuzz.prepare(folder, small_run[0])
        (folder / fuzz.CONFIG).write_bytes(case.config)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["nanobench", *case.words])
        before = fuzz.tree(folder)
        done = CliRunner().invoke(app, list(case.words), prog_name="nanobench")
        return case, done, fuzz.written(before, fuzz.tree(folder), case.writes)

    return run


def complaints(case, done, elsewhere):
    """What is wrong with how a command ended."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        yield f"raised {done.exception!r}"
    if done.exit_code not in CODES:
        yield f"ended with {done.exit_code}"
    if done.exit_code == 2 and len(fuzz.errors_of(done.stderr)) != 1:
        yield f"said {done.stderr!r}"
    if "Traceback" in done.output:
        yield "printed a traceback"
    if elsewhere:
        yield f"wrote {sorted(elsewhere)}"


MANY = int(os.environ.get("NANOBENCH_FUZZ_LINES", "100"))
"""Cases of both tests together; 1,000 take about ten minutes."""
QUICK = [number for number in range(60) if fuzz.case(SEED, number).words[0] not in fuzz.SLOW]
OTHERS = [number for number in range(MANY) if number not in QUICK]


@pytest.mark.parametrize("numbers", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["quick", "others"])
def test_fuzzed_command_lines_get_a_result_or_one_line(answer, numbers):
    answers = [(number, *answer(number)) for number in numbers]
    assert [(n, case.words, each) for n, case, *rest in answers for each in complaints(case, *rest)] == []
    assert {0, 2} <= {done.exit_code for _, _, done, _ in answers}


def test_the_cases_reach_every_command():
    assert {fuzz.case(SEED, number).words[0] for number in range(300)} >= set(fuzz.COMMANDS)


def test_a_case_for_processes_is_the_same_command_line_with_more_words():
    for number in range(20):
        words = fuzz.case(SEED, number).words
        assert fuzz.case(SEED, number, processes=True).words[: len(words)] == words

"""Ranks that train together: two of them on gloo do what one does with all the rows, and none hangs when one of them ends."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from conftest import environment, made_once
from nanobench.errors import UserError
from nanobench.records import MEASURED, Status
from nanobench.sweep.executors import base
from nanobench.views import plots

pytestmark = pytest.mark.slow

TINY = ("--seq-len", 32, "--threads", 1, "--batch", 2, "--launches", 1, "--max-seconds", 0.05, "--no-plot", "--out", "run")


def cells_of(folder):
    return pd.read_parquet(folder / "run" / "cells.parquet").set_index(["world_size", "phase", "arm"])


@pytest.fixture(scope="session")
def scaled(nanobench, tmp_path_factory):
    """One rank and two, over rows that carry padding and gradients that are added up over two batches."""

    def make(folder):
        asked = ("--nproc", "1,2", "--grad-accum", 2, "--phase", "sft-dynamic", "--launches", 2, "--json")
        done = nanobench("train-throughput", "--model", "fakes:tiny", *TINY, *asked, cwd=folder, code=0)
        (folder / "printed").write_text(done.stdout)

    folder = made_once(tmp_path_factory, "scaled", make)
    return cells_of(folder), (folder / "printed").read_text()


def test_ranks_do_what_one_does_with_all_the_rows(scaled):
    """The gate holds losses, gradients and weights of both ranks against a plain loop over the joined batch."""
    cells = scaled[0]
    assert len(cells) == 2
    assert set(cells["status"]) <= set(MEASURED)
    assert set(cells["gate"]) == {"exact"}
    assert (cells["gate_max_error"] < 1e-4).all()


def test_efficiency_has_an_interval_and_a_rank_alone_has_none(scaled):
    alone, both = scaled[0]["scaling_efficiency"]
    assert np.isnan(alone)
    (low,), (high,) = (scaled[0][f"scaling_efficiency_{part}"].dropna() for part in ("lo", "hi"))
    assert 0 < low < both < high


def test_scaling_is_drawn_with_what_it_is_over_one_rank(scaled):
    cells = scaled[0].reset_index()
    drawn = plots.figure("scaling_vs_ranks", cells, [])
    words = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert words == [f"{cells['scaling_efficiency'].iloc[1]:.0%}"]
    with pytest.raises(UserError, match="--nproc 1,2"):
        plots.figure("scaling_vs_ranks", cells[cells["world_size"].eq(1)], [])


def test_compiled_ranks_do_what_a_plain_loop_does(nanobench, tmp_path):
    asked = ("--nproc", 2, "--compile-mode", "default", "--model", "fakes:tiny")
    nanobench("train-throughput", *TINY, *asked, cwd=tmp_path, code=0)
    (cell,) = cells_of(tmp_path).to_dict("records")
    assert cell["status"] in MEASURED
    assert (cell["gate"], cell["compiled_graphs"]) == ("exact", 1)
    tokens_of_both = 2 * 2 * 32
    assert cell["train_tok_s"] * cell["step_s"] == pytest.approx(tokens_of_both)


def test_the_terminal_tells_ranks_apart(scaled):
    assert "2 ranks" in scaled[1]
    assert {cell["world_size"] for cell in json.loads(scaled[1].strip().splitlines()[-1])["cells"]} == {1, 2}


ODD = {
    "dying_rank": ("error", "rank 1: worker killed by SIGKILL"),
    "lopsided": ("wrong", "off by"),
    "hoarding_rank": ("oom", "rank 1: RuntimeError: [enforce fail"),
    "hanging_rank": ("timeout", "no answer within 10 s"),
}


def test_what_one_rank_does_is_a_row_and_no_hang(nanobench, tmp_path):
    """All but the last must end by themselves: the time limit would make them `timeout`."""
    models = ",".join(f"fakes:{model}" for model in ODD)
    asked = ("--model", models, *TINY, "--nproc", 2, "--timeout", 10, "--memory-limit", "4GiB")
    nanobench("train-throughput", *asked, cwd=tmp_path, code=1)
    cells = cells_of(tmp_path).set_index("model")
    for model, (status, words) in ODD.items():
        assert cells.loc[f"fakes:{model}", "status"] == status
        assert words in cells.loc[f"fakes:{model}", "reason"]
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left


def test_autobatch_is_agreed_over_ranks(nanobench, tmp_path):
    asked = ("--model", "fakes:tiny", "--seq-len", 32, "--threads", 1, "--memory-limit", "1GiB", "--nproc", 2, "--most", 1)
    found = json.loads(
        nanobench("autobatch", *asked, "--json", "--fresh", cwd=tmp_path, code=0).stdout.strip().splitlines()[-1]
    )
    assert found["largest_batch_size"] == 1
    assert found["curve"][0]["tok_s"] > 0


@pytest.mark.parametrize("command", ["train-throughput", "kv-sweep", "autobatch"])
def test_inside_torchrun_it_names_its_own_option(tmp_path, command):
    own = {**environment(), "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0"}
    line = [sys.executable, "-m", "nanobench", command, "--dry-run"]
    done = subprocess.run(line if command != "autobatch" else line[:-1], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 2
    assert "train-throughput --nproc 4" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


SUMMARY = """
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 2)  (what it was)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : {first} (pid: 1)
============================================================
"""


def summary(code, first=1):
    """What torchrun writes behind all; of ends within a tenth of a second it may call either the first."""
    return SUMMARY.format(code=code, first=first)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "see its log"),
        ("loading 1 %\rloading 100 %\n", "its log says: loading 100 %"),
        (
            "Traceback\nKeyError: 'a'\nTraceback\ntorch.AcceleratorError: CUDA error\nCompile with `X` to see more.\n",
            "CUDA error",
        ),
        ("x" * 1000, "its log says: " + "x" * base.MOST_OF_A_LINE),
    ],
)
def test_a_worker_that_ends_says_what_was_raised_last_or_what_it_wrote_last(tmp_path, log, said):
    (tmp_path / "log").write_text(log)
    reason = base.result(tmp_path, tmp_path / "log", 1, None).reason
    assert reason.startswith("worker ended with exit code 1; ")
    assert reason.endswith(said)


@pytest.mark.parametrize(
    ("log", "code", "failure", "expected"),
    [
        (summary(-9), 1, "error", (Status.ERROR, "rank 1: worker killed by SIGKILL", True)),
        (summary(-9), 1, "oom", (Status.OOM, "what it said", False)),
        (summary(1), 1, "oom", (Status.OOM, "what it said", False)),
        (summary(-15, 3), 1, None, (Status.ERROR, "rank 0: worker ended with exit code 3", False)),
        (summary(-9) + "another one began", 1, "error", (Status.ERROR, "what it said", False)),
        (summary(-9), -9, None, (Status.ERROR, "worker killed by SIGKILL", True)),
        ("", 5, None, (Status.ERROR, "worker ended with exit code 5", False)),
    ],
)
def test_how_ranks_ended_is_what_the_first_of_them_did(tmp_path, log, code, failure, expected):
    """Its peers lose a connection, and say so; a summary that something was written behind is an older one."""
    (tmp_path / "log").write_text(log)
    if failure:
        (tmp_path / "failure.json").write_text(json.dumps({"status": failure, "reason": "what it said"}))
    ended = base.result(tmp_path, tmp_path / "log", code, None)
    status, words, killed = expected
    assert (ended.status, ended.killed) == (status, killed)
    assert ended.reason.startswith(words)

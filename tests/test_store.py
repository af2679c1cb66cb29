"""The folder of a run where writing fails: one line, exit code 2, and what was on disk stays."""

import errno
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conftest import SMALL, environment
from nanobench.errors import UserError
from nanobench.results import finder, out_folder, store
from nanobench.sweep import stopped
from nanobench.views import plots

TINY = (*SMALL, "--model", "fakes:tiny", "--launches", "1")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.parquet")


@pytest.mark.parametrize("out", ["new", "new/deep/er", "here", "here/new"])
def test_a_folder_that_can_be_written_is_chosen_and_nothing_is_made(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert str(out_folder.choose(out, "kv-sweep")) == out
    assert str(out_folder.choose("", "kv-sweep")).startswith("results/kv-sweep-")
    assert sorted(tmp_path.rglob("*")) == before


def test_two_sweeps_never_begin_in_one_folder(small_run, tmp_path, monkeypatch):
    """Both have chosen it before either has made it."""
    info = store.Run(small_run[0]).info()
    first = store.create(tmp_path / "run", info)
    before = first.info_file.read_bytes()
    with pytest.raises(UserError, match=r"run holds another run: another sweep was quicker; give another --out"):
        store.create(tmp_path / "run", info)
    assert first.info_file.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["logs", "raw", "run.json"]

    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(store.os, "link", no_links)
    assert store.create(tmp_path / "other", info).info().command == info.command
    with pytest.raises(UserError, match="another sweep was quicker"):
        store.create(tmp_path / "other", info)


def test_a_folder_that_becomes_unwritable_is_one_line(small_run, tmp_path):
    info = store.Run(small_run[0]).info()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be written: Not a directory.*; give another --out"):
        store.create(tmp_path / "file" / "run", info)


def test_a_file_that_was_not_written_whole_is_not_there(tmp_path):
    (tmp_path / "cells").write_text("before")

    def write(path):
        path.write_text("half")
        full()

    with pytest.raises(OSError, match="No space left"):
        store.write_atomically(tmp_path / "cells", write)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert (tmp_path / "cells").read_text() == "before"


def test_a_disk_that_fills_up_ends_a_sweep_in_one_line_and_keeps_its_trials(nanobench_here, tmp_path, monkeypatch):
    written, write = [], store.pq.write_table

    def limited(table, path):
        written.append(path)
        (full if len(written) > 2 else write)(table, path)  # the first trial and its cells fit

    monkeypatch.setattr(store.pq, "write_table", limited)
    done = nanobench_here("kv-sweep", *TINY, "--batch", "1,2", "--out", "run", cwd=tmp_path, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("the sweep stopped: No space left on device (some.parquet); finished trials are kept in run:")
    assert re.search(r"make room, about [\d.]+ MiB for 1 more trial \([\d.]+ MiB are free\), and continue", line)
    assert line.endswith("continue with: nanobench kv-sweep --resume run")
    run = store.Run(tmp_path / "run")
    assert len(list(run.raw.glob("*"))) == 1
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    nanobench_here("kv-sweep", "--resume", "run", "--no-plot", cwd=tmp_path, code=0)
    assert len(run.read_raw()) == 4


def test_a_worker_that_fails_where_the_disk_is_full_is_no_result(nanobench_here, tmp_path, monkeypatch):
    monkeypatch.setattr(stopped, "tempfile", SimpleNamespace(TemporaryFile=full))
    arms = ("--engine", "uncached,fakes:raising", "--batch", "1,4")
    done = nanobench_here("kv-sweep", *TINY, *arms, "--out", "run", cwd=tmp_path, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("the sweep stopped: No space left on device")
    assert [path.name.split("-")[1] for path in (tmp_path / "run" / "raw").iterdir()] == ["b1"]


def test_plots_that_cannot_be_written_cost_no_results(nanobench_here, small_run, tmp_path, monkeypatch):
    shutil.copytree(small_run[0], tmp_path / "run")
    monkeypatch.setattr(plots, "draw_all", full)
    monkeypatch.chdir(tmp_path)
    done = nanobench_here("kv-sweep", "--resume", "run", "--json", cwd=tmp_path, code=2)
    assert done.stdout.strip().splitlines()[-1].startswith('{"run"')
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("run/plots cannot be written: No space left on device")


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{}", '{"plan": 1, "started_at": 2, "identity": 3}', '{"plan": {}, "started_at": "", "identity": {}}'],
)
def test_a_run_json_of_something_else_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is not a run's"):
        store.Run(tmp_path).info()


def test_runs_are_found_below_a_folder_and_not_inside_of_other_runs(small_run, tmp_path, monkeypatch):
    for name in ("b/second", "first", "first/inside"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(small_run[0] / "run.json", tmp_path / name)
    assert sorted(run.folder for run in finder.find_runs(tmp_path)) == [tmp_path / "b" / "second", tmp_path / "first"]
    assert [run.folder for run in finder.find_runs(tmp_path / "first")] == [tmp_path / "first"]
    monkeypatch.setattr(finder, "MOST_FOLDERS", 1)
    with pytest.raises(UserError, match="more than 1 folders below it; give a folder that a sweep wrote"):
        finder.find_runs(tmp_path)


FILLED = """
mount -t tmpfs -o size=64m tmpfs "$1" && cd "$1" || exit 99
shift
( until [ "$(ls run/raw 2>/dev/null | wc -l)" -ge 2 ]; do sleep 0.05; done; cat /dev/zero > ballast 2>/dev/null ) &
line=$("$@" kv-sweep $SWEEP --out run 2>&1 >/dev/null); echo code $?; echo "$line"
wait
rm ballast
"$@" export run --format csv | wc -l
find run -name '*.part' -o -name '*.damaged' | wc -l
"$@" kv-sweep --resume run --no-plot >/dev/null; echo code $?
ls run/raw | wc -l
"""
"""Fills a small disk as soon as two trials are finished."""


def may_mount(tmp_path):
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_small_disk_that_is_full_keeps_what_is_finished_and_the_sweep_continues(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("this user may mount no tmpfs in a namespace of its own")
    sweep = " ".join((*TINY, "--batch", "1,2,3,4"))
    program = [sys.executable, "-m", "nanobench"]
    command = ["unshare", "-rm", "sh", "-c", FILLED, "sh", str(tmp_path), *program]
    done = subprocess.run(command, env={**environment(), "SWEEP": sweep}, capture_output=True, text=True)
    code, line, rows, damaged, resumed, trials = done.stdout.splitlines()
    assert code == "code 2", done.stdout + done.stderr
    assert "No space left on device" in line
    assert "finished trials are kept in run: make room, about " in line
    assert line.endswith("and continue with: nanobench kv-sweep --resume run")
    assert int(rows) >= 5, "a head and two finished points of two arms can be read"
    assert damaged == "0"
    assert (resumed, trials) == ("code 0", "4")

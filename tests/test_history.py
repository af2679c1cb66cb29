"""The runs of a folder, a line each, and their figure."""

import json

import pytest

from conftest import TESTS
from nanobench.analysis import history
from nanobench.analysis.history import Line
from nanobench.errors import UserError
from nanobench.results import finder
from nanobench.views.figures import over_commits

RUNS = TESTS / "runs"


def line(day, speedup=2.0, model="gpt2-nano", commit="c" * 40):
    bounds = (None, None) if speedup is None else (speedup - 0.1, speedup + 0.1)
    started = f"2026-01-{day:02d}T10:00:00+00:00"
    return Line(f"run-{day}", started, "kv-sweep", model, "A", commit, 2, 1, "cached at batch 8", speedup, *bounds)


def test_each_run_is_a_line_and_the_oldest_is_first():
    found = history.lines_of(finder.find_runs(RUNS))
    assert len(found) == len(finder.find_runs(RUNS)) >= 2
    assert [each.started_at for each in found] == sorted(each.started_at for each in found)
    for each in found:
        assert each.speedup is None or each.speedup_lo <= each.speedup <= each.speedup_hi
        assert each.concluded <= each.cells


def test_the_command_prints_a_line_per_run(nanobench_here, tmp_path):
    done = nanobench_here("history", RUNS, "--json", cwd=tmp_path, code=0)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert [each["run"] for each in document] == [each.run for each in history.lines_of(finder.find_runs(RUNS))]
    assert len(nanobench_here("history", RUNS, cwd=tmp_path, code=0).stdout.splitlines()) > len(document)


def test_the_figure_has_a_series_per_model_and_leaves_out_runs_without_a_ratio():
    lines = [line(1), line(2, None), line(3, 3.0), line(4, 1.5, "nanochat-nano")]
    drawing = over_commits.over_commits(lines)
    axes = drawing.axes[0]
    series = [drawn for drawn in axes.lines if drawn.get_linestyle() != "None" and drawn.get_marker() != "_"]
    assert [list(drawn.get_ydata()) for drawn in series] == [[2.0, 3.0], [1.5]]
    assert [text.get_text() for text in axes.get_xticklabels()] == [f"2026-01-{day:02d} ccccccc" for day in (1, 3, 4)]


def test_a_folder_without_a_ratio_has_no_figure():
    with pytest.raises(UserError, match="needs a run with a reliable ratio"):
        over_commits.over_commits([line(1, None)])


def test_a_folder_without_runs_is_one_line(nanobench_here, tmp_path):
    done = nanobench_here("history", "nowhere", cwd=tmp_path, code=2)
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

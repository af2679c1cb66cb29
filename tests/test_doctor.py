"""Damaged files of a run are found and repaired, and nothing that was measured is lost."""

import json
import shutil

import pytest

from nanobench.errors import UserError
from nanobench.results import doctor, finder
from nanobench.results.run_info import finished_event, time_event
from nanobench.results.store import Run


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of a measured run."""
    shutil.copytree(small_run[0], tmp_path / "runs" / "one")
    return Run(tmp_path / "runs" / "one")


def findings(run):
    return [(problem.path.name, problem.what.partition(":")[0]) for problem in doctor.examine(run)]


def test_a_whole_run_has_no_problem(run, nanobench_here, tmp_path):
    assert findings(run) == []
    done = nanobench_here("doctor", "runs", cwd=tmp_path, code=0)
    assert "1 run examined, 0 problems" in done.stdout


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_raw_file_of_any_length_is_set_aside_and_its_trial_is_measured_again(run, nanobench_here, tmp_path, kept):
    path = sorted(run.raw.iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    done = nanobench_here("doctor", "runs", cwd=tmp_path, code=1)
    assert str(path.name) in done.stdout
    assert path.exists()
    nanobench_here("doctor", "runs", "--repair", cwd=tmp_path, code=0)
    assert not path.exists()
    assert path.with_name(path.name + ".damaged").exists()
    assert len(run.read_raw()) == len(list(run.raw.glob("*.parquet"))) * 2
    assert findings(run) == []


def test_resume_sets_a_damaged_raw_file_aside_names_it_and_measures_its_trial_again(run, nanobench_here, tmp_path):
    path, before = sorted(run.raw.iterdir())[1], len(run.read_raw())
    path.write_bytes(path.read_bytes()[:100])
    done = nanobench_here("kv-sweep", "--resume", "runs/one", "--no-plot", cwd=tmp_path, code=0)
    assert f"could not be read and were set aside: {path.name}" in " ".join(done.stdout.split())
    assert path.exists()
    assert path.with_name(path.name + ".damaged").exists()
    assert len(run.read_raw()) == before
    assert run.info().damaged == (path.name,)
    assert findings(run) == []


def test_a_line_that_was_cut_costs_only_itself(run):
    before = run.info()
    text = run.journal.read_text()
    lines = text.splitlines(keepends=True)
    run.journal.write_text("".join(lines[:-1]) + lines[-1][:10])
    assert run.info().finished_at is None
    run.append(time_event(100.0))
    run.append(finished_event("2026-01-01T10:10:00+00:00"))
    assert run.info().wall_s == pytest.approx(before.wall_s + 100)
    assert run.info().finished_at == "2026-01-01T10:10:00+00:00"
    assert findings(run) == [("journal.jsonl", "has 1 lines that are not whole")]
    (problem,) = doctor.examine(run)
    problem.repair()
    assert findings(run) == []
    assert run.info().wall_s == pytest.approx(before.wall_s + 100)


def test_unfinished_files_and_cells_are_repaired(run, nanobench_here, tmp_path):
    cells = finder.load(run.folder)
    run.cells.write_bytes(b"no parquet")
    (run.raw / "x.parquet.part").write_text("half")
    done = nanobench_here("doctor", "runs", "--repair", "--json", cwd=tmp_path, code=0)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert [each["repaired"] for each in document["problems"]] == [True, True]
    assert findings(run) == []
    assert len(finder.load(run.folder)) == len(cells)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"command": 1}'])
def test_a_lost_run_json_is_reported_and_not_invented(run, nanobench_here, tmp_path, text):
    run.info_file.write_text(text)
    done = nanobench_here("doctor", "runs", "--repair", cwd=tmp_path, code=1)
    assert "no repair" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_without_its_run_json_and_its_cells_does_not_stop_the_search(run, nanobench_here, tmp_path):
    run.info_file.write_text("{")
    run.cells.unlink()
    shutil.copytree(run.folder, tmp_path / "runs" / "another")
    done = nanobench_here("doctor", "runs", "--repair", cwd=tmp_path, code=1)
    assert done.stdout.count("run.json") >= 2
    assert "Traceback" not in done.stdout + done.stderr


def test_a_journal_that_lost_bytes_or_an_event_says_the_rest(run):
    before = run.info()
    run.journal.write_bytes(run.journal.read_bytes() + b"\xff\xfe\n")
    run.append({"event": "drift_check", "setting": "nowhere"})
    run.append({"event": "unknown"})
    run.append(time_event(100.0))
    assert run.info().wall_s == pytest.approx(before.wall_s + 100)


def test_of_several_runs_one_that_cannot_be_read_is_left_out(run, tmp_path, capsys):
    shutil.copytree(run.folder, tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    assert [each.folder for each in finder.find_runs(tmp_path / "runs")] == [run.folder]
    assert "broken/run.json" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"broken/run.json cannot be read"):
        finder.find_runs(tmp_path / "runs" / "broken")
    run.info_file.write_text("{")
    with pytest.raises(UserError, match=r"no run in .* that has a readable run\.json"):
        finder.find_runs(tmp_path / "runs")


def test_a_folder_without_runs_is_one_line(nanobench_here, tmp_path):
    done = nanobench_here("doctor", "nowhere", cwd=tmp_path, code=2)
    assert "no run in nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

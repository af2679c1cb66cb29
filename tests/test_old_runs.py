"""Runs of earlier protocols: their files load with the values that they had, under today's names of the columns."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from nanobench.cli import app
from nanobench.records import JUDGED, MEASURED
from nanobench.results import derive
from nanobench.results.raw_files import RENAMED
from nanobench.results.run_info import RunInfo
from nanobench.results.store import Run
from nanobench.schema import PROTOCOL

RUNS = sorted((Path(__file__).parent / "runs").iterdir())
RENAMED_CELLS = {
    "mark_tax": "timestamp_overhead",
    "mark_tax_lo": "timestamp_overhead_lo",
    "mark_tax_hi": "timestamp_overhead_hi",
    "noise": "relative_iqr",
    "advice": "ci_advice",
    "null_ratio": "aa_ratio",
    "null_lo": "aa_ratio_lo",
    "null_hi": "aa_ratio_hi",
    "throttle": "clock_event_reasons",
    "device_busy": "gpu_busy_fraction",
    "graphs": "compiled_graphs",
}
"""Column that the version which measured wrote into cells.parquet -> its name today."""
ALLOWED = ("speedup_lo", "speedup_hi", "decode_speedup_lo", "decode_speedup_hi", "speedup_p", "speedup_p_holm")
"""Columns that include today what may have slowed one arm more than the other."""


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def run(request):
    return Run(request.param)


def test_every_cell_has_the_values_that_the_version_which_measured_it_derived(run):
    derived = derive.derive(run.read_raw(), run.info().machine)
    stored = pq.read_table(run.cells).to_pylist()
    assert len(derived) == len(stored)
    for today, then in zip(derived, stored, strict=True):
        assert (today["status"] in JUDGED) == (then["status"] in JUDGED)
        assert (today["speedup_pairs_lo"], today["speedup_pairs_hi"]) == (then["speedup_lo"], then["speedup_hi"])
        # Holm corrects each p value for those of the other cells.
        allowed = ALLOWED if today["speedup_widening"] else ("speedup_p_holm",)
        # Gaps of one launch are related: before, those of one call were. The intervals can only have become wider.
        for low, high in ((f"itl_p{share}_lo_s", f"itl_p{share}_hi_s") for share in (50, 90, 99)):
            allowed = (*allowed, low, high)
            assert today[low] is None or today[low] <= then[low]
            assert today[high] is None or today[high] >= then[high]
        for column, value in then.items():
            if column not in ("reason", "status", *allowed):  # words may change, figures may not
                assert today[RENAMED_CELLS.get(column, column)] == value, column


def test_every_ratio_of_an_old_run_has_a_verdict_of_its_own(run):
    for cell in derive.derive(run.read_raw(), run.info().machine):
        assert (cell["speedup_status"] is None) == (cell["arm_index"] == 0)
        assert cell["speedup"] is None or cell["speedup_status"] in MEASURED


def test_no_renamed_column_is_lost_in_silence(run):
    old_names = {name for path in run.raw.glob("*.parquet") for name in pq.read_schema(path).names}
    assert old_names & set(RENAMED)
    launches = run.read_raw()
    assert any(each.timestamped and each.token_times_s for launch in launches for each in launch.repetitions)
    assert any(launch.outcome.operations_per_step for launch in launches)


def test_the_machine_is_known_with_its_limits_and_drift_checks(run):
    info = run.info()
    assert info.description.models
    assert info.wall_s > 0
    assert info.finished_at
    if info.command == "kv-sweep":
        (calibration,) = info.calibrations.values()
        assert calibration.limits.found
        assert calibration.drift_checks
        assert all(info.machine.limits_of(point) for point in info.plan.points)


def test_what_run_json_says_survives_being_written_again(run):
    info = run.info()
    again = RunInfo.from_json(info.to_json())
    assert (again.command, again.plan, again.description) == (info.command, info.plan, info.description)
    assert again.requested == info.requested


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    """The name of a copy of the run in the current folder."""
    shutil.copytree(run.folder, tmp_path / run.folder.name)
    monkeypatch.chdir(tmp_path)
    return run.folder.name


@pytest.mark.parametrize("command", ["report", "explain", "export"])
def test_commands_that_read_take_an_old_run(no_plots, copy, command):
    done = CliRunner().invoke(app, [command, copy])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_the_figures_of_an_old_run_are_drawn(copy):
    done = CliRunner().invoke(app, ["report", copy])
    assert done.exit_code == 0, done.output
    assert len(list(Path(copy, "plots").glob("*.svg"))) >= 3


def test_an_old_run_is_not_resumed_because_its_code_is_not_known(nanobench_here, run, copy, tmp_path):
    assert run.info().description.code == {}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    refused = nanobench_here(run.info().command, "--resume", copy, cwd=tmp_path, code=2)
    (line,) = refused.stderr.strip().splitlines()
    reason = "kept no hashes of its source code" if run.info().protocol == PROTOCOL else f"by protocol {run.info().protocol},"
    assert reason in line
    assert line.endswith("start a new run with --out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before

"""Stored cells are read where they are what deriving them again gives, and only there."""

import os
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from nanobench import load
from nanobench.errors import UserError
from nanobench.records import ArmRecord, LaunchRecord
from nanobench.results import derive, store, stored_cells
from nanobench.results.run_info import finished_event
from nanobench.schema import Trial
from test_compare import info
from test_status import ARM, CPU, OK, REFERENCE, STILL, timed


@pytest.fixture
def run(tmp_path):
    """A finished run of two points, with stored cells."""
    made = store.create(tmp_path / "runs" / "one", info())
    for point in (CPU, replace(CPU, batch_size=8)):
        for number in (1, 2):
            trial = Trial(point=point, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
            launches = [
                LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=tuple(timed([wall_s] * len(STILL))), outcome=OK))
                for arm, wall_s in ((REFERENCE, 1.0), (ARM, 0.5))
            ]
            made.write_raw(trial, launches)
    made.append(finished_event("2026-01-01T10:10:00+00:00"))
    made.write_cells(derive.derive(made.read_raw(), made.info().machine))
    return made


def test_stored_cells_are_those_that_would_be_derived(run, derived):
    stored = load(run.folder)
    assert derived == []
    run.cells.unlink()
    again = load(run.folder)
    assert derived == [1]
    pd.testing.assert_frame_equal(stored, again)


def test_a_raw_file_that_is_new_changed_or_gone_is_derived_again(run, derived):
    first, *others = sorted(run.raw.iterdir())
    shutil.copy(first, run.raw / "a-copy.parquet")
    load(run.folder)
    assert len(derived) == 1
    (run.raw / "a-copy.parquet").unlink()
    load(run.folder)
    assert len(derived) == 1
    os.utime(first, (1, 1))
    load(run.folder)
    assert len(derived) == 2
    others[-1].unlink()
    assert len(load(run.folder)) == 4
    assert len(derived) == 3


def test_a_longer_journal_and_other_code_are_derived_again(run, derived, monkeypatch):
    run.append({"event": "time", "wall_s": 1.0})
    load(run.folder)
    assert len(derived) == 1
    run.write_cells(derive.derive(run.read_raw()))
    derived.clear()
    monkeypatch.setattr(stored_cells, "key_of_code", lambda: "other")
    load(run.folder)
    assert len(derived) == 1


def test_a_plug_in_that_adds_columns_is_never_skipped(run, derived, monkeypatch):
    monkeypatch.setattr(stored_cells.derive, "plug_ins", lambda: ("something",))
    assert stored_cells.key_of(run.folder) is None
    assert stored_cells.read(run.folder) is None


@pytest.mark.parametrize("is_stored", [True, False])
def test_only_what_is_needed_is_read(run, is_stored):
    if not is_stored:
        run.cells.unlink()
    found = load(run.folder, columns=["run", "speedup", "batch_size"], filters=[("batch_size", ">", 4), ("arm_index", "==", 1)])
    assert found.to_dict("records") == [{"run": "one", "speedup": pytest.approx(2.0), "batch_size": 8}]
    assert list(load(run.folder, columns=["run"])["run"]) == ["one"] * 4


def test_an_unknown_column_is_one_line(run):
    with pytest.raises(UserError, match="unknown column 'sped'"):
        load(run.folder, columns=["sped"])


@pytest.mark.parametrize("text", [b"", b"ARROW1 nothing", b"PAR1"])
def test_damaged_stored_cells_are_derived_again(run, derived, text):
    stored_cells.path_in(run.folder).write_bytes(text)
    assert len(load(run.folder)) == 4
    assert len(derived) == 1

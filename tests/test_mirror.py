"""A run at a URI: published file by file, read without more than is needed, and never half there."""

import _thread
import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from conftest import SMALL
from nanobench import load
from nanobench.errors import UserError
from nanobench.records import ArmRecord, LaunchRecord
from nanobench.results import copies, derive, doctor, finder, mirror, out_folder, place, store
from nanobench.results.place import Place, Refused
from nanobench.results.run_info import finished_event
from nanobench.schema import Trial
from test_compare import info
from test_status import ARM, CPU, OK, REFERENCE, STILL, timed

TINY = (*SMALL, "--model", "fakes:tiny", "--launches", "2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache."""
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def there(tmp_path):
    """The folder that the URI names."""
    return tmp_path / "store" / "run"


@pytest.fixture
def uri(there):
    return there.as_uri()


def trial(number):
    return Trial(point=CPU, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)


def measure(run, number):
    """One trial, as the runner saves it."""
    launches = [
        LaunchRecord.of(trial(number), 0, ArmRecord(arm=arm, repetitions=tuple(timed([wall_s] * len(STILL))), outcome=OK))
        for arm, wall_s in ((REFERENCE, 1.0), (ARM, 0.5))
    ]
    run.append({"event": "time", "wall_s": 1.0})
    run.write_raw(trial(number), launches)


def begun(uri, **facts):
    return store.create(out_folder.choose(uri, "kv-sweep"), info(**facts))


def finish(run):
    run.append(finished_event("2026-01-01T10:10:00+00:00"))
    run.write_cells(derive.derive(run.read_raw(), run.info().machine))
    run.settle()


@pytest.fixture
def run(uri):
    """A finished run of two trials."""
    made = begun(uri)
    for number in (1, 2):
        measure(made, number)
    finish(made)
    return made


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def raw_name(number):
    return f"raw/{store.Run(Path()).raw_file(trial(number)).name}"


# Written


def test_a_run_appears_file_by_file_and_its_cells_last(uri, there):
    made = begun(uri)
    assert names(there) == ["run.json"]
    measure(made, 1)
    assert names(there) == ["journal.jsonl", raw_name(1), "run.json"]
    measure(made, 2)
    finish(made)
    assert names(there) == ["cells.arrow", "cells.parquet", "journal.jsonl", raw_name(1), raw_name(2), "run.json"]
    assert names(there) == names(made.folder)
    assert all((there / name).read_bytes() == (made.folder / name).read_bytes() for name in names(there))
    assert not copies.leads(made.folder.parent)


def test_the_journal_is_written_again_only_when_it_has_grown(uri, monkeypatch):
    written, put = [], Place.put

    def counted(self, file, name, once=False):
        written.append(name)
        return put(self, file, name, once)

    monkeypatch.setattr(Place, "put", counted)
    made = begun(uri)
    measure(made, 1)
    made.append({"event": "note", "text": "x" * 5000})
    for number in range(2, 6):
        measure(made, number)
    assert written.count("journal.jsonl") == 2
    finish(made)
    assert written.count("journal.jsonl") == 3


def test_a_raw_file_is_never_written_twice(uri, there):
    made = begun(uri)
    measure(made, 1)
    before = (there / raw_name(1)).read_bytes()
    with pytest.raises(OSError, match="another process measures into this run"):
        measure(made, 1)
    assert (there / raw_name(1)).read_bytes() == before


def test_a_place_with_a_run_is_refused_before_anything_is_measured(uri, run):
    with pytest.raises(UserError, match="holds another run; give another --out, or continue that one with --resume file:"):
        out_folder.choose(uri, "kv-sweep")


def test_the_second_of_two_sweeps_into_one_place_is_refused(uri, there):
    folders = [out_folder.choose(uri, "kv-sweep") for _ in range(2)]
    store.create(folders[0], info())
    before = (there / "run.json").read_bytes()
    with pytest.raises(UserError, match="holds another run"):
        store.create(folders[1], info(host="other"))
    assert (there / "run.json").read_bytes() == before


class Breaking:
    """A file system that breaks after half of a file was written."""

    type_name = "local"

    def __init__(self, filesystem):
        self.filesystem, self.deleted = filesystem, []

    def __getattr__(self, name):
        return getattr(self.filesystem, name)

    def open_output_stream(self, path):
        stream = self.filesystem.open_output_stream(path)

        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                stream.close()

            def write(self, data):
                stream.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return Half()


def test_a_file_that_breaks_off_is_not_there(uri, there, run, tmp_path):
    (tmp_path / "new").write_text("a new file")
    whole = place.at(uri)
    broken = Place(whole.uri, Breaking(whole.filesystem), whole.path)
    before = names(there)
    with pytest.raises(Refused, match="No space left on device"):
        broken.put(tmp_path / "new", "raw/new.parquet")
    with pytest.raises(Refused):
        broken.put(tmp_path / "new", "run.json")
    assert names(there) == before
    assert (there / "run.json").read_bytes() == (run.folder / "run.json").read_bytes()


def test_an_interrupt_comes_before_or_after_a_file_but_never_into_it(uri, there, run, tmp_path, monkeypatch):
    (tmp_path / "new").write_text("a new file")
    write = Place.write
    # Where the tests run in the background, SIGINT may be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self, target, data):
        _thread.interrupt_main()
        time.sleep(0.1)
        write(self, target, data)

    monkeypatch.setattr(Place, "write", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            place.at(uri).put(tmp_path / "new", "raw/new.parquet")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (there / "raw" / "new.parquet").read_text() == "a new file"


# Read


def test_what_is_read_is_what_a_folder_gives(uri, there, run, derived, cache):
    local = load(there)
    shutil.rmtree(cache)
    derived.clear()
    pd.testing.assert_frame_equal(load(uri), local)
    assert derived == []


def test_only_what_is_needed_is_fetched(uri, run, cache):
    shutil.rmtree(cache)
    chosen = {"columns": ["run", "speedup"], "filters": [("batch_size", ">=", 4), ("arm_index", "==", 1)]}
    assert load(uri, **chosen).to_dict("records") == [{"run": "run", "speedup": pytest.approx(2.0)}]
    assert [name.rpartition("/")[2] for name in names(cache)] == ["run.json"]
    assert len(load(uri, columns=["run"])) == 2
    assert load(uri, filters=[("run", "==", "other")]).empty
    assert [name.rpartition("/")[2] for name in names(cache)] == ["cells.arrow", "run.json"]


def test_a_run_is_read_while_it_is_measured(uri, derived):
    made = begun(uri)
    assert load(uri).empty
    measure(made, 1)
    derived.clear()
    assert list(load(uri)["launches_ok"]) == [1, 1]
    assert list(load(uri)["launches_ok"]) == [1, 1]
    assert len(derived) == 1
    measure(made, 2)
    assert list(load(uri)["launches_ok"]) == [2, 2]
    assert len(derived) == 2
    finish(made)
    derived.clear()
    assert list(load(uri)["launches_ok"]) == [2, 2]
    assert derived == []


def test_what_changed_is_fetched_again_and_what_is_gone_is_forgotten(uri, there, run):
    (found,) = finder.find_runs(uri)
    assert len(found.read_raw()) == 4
    (there / raw_name(2)).unlink()
    (again,) = finder.find_runs(uri)
    assert len(again.read_raw()) == 2
    assert list(load(uri)["launches_ok"]) == [1, 1]
    text = (there / "run.json").read_text()
    (there / "run.json").write_text(text.replace("kv-sweep", "kv-sweet"))
    os.utime(there / "run.json", (1, 1))
    (changed,) = finder.find_runs(uri)
    assert changed.info().command == "kv-sweet"


def test_stored_cells_that_are_older_than_a_raw_file_are_derived_again(uri, there, run, derived, cache):
    shutil.rmtree(cache)
    derived.clear()
    later = time.time() + 5
    os.utime(there / raw_name(1), (later, later))
    assert len(load(uri)) == 2
    assert len(derived) == 1


def test_all_runs_below_a_uri_are_found_the_oldest_first(there, run):
    second = begun(there.with_name("second").as_uri(), started="2025-01-01T10:00:00+00:00")
    measure(second, 1)
    shutil.copytree(there, there / "plots" / "inside")
    found = finder.find_runs(there.parent.as_uri())
    assert [each.place for each in found] == [second.place, run.place]
    assert sorted(set(load(there.parent.as_uri(), columns=["run"])["run"])) == ["run", "second"]


def test_a_name_that_leads_out_of_the_run_is_no_file_of_it(uri, run):
    from pyarrow.fs import FileInfo, FileType

    whole = place.at(uri)

    class Hostile:
        type_name = "s3"

        def get_file_info(self, selector):
            inside = ("raw/../../../evil", "raw//x.parquet", "./run.json", "raw/x.parquet")
            return [FileInfo(f"{whole.path}/{name}", FileType.File, size=1, mtime=0.0) for name in inside]

    assert list(Place(whole.uri, Hostile(), whole.path).files()) == ["raw/x.parquet"]


def test_copies_that_nobody_used_for_long_are_removed_but_never_unpublished_ones(uri, there, run):
    unfinished = begun(there.with_name("second").as_uri())
    measure(unfinished, 1)
    for folder in (run.folder.parent, unfinished.folder.parent):
        os.utime(folder, (1, 1))
    finder.find_runs(there.parent.as_uri())
    assert not (run.folder.parent / "run" / "raw").exists()
    assert unfinished.raw_file(trial(1)).exists()


# Continued


def test_what_is_missing_on_either_side_is_brought_together(uri, there, cache):
    made = begun(uri)
    for number in (1, 2):
        measure(made, number)
    made.append({"event": "time", "wall_s": 10.0})
    (there / raw_name(2)).unlink()
    (made.folder / raw_name(1)).unlink()
    again = store.resumed(uri)
    assert again.folder == made.folder
    assert len(again.read_raw()) == 4
    assert raw_name(2) in names(there)
    assert again.info().wall_s == 12.0
    shutil.rmtree(cache)
    elsewhere = store.resumed(uri)
    assert len(elsewhere.read_raw()) == 4
    assert [event["wall_s"] for event in map(json.loads, elsewhere.journal.read_text().splitlines())][:2] == [1.0, 1.0]


def test_a_trial_that_was_measured_twice_keeps_the_one_that_is_there(uri, there, tmp_path):
    made = begun(uri)
    measure(made, 1)
    published = (there / raw_name(1)).read_bytes()
    (made.folder / raw_name(1)).write_bytes(published + b"other")
    again = store.resumed(uri)
    assert (again.folder / raw_name(1)).read_bytes() == published
    assert (again.folder / f"{raw_name(1)}.twice").read_bytes() == published + b"other"
    same_size = published[:-1] + bytes([published[-1] ^ 1])
    (made.folder / raw_name(1)).write_bytes(same_size)
    assert (store.resumed(uri).folder / raw_name(1)).read_bytes() == published
    (made.folder / raw_name(1)).write_bytes(published)
    (made.folder / f"{raw_name(1)}.twice").unlink()
    store.resumed(uri)
    assert not (made.folder / f"{raw_name(1)}.twice").exists(), "the same bytes are the same trial"


def test_another_run_at_the_same_place_costs_no_trial_that_was_not_published(uri, there, cache):
    made = begun(uri)
    measure(made, 1)
    shutil.rmtree(there)
    other = begun(uri, started="2027-01-01T10:00:00+00:00")
    assert other.read_raw() == []
    assert len(list(cache.rglob("raw/*.parquet"))) == 1


def test_resuming_nothing_is_one_line(uri):
    with pytest.raises(UserError, match=r"holds no run \(no run\.json\)"):
        store.resumed(uri)


# Repaired


def test_a_damaged_file_is_set_aside_there_and_measured_again(uri, there, run, cache):
    shutil.rmtree(cache)
    whole = (there / raw_name(1)).read_bytes()
    (there / raw_name(1)).write_bytes(whole[:100])
    (there / "raw" / "x.parquet.part").write_bytes(whole[:10])
    (found,) = finder.folders_below(uri)
    problems = list(doctor.treat(found, repair=True))
    assert [each.where.rpartition("/")[2] for each in problems] == ["x.parquet.part", raw_name(1).rpartition("/")[2]]
    assert all(each.repaired and each.where.startswith("file://") for each in problems)
    assert f"{raw_name(1)}.damaged" in names(there)
    assert raw_name(1) not in names(there)
    assert "raw/x.parquet.part" not in names(there)
    assert len(store.resumed(uri).read_raw()) == 2


# The command line


def test_a_sweep_whose_place_fails_stops_in_one_line_and_continues(nanobench_here, uri, there, tmp_path, monkeypatch, no_plots):
    count, put = [], Place.put_bytes

    def dying(self, data, name, once):
        count.append(name)
        if sum(each.startswith("raw/") for each in count) > 1:
            raise Refused(errno.EREMOTEIO, "the server does not answer", self.uri_of(name))
        return put(self, data, name, once)

    def denied(self, data, name, once):
        raise Refused(errno.EREMOTEIO, "access is denied", self.uri_of(name))

    monkeypatch.setattr(Place, "put_bytes", dying)
    done = nanobench_here("kv-sweep", *TINY, "--batch", "1,2", "--out", uri, cwd=tmp_path, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"the sweep stopped: the server does not answer ({uri}/raw/")
    assert "2 finished trials are kept in " in line
    assert f"1 of them published; continue on this machine with: nanobench kv-sweep --resume {uri}" in line
    assert [name for name in names(there) if not name.startswith("raw/")] == ["run.json"]
    (first,) = (name for name in names(there) if name.startswith("raw/"))
    before = (there / first).read_bytes()
    assert len(load(uri)) == 2
    monkeypatch.setattr(Place, "put_bytes", put)
    published = {name: (there / name).read_bytes() for name in names(there)}
    nanobench_here("kv-sweep", "--resume", uri, "--dry-run", cwd=tmp_path, code=0)
    assert {name: (there / name).read_bytes() for name in names(there)} == published
    shown = nanobench_here("kv-sweep", "--resume", uri, "--no-plot", "--json", cwd=tmp_path, code=0)
    document = json.loads(shown.stdout.strip().splitlines()[-1])
    assert document["run"] == uri
    assert document["paths"] == [f"{uri}/cells.parquet"]
    assert (there / first).read_bytes() == before
    assert len([name for name in names(there) if name.startswith("raw/")]) == 4
    assert not [name for name in names(there) if name.endswith(".part")]
    assert not [name for name in names(there) if name.startswith("scratch")]
    assert set(load(uri)["launches_ok"]) == {2}
    assert nanobench_here("compare", uri, uri, cwd=tmp_path).returncode in (0, 3)
    for words in (["report", uri], ["history", uri], ["export", uri], ["doctor", uri]):
        shown = nanobench_here(*words, cwd=tmp_path, code=0)
    assert {"report.html", "report.md"} <= set(names(there))
    monkeypatch.setattr(Place, "put_bytes", denied)
    shown = nanobench_here("report", uri, cwd=tmp_path, code=2)
    (line,) = shown.stderr.strip().splitlines()
    assert line.startswith(
        f"{uri} cannot be written: access is denied ({uri}/report.md); the files are in the copy on this machine"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "store"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "foo://bucket/run"], ["foo://bucket/run cannot be opened", "s3://bucket/run"]),
        (["report", "s3://bucket/run?speed=high"], ["'speed'", "s3://bucket/run"]),
        (["report", "s3://"], ["names no folder"]),
        (["report", "s3://[bad/run"], ["cannot be opened"]),
        (["report", "file:///nowhere/at/all"], ["no run in file:///nowhere/at/all"]),
        (["kv-sweep", "--resume", "file:///nowhere/at/all"], ["holds no run"]),
        (["kv-sweep", "--out", "file:///proc/nope"], ["file:///proc/nope cannot be written", "another --out"]),
        (["selftest", "--out", "s3://bucket/run"], ["selftest writes into a folder of this machine only"]),
        (["autobatch", "--out", "s3://bucket/run"], ["is no folder of this machine"]),
    ],
)
def test_a_wrong_uri_is_one_line(nanobench_here, tmp_path, arguments, words):
    small = [*TINY, "--batch", "1"] if "--out" in arguments and arguments[0] == "kv-sweep" else []
    done = nanobench_here(*arguments, *small, cwd=tmp_path, code=2)
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


def test_a_secret_in_a_uri_is_refused_and_not_repeated(nanobench_here, tmp_path):
    done = nanobench_here("report", "s3://KEY:hidden@bucket/run?region=x", cwd=tmp_path, code=2)
    assert "keys do not belong" in done.stderr
    assert "hidden" not in done.stdout + done.stderr
    assert "KEY:" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server", "not answer"),
        ("curlCode: 28, Timeout was reached", "not answer"),
        ("Status(UNAVAILABLE: Retry policy exhausted, with PerformWork() - CURL error [7]=Could not connect", "not answer"),
        ("AWS Error ACCESS_DENIED during HeadBucket operation: No response body.", "set AWS_ACCESS_KEY_ID"),
        ("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation", "set AWS_ACCESS_KEY_ID"),
        (
            "AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist",
            "bucket 'bucket' does not",
        ),
        ("something\nelse", "something else"),
    ],
)
def test_what_a_server_says_becomes_one_line_with_what_helps(text, words):
    class Filesystem:
        type_name = "s3"

    found = Place("s3://bucket/run", Filesystem(), "bucket/run").cause(OSError(text))
    assert words in found
    assert "\n" not in found


def test_mirror_is_for_uris_only(tmp_path):
    assert mirror.new(tmp_path / "run", "kv-sweep") is None
    assert not place.is_uri(tmp_path)
    assert not place.is_uri("results/s3")
    assert place.is_uri("s3://bucket")

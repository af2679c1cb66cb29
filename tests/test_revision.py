"""The files of a git revision, written beside the repository, which stays byte for byte as it is."""

import hashlib
import os
import subprocess

import pytest

from nanobench.errors import UserError
from nanobench.sweep import revision
from nanobench.sweep.side import Side

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")


def git(folder, *arguments):
    done = subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits of lab/gpt.py, an uncommitted change, an untracked and an ignored file. The current folder is lab/."""
    top = tmp_path / "repository"
    (top / "lab").mkdir(parents=True)
    (top / "src").mkdir()
    git(top, "init")
    (top / ".gitignore").write_text("*.bin\n")
    (top / ".gitattributes").write_text("lab/gpt.py export-ignore\n")
    (top / "src" / "shared.py").write_text("X = 1\n")
    (top / "lab" / "gpt.py").write_text("WIDTH = 1\n")
    git(top, "add", ".")
    git(top, "commit", "-m", "one")
    (top / "lab" / "gpt.py").write_text("WIDTH = 2\n")
    git(top, "commit", "-am", "two")
    (top / "lab" / "gpt.py").write_text("WIDTH = 3\n")
    (top / "lab" / "new.py").write_text("NEW = 1\n")
    (top / "lab" / "weights.bin").write_text("many")
    monkeypatch.chdir(top / "lab")
    return top


def state(folder):
    """Every file below a folder with its content, its mode and its time of change."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as file:
                found[path] = (hashlib.sha256(file.read()).hexdigest(), os.stat(path).st_mode, os.stat(path).st_mtime_ns)
    return found


@pytest.mark.parametrize(("text", "width"), [("HEAD", 2), ("HEAD~1", 1), ("main", 2), (".", 3)])
def test_each_revision_has_its_own_files_and_the_repository_stays_as_it_is(repository, tmp_path, text, width):
    before = state(repository)
    found = revision.extract(text, tmp_path / "files")
    assert (found.folder / "lab" / "gpt.py").read_text() == f"WIDTH = {width}\n"
    assert state(repository) == before
    assert git(repository, "worktree", "list").count("\n") == 0
    assert list(tmp_path.glob("*.index")) == []


def test_the_working_tree_has_untracked_files_and_no_ignored_ones(repository, tmp_path):
    found = revision.extract(".", tmp_path / "files")
    assert {path.name for path in (found.folder / "lab").iterdir()} == {"gpt.py", "new.py"}
    assert found.dirty
    assert str(found) == f". ({git(repository, 'rev-parse', 'HEAD')[:10]} with uncommitted changes)"


def test_a_deleted_file_is_not_in_the_working_tree(repository, tmp_path):
    (repository / "src" / "shared.py").unlink()
    assert not (revision.extract(".", tmp_path / "files").folder / "src" / "shared.py").exists()


def test_modules_are_found_where_the_user_finds_them(repository, tmp_path):
    found = revision.extract("HEAD", tmp_path / "files")
    assert found.prefix == "lab/"
    assert [os.path.relpath(path, found.folder) for path in found.search_path] == ["lab", ".", "src"]


def test_a_folder_of_pythonpath_inside_the_repository_becomes_that_of_the_revision(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{repository}/src:/elsewhere")
    found = revision.extract("HEAD", tmp_path / "files")
    made = Side.of("HEAD", (), "").interpreter(found, tmp_path)
    folders = made.variables["PYTHONPATH"].split(":")
    assert str(found.folder / "src") in folders
    assert folders[-1] == "/elsewhere"
    assert f"{repository}/src" not in folders
    assert made.variables["NANOBENCH_CODE"] == str(found.folder / "lab/")


@pytest.mark.parametrize("text", ["HEAD~9", "no-such-branch", "--help", "-x", "HEAD:lab"])
def test_an_unknown_revision_is_one_line_and_writes_nothing(repository, tmp_path, text):
    assert not revision.is_revision(text)
    with pytest.raises(UserError, match="unknown revision"):
        revision.extract(text, tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="in no git repository"):
        revision.extract("HEAD", tmp_path / "files")


# What a text names


def test_a_link_to_a_folder_is_a_file_of_the_working_tree(repository, tmp_path):
    (repository / "linked").symlink_to("lab")
    git(repository, "add", "linked")
    found = revision.extract(".", tmp_path / "files")
    assert (found.folder / "linked").is_symlink()
    assert (found.folder / "linked" / "new.py").read_text() == "NEW = 1\n"


def test_names_of_members_come_before_revisions(repository):
    git(repository, "branch", "cached")
    assert Side.of("cached", (), "").changes == {"engine": "cached"}
    assert Side.of("refs/heads/cached", (), "").revision == "refs/heads/cached"
    assert Side.of("gpt2-nano", (), "").changes == {"model": "gpt2-nano"}
    assert Side.of("my_gpt:build", (), "").changes == {"model": "my_gpt:build"}
    assert Side.of("HEAD", ["compile-mode=default", "threads=2"], "").changes == {"compile_mode": "default", "threads": 2}


@pytest.mark.parametrize(
    ("text", "arguments", "python", "message"),
    [
        ("nothing", (), "", "unknown side 'nothing' (no git revision here, engine or model)"),
        ("HEAD", ["speed=1"], "", "unknown field 'speed'"),
        ("HEAD", ["engine"], "", "'engine' is not FIELD=VALUE"),
        ("HEAD", ["engine=cahced"], "", "unknown engine 'cahced'; did you mean 'cached'?"),
        ("HEAD", ["threads=two"], "", "'two' is not a whole number"),
        ("HEAD", ["batch_size=2"], "", "unknown field 'batch_size'"),
        ("HEAD", ["threads=0"], "", "threads 0 is below 1"),
        ("HEAD", ["threads=1-4*2"], "", "threads=1-4*2 has several values"),
        ("HEAD", ["threads=" + "9" * 5000], "", "is above 1,000,000"),
        ("HEAD", ["dtype=auto"], "", "'dtype=auto' does not say which dtype"),
        ("HEAD", (), "/nowhere/python", "'/nowhere/python' is no program"),
    ],
)
def test_what_names_no_side_is_one_line(repository, text, arguments, python, message):
    with pytest.raises(UserError) as caught:
        Side.of(text, arguments, python)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

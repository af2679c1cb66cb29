"""The user's code at a revision of a git repository, as files in a temporary folder. The repository itself is only read.

A `git worktree` would leave an entry in the repository where we are killed, and a checkout would touch the user's files. So the
files are written through an index of our own.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nanobench.errors import UserError

WORKING_TREE = "."
"""The files as they are now: tracked ones, and untracked ones that git does not ignore."""


@dataclass(frozen=True)
class Revision:
    """One state of a repository's files."""

    name: str
    """as it was written"""
    commit: str
    dirty: bool
    """whether files differ from the commit"""
    folder: Path
    """where the files are"""
    prefix: str
    """the current folder below the top of the repository"""
    top: Path
    """the top of the repository"""

    @property
    def search_path(self) -> list[str]:
        """Folders that go before all others in the search for modules: those that the user's own search has too."""
        here = self.folder / self.prefix
        folders = [here, here / "src", self.folder, self.folder / "src"]
        return list(dict.fromkeys(str(each) for each in folders if each.is_dir()))

    def __str__(self) -> str:
        changes = " with uncommitted changes" if self.dirty else ""
        return f"{self.name} ({self.commit[:10]}{changes})"


def is_revision(text: str) -> bool:
    """Whether a text names a commit of the repository of the current folder, or its working tree."""
    return text == WORKING_TREE or git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}") is not None


def extract(text: str, folder: Path) -> Revision:
    """Writes the files of a revision into a folder that does not exist yet.

    Raises UserError outside a repository, for a revision that does not exist, and where files cannot be written.
    """
    top = git("rev-parse", "--show-toplevel")
    if top is None:
        raise UserError(
            f"{text!r} names a git revision, but {Path.cwd()} is in no git repository; start in the model's repository"
        )
    commit = git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{'HEAD' if text == WORKING_TREE else text}^{{commit}}"
    )
    if commit is None:
        raise UserError(f"unknown revision {text!r}; give a branch, a tag, a commit, or . for the files as they are now")
    folder.mkdir(parents=True)
    if text == WORKING_TREE:
        copy_working_tree(Path(top), folder)
    else:
        write_commit(Path(top), commit, folder)
    dirty = text == WORKING_TREE and bool(git("status", "--porcelain", "--untracked-files=normal"))
    return Revision(text, commit, dirty, folder, git("rev-parse", "--show-prefix") or "", Path(top))


def copy_working_tree(top: Path, folder: Path) -> None:
    """Copies the tracked and untracked files as they are now, without those that git ignores."""
    listed = git("-C", str(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    for name in dict.fromkeys(filter(None, listed.split("\0"))):
        source, target = top / name, folder / name
        if (source.is_dir() and not source.is_symlink()) or not (source.exists() or source.is_symlink()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def write_commit(top: Path, commit: str, folder: Path) -> None:
    """Writes the files of a commit through an index of our own, which lies beside the folder."""
    index = folder.with_name(f"{folder.name}.index")
    own = {"GIT_INDEX_FILE": str(index)}
    for arguments in (("read-tree", commit), ("checkout-index", "--all", f"--prefix={folder}/")):
        done = run(("-C", str(top), *arguments), own)
        if done.returncode:
            raise UserError(f"revision {commit[:10]} cannot be written: {' '.join(done.stderr.split())}")
    index.unlink(missing_ok=True)


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = run(arguments, {})
    except OSError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def run(arguments: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One git command, which takes no lock that it does not need and asks nothing."""
    own = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", **environment}
    return subprocess.run(["git", *arguments], capture_output=True, text=True, env=own, errors="surrogateescape")
